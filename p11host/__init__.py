"""p11host: PKCS#11 providers in processes of their own, behind one library.

    import p11host

    library = p11host.lib()
    token = library.get_token(token_label="mine")

Knows where its own shim and helper are. Importing it costs nothing: whatever is heavy is imported when it is
used.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from p11host.errors import P11HostError

if TYPE_CHECKING:
    from pkcs11 import _pkcs11

    from p11host.cards.codes import CardError

__all__ = [
    "P11HostError",
    "__version__",
    "card_errors",
    "conf_path",
    "helper_path",
    "lib",
    "narrow_helper_path",
    "shim_path",
]

__version__ = "0.1.0"


def shim_path() -> Path:
    """Return the library an application loads. `$P11HOST_SHIM` names another, for development."""
    return _installed("p11host.so", "P11HOST_SHIM")


def helper_path() -> Path:
    """Return the program that runs one provider. `$P11HOST_HELPER` names another, for development."""
    return _installed("p11host-helper", "P11HOST_HELPER")


def narrow_helper_path() -> Path:
    """Return the program that runs one provider of 32 bits, which is built where the compiler can.

    `$P11HOST_HELPER32` names another, for development.
    """
    return _installed("p11host-helper32", "P11HOST_HELPER32")


def conf_path() -> Path:
    """Return the directory of the sample files: in the package, or at the root of the source."""
    package = Path(__file__).resolve().parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def lib(config: str | os.PathLike[str] | None = None) -> _pkcs11.lib:
    """Return python-pkcs11's `lib` on the shim, initialised: the slots of all modules, merged.

    The broker of this user serves it, and is started where none runs. With `config`, the path of a file, a
    broker of this process's own serves it; that broker ends with this process and the children that it
    forks, and there is one `config` in a process's life. A slot that its module fails to describe is there
    and has the error for a description. Raises P11HostError for what is ours, and `pkcs11.PKCS11Error` for
    what the modules say.
    """
    import pkcs11  # noqa: PLC0415

    from p11host.slot_errors import want  # noqa: PLC0415

    shim = shim_path()
    want()
    if config is not None:
        from p11host.start import become_private  # noqa: PLC0415

        become_private(Path(config))
    return pkcs11.lib(str(shim))


def card_errors() -> list[CardError]:
    """Return what PC/SC says keeps programs from readers and cards, as the broker of this process sees it.

    Each is an error of a class of its own, with PC/SC's `name`, its number `code` and the reader, `where`: a
    `SharingError` of a card that another program has for itself. There are none where no module reaches
    PC/SC. Raises P11HostError.
    """
    from p11host.cards.trouble import ask  # noqa: PLC0415
    from p11host.start import open_door  # noqa: PLC0415

    with open_door(start=True) as door, door.open("p11host") as channel:
        return ask(channel)


def _installed(name: str, variable: str) -> Path:
    """Return a file that the build puts beside this package's modules, or the one `variable` names."""
    named = os.environ.get(variable)
    path = Path(named).absolute() if named else Path(__file__).resolve().parent / name
    if not path.is_file():
        remedy = f"correct {variable}" if named else f"build p11host, or set {variable}"
        raise P11HostError(f"{path}: no such file; {remedy}")
    return path
