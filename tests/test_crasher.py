"""A provider that everybody has, and a call that kills it: SoftHSM, given an attribute of a wild length."""

import ctypes
import os
import signal
import subprocess
import sys

from application import Shim
from cryptoki import ULONG, Library, constant, struct
from life import PATIENCE, TESTS, Host

from p11host.tables import tables
from p11host.throwaway import Token

pytest_plugins = ["life_fixtures"]

#: More than any heap has behind a few bytes; and more than one byte string may have.
WILD, WILDER = 1 << 28, 1 << 40
DIRECTLY = (
    "import sys; sys.path.insert(0, sys.argv[1]); import test_crasher; test_crasher.directly(sys.argv[2])"
)


def create(library: Library, session: int, length: int) -> int:
    """Create an object whose value is said to be so long; return the CK_RV."""
    value = ctypes.create_string_buffer(b"value")
    kind, private = ULONG(constant("CKO_DATA")), ctypes.c_ubyte(0)
    template = (struct("CK_ATTRIBUTE") * 3)()
    given = {"CKA_CLASS": (kind, 8), "CKA_PRIVATE": (private, 1), "CKA_VALUE": (value, length)}
    for item, (name, (at, size)) in zip(template, given.items(), strict=True):
        item.type, item.pValue, item.ulValueLen = constant(name), ctypes.addressof(at), size
    return library.call("C_CreateObject", session, template, len(given), ctypes.byref(ULONG()))


def directly(provider: str) -> None:
    """Create a sound object, then one of a wild length, with nothing in between."""
    library = Library(provider)
    slots, count, session = (ULONG * 8)(), ULONG(8), ULONG()
    assert library.call("C_Initialize", None) == 0
    assert library.call("C_GetSlotList", 1, slots, ctypes.byref(count)) == 0
    assert library.call("C_OpenSession", slots[0], 6, None, None, ctypes.byref(session)) == 0
    assert create(library, session.value, 5) == 0
    print("about to die", flush=True)
    create(library, session.value, WILD)
    print("alive", flush=True)


def test_it_dies_directly(token: Token) -> None:
    """Whoever has loaded SoftHSM itself dies of the call."""
    command = [sys.executable, "-c", DIRECTLY, str(TESTS), str(token.provider)]
    env = os.environ | dict(token.env)
    done = subprocess.run(command, check=False, env=env, capture_output=True, text=True, timeout=PATIENCE)

    assert (-signal.SIGSEGV, "about to die\n") == (done.returncode, done.stdout)


def test_it_lives_with_us(soft: Host) -> None:
    """Through p11host the same call is refused, and the session it was made with goes on."""
    bad = "CKR_ARGUMENTS_BAD"

    assert ["CKR_OK", bad, bad, "CKR_OK", "CKR_OK"] == soft.play(go_on)


def go_on() -> list[str]:
    """Make the call with lengths that are right and wild, then use the session."""
    shim = Shim()
    session = shim.begin()
    rvs = [name_of(create(shim, session, length)) for length in (5, WILD, WILDER, 5)]
    return [*rvs, shim.use(session)]


def name_of(rv: int) -> str:
    """Return the name of a CK_RV."""
    known = tables().constant("ckr", rv)
    return known.name if known else hex(rv)
