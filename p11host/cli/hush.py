"""What python-pkcs11 prints by itself when it drops a search that has failed: of no use to anybody.

Its destructor ends such a search and tells by a traceback, twice, that this fails too. Knows Python's hooks.
"""

import sys
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs


def hush() -> None:
    """Have nothing printed of it in this process, whose own errors are all caught and told in a line."""
    sys.excepthook = _tell
    sys.unraisablehook = _tell_of_destructor


def _tell(kind: type[BaseException], error: BaseException, at: TracebackType | None) -> None:
    if not _is_of_provider(kind):
        sys.__excepthook__(kind, error, at)


def _tell_of_destructor(said: "UnraisableHookArgs") -> None:
    if not _is_of_provider(said.exc_type):
        sys.__unraisablehook__(said)


def _is_of_provider(kind: type[BaseException]) -> bool:
    from pkcs11 import PKCS11Error  # noqa: PLC0415 (it is there already where this can be)

    return issubclass(kind, PKCS11Error)
