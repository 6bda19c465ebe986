"""p11host.so(7): the library that programs load.

Knows what is promised to a program and to whoever sets up its environment; nothing of the command line.
"""

from collections.abc import Iterator

from p11host.manual.roff import heading, literal, page, paragraph, tagged
from p11host.paths import SYSTEM_SOCKET

SHORT = "a PKCS#11 library whose providers run in processes of their own"
#: What the library reads of a program's environment.
ENVIRONMENT = {
    "P11HOST_SOCKET": "An absolute path: the broker's socket, instead of those below FILES.",
    "P11HOST_NO_START": "Where it is set, no broker is started.",
    "P11HOST_COMMAND": "The program that is started as the broker, instead of the one it was built with.",
    "P11HOST_MODULE": "The one module that is seen; `p11host-NAME.so`, a link to the library, does the same.",
    "P11HOST_SLOT_ERRORS": "Where it is set, a slot of which C_GetSlotInfo fails has the error for a "
    "description, also where one module is seen alone; among several it always has.",
    "P11HOST_LOG": "Where it is set, the library says on standard error what goes wrong, in a line each.",
    "P11HOST_FORK_DETECTION": "`pid`: a child after fork() is told by its process id, not by its memory.",
    "XDG_RUNTIME_DIR": "The directory below which the user's broker listens.",
}
_FILES = {
    "$XDG_RUNTIME_DIR/p11host/broker.sock": "The user's broker; without that variable below /run/user/UID.",
    str(SYSTEM_SOCKET): "The system's broker, for root and for users without one of their own.",
    "/tmp/p11host-UID/broker.sock": "The user's broker where there is no /run/user/UID.",  # noqa: S108
}
_DESCRIPTION = """
`p11host.so` is a PKCS#11 library like any other: a program loads it in the place of a vendor's. The slots of
all modules of the configuration appear in it, and each provider runs in a helper, a process of its own, for
this program alone. A provider that crashes or hangs is an error code to the program, and no more.

The library starts no thread, handles no signal, and leaves no child to be waited for. Every wait in it ends,
but that of C_WaitForSlotEvent where the program asks for it. It writes nothing, unless `P11HOST_LOG` is set.
"""
_FORK = """
Nothing runs at fork(). A child that calls a function gets helpers of its own, logged out, without
C_Initialize. Where its module has `fork = "inherit"` it goes on with its parent's, and with `fork = "strict"`
it is answered CKR_CRYPTOKI_NOT_INITIALIZED until it calls C_Initialize.
"""
_SECURE = "None of these counts in a program that gained privileges when it was started (AT_SECURE)."


def pages() -> Iterator[tuple[str, str]]:
    """Yield p11host.so(7)."""
    body = [
        heading("SYNOPSIS"),
        literal('pkcs11-tool --module "$(p11host path)" -L'),
        heading("DESCRIPTION"),
        *map(paragraph, _DESCRIPTION.strip().split("\n\n")),
        heading("FORK"),
        paragraph(_FORK),
        heading("ENVIRONMENT"),
        *(tagged(name, said) for name, said in ENVIRONMENT.items()),
        paragraph(_SECURE),
        heading("FILES"),
        *(tagged(name, said) for name, said in _FILES.items()),
        heading("SEE ALSO"),
        paragraph("p11host(1), p11host.toml(5)"),
    ]
    yield "p11host.so.7", page("p11host.so", 7, SHORT, body)
