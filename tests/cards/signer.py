"""An application in python-pkcs11 that waits for a card, signs with it, and notices when it has gone.

    python signer.py

prints a line for each thing that happens: "ready", "signed", then what python-pkcs11 says of the next
signature once the card is out, and so on until its input ends.
"""

import contextlib
import sys
import threading
from typing import Any, cast

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

import p11host

PIN = "123456"


def token_of(slots: list[pkcs11.Slot]) -> pkcs11.Token | None:
    """Return the token that is there, if one is."""
    for slot in slots:
        try:
            return slot.get_token()
        except pkcs11.PKCS11Error:
            continue
    return None


def wait(library: Any) -> None:
    """Wait for an event; python-pkcs11 0.10 has it, and then fails to make a Slot of it."""
    with contextlib.suppress(TypeError):
        library.wait_for_slot_event()


def main() -> None:
    """Go from card to card."""
    library = p11host.lib()
    say("ready")
    while True:
        if (token := token_of(library.get_slots())) is None:
            wait(library)
            continue
        session = token.open(user_pin=PIN)
        template = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.KEY_TYPE: KeyType.RSA}
        (found,) = session.get_objects(template)
        key = cast("Any", found)
        assert key.sign(b"data", mechanism=Mechanism.SHA256_RSA_PKCS)
        say("signed")
        while token_of(library.get_slots()) is not None:
            wait(library)
        try:
            key.sign(b"data", mechanism=Mechanism.SHA256_RSA_PKCS)
        except pkcs11.PKCS11Error as error:
            say(type(error).__name__)


def say(word: str) -> None:
    """Print a line at once."""
    print(word, flush=True)


if __name__ == "__main__":
    threading.Thread(target=main, daemon=True).start()
    sys.stdin.read()
