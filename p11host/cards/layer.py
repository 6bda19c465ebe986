"""PC/SC itself, by pyscard: the few calls that watching takes, their errors in classes.

Knows pyscard and what it cannot do. Must not know what is made of what a look shows.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from p11host.cards import bytewise
from p11host.cards.codes import NO_PYSCARD, CardError, NoServiceError, error_of
from p11host.cards.reach import VARIABLE

#: The name under which PC/SC tells that a reader came or went.
NOTIFICATION = "\\\\?PnP?\\Notification"
_OK, _TIMEOUT, _NO_READERS = 0, 0x8010000A, 0x8010002E
_COMM_ERROR, _INVALID_PARAMETER, _NO_ACCESS = 0x80100013, 0x80100004, 0x80100027
_SYSTEM = 2  # SCARD_SCOPE_SYSTEM
_SHARED, _T0_OR_T1, _LEAVE = 2, 3, 0  # SCARD_SHARE_SHARED, both protocols, SCARD_LEAVE_CARD

#: A reader's name and state, and its card's ATR.
Look = tuple[str, int, bytes]


class Layer(Protocol):
    """What a watcher needs of PC/SC. All of it may raise CardError. Names may hold any bytes but NUL."""

    def establish(self) -> int:
        """Return a new context."""

    def release(self, context: int) -> None:
        """End a context."""

    def names(self, context: int) -> list[str]:
        """Return the names of all readers."""

    def wait(self, context: int, seconds: float, known: Sequence[tuple[str, int]]) -> list[Look]:
        """Return the states of readers once one of them is another than is known, or after some time."""

    def cancel(self, context: int) -> None:
        """End the wait that runs in that context. May be called by another thread."""


class Pyscard:
    """PC/SC by pyscard, pcscd's socket at `place`. CardError where pyscard is not installed."""

    def __init__(self, place: str) -> None:
        # libpcsclite looks there, once. Helpers have an environment of their own.
        os.environ[VARIABLE] = self._place = place
        try:
            import smartcard.scard  # noqa: PLC0415 (20 ms, and not everywhere)
        except ImportError as error:
            raise error_of(NO_PYSCARD) from error
        self._scard: Any = smartcard.scard
        # What it reports in the place of a status, and where its C is at odds with Python.
        self._faults = (self._scard.error, SystemError, UnicodeError, TypeError)

    def establish(self) -> int:
        """Return a new context. libpcsclite does not tell a socket that is not for us from none."""
        try:
            return int(self._call("SCardEstablishContext", _SYSTEM)[0])
        except NoServiceError as error:
            if _is_refused(self._place):
                raise error_of(_NO_ACCESS) from error
            raise

    def release(self, context: int) -> None:
        """End a context."""
        self._call("SCardReleaseContext", context)

    def names(self, context: int) -> list[str]:
        """Return the names of all readers. pyscard has none where one of them is not UTF-8."""
        try:
            return list(self._call("SCardListReaders", context, [], empty=_NO_READERS)[0])
        except _UnfitError:
            return bytewise.names(context)

    def try_card(self, context: int, name: str) -> None:
        """Connect to a card as one of several, and leave it as it is; CardError says what is in the way."""
        if not name.isascii():
            bytewise.try_card(context, name, _SHARED, _T0_OR_T1, _LEAVE)
            return
        card = self._call("SCardConnect", context, name, _SHARED, _T0_OR_T1)[0]
        self._call("SCardDisconnect", card, _LEAVE)

    def wait(self, context: int, seconds: float, known: Sequence[tuple[str, int]]) -> list[Look]:
        """Return the states of readers, as it is described above."""
        try:
            return self._wait(context, seconds, known)
        except CardError as error:
            if error.code != _INVALID_PARAMETER or len(known) <= 1:
                raise
        # pcsc-lite takes as many as it has places for readers. All of them are taken: none is left to come.
        return self._wait(context, seconds, [each for each in known if each[0] != NOTIFICATION])

    def _wait(self, context: int, seconds: float, known: Sequence[tuple[str, int]]) -> list[Look]:
        timeout = max(0, round(seconds * 1000))
        if not all(name.isascii() for name, _ in known):
            return bytewise.wait(context, timeout, known)
        looks = self._call("SCardGetStatusChange", context, timeout, list(known), empty=_TIMEOUT)[0]
        return [(name, state, bytes(atr)) for name, state, atr in looks]

    def cancel(self, context: int) -> None:
        """End the wait that runs in that context."""
        self._call("SCardCancel", context)

    def _call(self, function: str, *arguments: Any, empty: int = _OK) -> Sequence[Any]:
        """Return what a function gives besides its status; that of `empty` is as good as none."""
        try:
            answer = getattr(self._scard, function)(*arguments)
        except self._faults as error:
            raise _UnfitError(_COMM_ERROR, f"{function}: {error}") from error
        code, *rest = answer if isinstance(answer, list) else [answer]
        if code & 0xFFFFFFFF not in (_OK, empty):
            raise error_of(code)
        return rest


class _UnfitError(CardError):
    """What PC/SC says does not go through pyscard."""


def _is_refused(path: str) -> bool:
    """Tell whether something is there that this user may not have."""
    try:
        Path(path).stat()
    except OSError as error:
        return isinstance(error, PermissionError)
    return not os.access(path, os.W_OK)
