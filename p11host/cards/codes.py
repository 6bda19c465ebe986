"""What PC/SC says went wrong: a class for each kind, the code's own name, and what to do.

Knows the codes of PC/SC. Must not know what was being done, nor any code of Cryptoki: the two never mix.
"""

from collections.abc import Mapping

from p11host.errors import P11HostError

_START = "install and start pcscd: apt-get install pcscd; systemctl enable --now pcscd.socket"


class CardError(P11HostError):
    """An error of PC/SC: its number `code`, PC/SC's `name` of that, in words `said`, and what helps, `do`.

    `where` is the reader it is about, "" if it is about all of them, or nobody said.
    """

    said = "PC/SC failed"
    do = "see what pcscd logs: journalctl -u pcscd"

    def __init__(self, code: int, where: str = "") -> None:
        self.code = code & 0xFFFFFFFF
        self.name = NAMES.get(self.code, f"SCARD {self.code:#010x}")
        self.where = where
        super().__init__(f"{self.brief}; {self.do}")

    @property
    def brief(self) -> str:
        """The error in words and by its name, without what helps."""
        about = f"{self.where}: " if self.where else ""
        return f"{about}{self.said} ({self.name})"


class NoServiceError(CardError):
    """Nobody answers for PC/SC: pcscd does not run, or has just ended."""

    said = "pcscd does not run"
    do = _START


class AccessError(CardError):
    """This user may not have readers or cards."""

    said = "pcscd does not let this user have its readers"
    do = "see polkit's rules for org.debian.pcsc-lite.access_pcsc and access_card, or the mode of its socket"


class NoReaderError(CardError):
    """The reader is not there, or no longer."""

    said = "the reader is not there"
    do = "plug the reader in, and see whether its driver is installed (apt-get install libccid)"


class NoCardError(CardError):
    """There is no card in the reader."""

    said = "there is no card in the reader"
    do = "insert the card"


class RemovedError(CardError):
    """The card was taken out, or another put in, since it was last used."""

    said = "the card has been removed"
    do = "insert the card and log in again"


class ResetError(CardError):
    """The card has been reset: what it was told before, a PIN for one, it has forgotten."""

    said = "another program has reset the card"
    do = "log in again"


class SharingError(CardError):
    """Another program has the card for itself."""

    said = "another program has the card for itself"
    do = "end that program, or have it share the card"


class MuteError(CardError):
    """The card does not answer, or has no power."""

    said = "the card does not answer"
    do = "take the card out and insert it again, the right way round; clean its contacts"


class ProtocolMismatchError(CardError):
    """Card and program do not speak the same protocol."""

    said = "the card does not speak the protocol it was asked for"
    do = "use a provider that is made for this card"


class DriverError(CardError):
    """The reader is known and its driver does not get an answer from it."""

    said = "the reader's driver has failed"
    do = "unplug the reader and plug it in again; update its driver"


class HungError(CardError):
    """No answer in time: a card, a reader or pcscd hangs."""

    said = "nothing answers: the card, its reader or pcscd hangs"
    do = "unplug the reader and plug it in again; if that does not help: systemctl restart pcscd"


class NoPyscardError(CardError):
    """The Python library by which PC/SC is reached is not installed."""

    said = "pyscard is not installed"
    do = "run: apt-get install libpcsclite-dev gcc, then pip install pyscard"


#: Of no PC/SC, but in the place of one: there is nothing to ask PC/SC with.
NO_PYSCARD = 0

