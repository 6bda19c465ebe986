"""What a card is, as far as its answer to reset tells: nothing is asked of the card itself.

Knows ISO 7816-3's shape of an ATR, storage cards of PC/SC part 3, and pcsc-tools' list where that is
installed.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

#: pcsc-tools' list of known cards: a pattern in hexadecimal, then lines that begin with a tab.
LIST = Path("/usr/share/pcsc/smartcard_list.txt")
_READABLE = re.compile(rb"[A-Za-z0-9][A-Za-z0-9 ._/+-]{3,}")
#: PC/SC part 3, supplemental document: the names of storage cards without contacts.
_STORAGE = bytes.fromhex("a000000306")
_STORED: Mapping[int, str] = {
    0x0001: "MIFARE Classic 1K",
    0x0002: "MIFARE Classic 4K",
    0x0003: "MIFARE Ultralight",
    0x0026: "MIFARE Mini",
    0x003A: "MIFARE Ultralight C",
    0xFF40: "FeliCa",
}
#: Of compact TLV in historical bytes: what an issuer writes there as it likes.
_FREE_TAGS = (5, 6)
_TLV = (0x00, 0x80)
_T0_COUNT, _TD = 0x0F, 0x80


def described(atr: bytes) -> str:
    """Return what a card with that answer is, "" if that cannot be known without asking it."""
    return _listed(atr) or _by_history(historical(atr)) or ""


def historical(atr: bytes) -> bytes:
    """Return the historical bytes of an answer to reset; none where it is cut off."""
    if len(atr) < 2:
        return b""
    count, interface, at = atr[1] & _T0_COUNT, atr[1] & 0xF0, 2
    while interface:
        present = interface.bit_count()
        last = at + present - 1
        if not interface & _TD:
            at = last + 1
            break
        if last >= len(atr):
            return b""
        interface, at = atr[last] & 0xF0, last + 1
    return atr[at : at + count]


def _by_history(data: bytes) -> str | None:
    """Return what historical bytes say: a storage card, or some text."""
    if (place := data.find(_STORAGE)) >= 0:
        number = int.from_bytes(data[place + 6 : place + 8], "big")
        return _STORED.get(number, "storage card without contacts")
    parts = _free(data) if data[:1] and data[0] in _TLV else [data]
    found = next((match for part in parts if (match := _READABLE.search(part))), None)
    return found[0].decode().strip() if found else None


def _free(data: bytes) -> Iterator[bytes]:
    """Yield what an issuer wrote into historical bytes in ISO 7816-4's compact TLV."""
    at = 1
    while at < len(data):
        tag, size = data[at] >> 4, data[at] & 0x0F
        if tag in _FREE_TAGS:
            yield data[at + 1 : at + 1 + size]
        at += 1 + size


def _listed(atr: bytes) -> str | None:
    text = " ".join(f"{byte:02X}" for byte in atr)
    return next((name for pattern, name in _list() if pattern.fullmatch(text)), None) if atr else None


@cache
def _list() -> tuple[tuple[re.Pattern[str], str], ...]:
    """Return pcsc-tools' list, empty where it is not installed. Its patterns are regular expressions."""
    try:
        lines = LIST.read_text(errors="replace").splitlines()
    except OSError:
        return ()
    return tuple(_entries(lines))


def _entries(lines: list[str]) -> Iterator[tuple[re.Pattern[str], str]]:
    """Yield each pattern with the first line about it."""
    pattern = None
    for line in lines:
        if line.startswith("\t") and pattern is not None:
            yield pattern, line.strip()
            pattern = None
        elif line and not line.startswith(("\t", "#")):
            try:
                pattern = re.compile(line.strip(), re.IGNORECASE)
            except re.error:
                pattern = None
