"""What a module's refusal means, in words that say what to do.

Knows the names of return values. Must not know who asked for what.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pkcs11

from p11host.errors import P11HostError
from p11host.slot_errors import slot_error

_HINTS: Mapping[str, str] = {
    "CKR_ATTRIBUTE_SENSITIVE": "the token does not give it up",
    "CKR_ATTRIBUTE_READ_ONLY": "the token does not let it be changed",
    "CKR_DEVICE_ERROR": "the device failed, or is another program's; see: p11host doctor",
    "CKR_DEVICE_REMOVED": "the card is gone, or its helper has ended; see: p11host status",
    "CKR_DEVICE_MEMORY": "the token is full; delete something with: p11host delete",
    "CKR_FUNCTION_NOT_SUPPORTED": "the module cannot do that",
    "CKR_KEY_FUNCTION_NOT_PERMITTED": "the key is not for that use",
    "CKR_KEY_SIZE_RANGE": "the token has no keys of that size; p11host show lists its mechanisms",
    "CKR_MECHANISM_INVALID": "the token cannot do that; p11host show lists its mechanisms",
    "CKR_RANDOM_NO_RNG": "the token makes no random bytes",
    "CKR_SESSION_EXISTS": "an application has a session on the token; end it first",
    "CKR_TEMPLATE_INCONSISTENT": "the token does not take such an object",
    "CKR_TOKEN_WRITE_PROTECTED": "the token is write-protected",
    "CKR_USER_NOT_LOGGED_IN": "add --login",
}


@contextmanager
def telling(what: str = "") -> Iterator[None]:
    """Turn what python-pkcs11 raises into a P11HostError of one line that begins with `what`."""
    try:
        yield
    except pkcs11.PKCS11Error as error:
        raise P11HostError(f"{what}: {explain(error)}" if what else explain(error)) from error


def explain(error: pkcs11.PKCS11Error) -> str:
    """Return the name of the return value behind an error, and what to do about it if that is known."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).upper()
    text = str(error)
    if type(error) is pkcs11.PKCS11Error:
        return text or "failed, and nothing is known of why"
    return hinted(f"CKR_{words}") + (f" ({text})" if text else "")


def slot_failure(slot: pkcs11.Slot) -> str | None:
    """Return why a slot cannot be told of, with what to do; None where it is as any other."""
    error = slot_error(slot.manufacturer_id, slot.slot_description)
    return None if error is None else hinted(error)


def hinted(ckr: str) -> str:
    """Return the name of a return value with what to do about it."""
    return f"{ckr}: {_HINTS[ckr]}" if ckr in _HINTS else ckr
