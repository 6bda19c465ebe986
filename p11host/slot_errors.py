"""Slots that cannot be described, as the shim tells of them: with an error in the place of a description.

Knows the words of `describe` in shim/merge.c. Must not know where a slot was seen.
"""

import os
import re

#: Set where also the slots of one module alone are to be told like that, before the shim is initialised.
VARIABLE = "P11HOST_SLOT_ERRORS"
_MAKER = "p11host"
_WORDS = re.compile(
    r"(?P<module>.+?)(?:: (?P<error>CKR_\w+|CK_RV 0x[0-9a-f]+)| (?P<silence>does not answer))"
)


def want() -> None:
    """Have the shim in this process, and in its children, tell of such slots whatever there is beside them.

    Without it a program that looks at all slots first, as python-pkcs11 does, has none where one fails.
    """
    os.environ.setdefault(VARIABLE, "1")


def slot_error(maker: str, description: str) -> str | None:
    """Return what is wrong with a slot of that manufacturer and description, None if it is described."""
    found = _WORDS.fullmatch(description) if maker == _MAKER else None
    return None if found is None else found["error"] or found["silence"]


def module_of(description: str) -> str | None:
    """Return whose slot it is that cannot be described, None if these words are no such description."""
    found = _WORDS.fullmatch(description)
    return None if found is None else found["module"]