NAMES: Mapping[int, str] = {
    NO_PYSCARD: "no pyscard",
    0x80100001: "SCARD_F_INTERNAL_ERROR",
    0x80100002: "SCARD_E_CANCELLED",
    0x80100003: "SCARD_E_INVALID_HANDLE",
    0x80100004: "SCARD_E_INVALID_PARAMETER",
    0x80100005: "SCARD_E_INVALID_TARGET",
    0x80100006: "SCARD_E_NO_MEMORY",
    0x80100007: "SCARD_F_WAITED_TOO_LONG",
    0x80100008: "SCARD_E_INSUFFICIENT_BUFFER",
    0x80100009: "SCARD_E_UNKNOWN_READER",
    0x8010000A: "SCARD_E_TIMEOUT",
    0x8010000B: "SCARD_E_SHARING_VIOLATION",
    0x8010000C: "SCARD_E_NO_SMARTCARD",
    0x8010000D: "SCARD_E_UNKNOWN_CARD",
    0x8010000E: "SCARD_E_CANT_DISPOSE",
    0x8010000F: "SCARD_E_PROTO_MISMATCH",
    0x80100010: "SCARD_E_NOT_READY",
    0x80100011: "SCARD_E_INVALID_VALUE",
    0x80100012: "SCARD_E_SYSTEM_CANCELLED",
    0x80100013: "SCARD_F_COMM_ERROR",
    0x80100014: "SCARD_F_UNKNOWN_ERROR",
    0x80100015: "SCARD_E_INVALID_ATR",
    0x80100016: "SCARD_E_NOT_TRANSACTED",
    0x80100017: "SCARD_E_READER_UNAVAILABLE",
    0x80100018: "SCARD_P_SHUTDOWN",
    0x80100019: "SCARD_E_PCI_TOO_SMALL",
    0x8010001A: "SCARD_E_READER_UNSUPPORTED",
    0x8010001B: "SCARD_E_DUPLICATE_READER",
    0x8010001C: "SCARD_E_CARD_UNSUPPORTED",
    0x8010001D: "SCARD_E_NO_SERVICE",
    0x8010001E: "SCARD_E_SERVICE_STOPPED",
    0x8010001F: "SCARD_E_UNSUPPORTED_FEATURE",
    0x80100020: "SCARD_E_ICC_INSTALLATION",
    0x80100027: "SCARD_E_NO_ACCESS",
    0x8010002E: "SCARD_E_NO_READERS_AVAILABLE",
    0x80100065: "SCARD_W_UNSUPPORTED_CARD",
    0x80100066: "SCARD_W_UNRESPONSIVE_CARD",
    0x80100067: "SCARD_W_UNPOWERED_CARD",
    0x80100068: "SCARD_W_RESET_CARD",
    0x80100069: "SCARD_W_REMOVED_CARD",
    0x8010006A: "SCARD_W_SECURITY_VIOLATION",
}

CLASSES: Mapping[str, type[CardError]] = {
    "no pyscard": NoPyscardError,
    "SCARD_E_NO_SERVICE": NoServiceError,
    "SCARD_E_SERVICE_STOPPED": NoServiceError,
    "SCARD_E_INVALID_HANDLE": NoServiceError,
    "SCARD_P_SHUTDOWN": NoServiceError,
    "SCARD_F_COMM_ERROR": NoServiceError,
    "SCARD_E_NO_ACCESS": AccessError,
    "SCARD_W_SECURITY_VIOLATION": AccessError,
    "SCARD_E_UNKNOWN_READER": NoReaderError,
    "SCARD_E_NO_READERS_AVAILABLE": NoReaderError,
    "SCARD_E_READER_UNAVAILABLE": DriverError,
    "SCARD_E_NOT_READY": DriverError,
    "SCARD_E_READER_UNSUPPORTED": DriverError,
    "SCARD_E_NO_SMARTCARD": NoCardError,
    "SCARD_W_REMOVED_CARD": RemovedError,
    "SCARD_W_RESET_CARD": ResetError,
    "SCARD_E_SHARING_VIOLATION": SharingError,
    "SCARD_E_PROTO_MISMATCH": ProtocolMismatchError,
    "SCARD_E_TIMEOUT": HungError,
    "SCARD_F_WAITED_TOO_LONG": HungError,
    "SCARD_W_UNRESPONSIVE_CARD": MuteError,
    "SCARD_W_UNPOWERED_CARD": MuteError,
    "SCARD_W_UNSUPPORTED_CARD": MuteError,
}


def error_of(code: int, where: str = "") -> CardError:
    """Return the error that a code of PC/SC is, in its own class."""
    name = NAMES.get(code & 0xFFFFFFFF, "")
    return CLASSES.get(name, CardError)(code, where)


def error_named(name: str, where: str = "") -> CardError:
    """Return the error of that name, as the broker tells of it; what has none is one without a code."""
    code = next((code for code, known in NAMES.items() if known == name), 0x80100014)
    return error_of(code, where)
