"""ELF libraries of a few hundred bytes, right or wrong in one point, for tests that load nothing."""

import struct
import sys
from dataclasses import dataclass
from pathlib import Path

_MACHINE = struct.unpack_from("<H", Path(sys.executable).read_bytes()[:20], 18)[0]
_ET_DYN, _PT_LOAD, _PT_DYNAMIC = 3, 1, 2
_DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ, _DT_SYMENT = 4, 5, 6, 10, 11
_EHDR, _PHDR, _SYM, _DYN = 64, 56, 24, 16
_GLOBAL_FUNC = 0x12


@dataclass(frozen=True, slots=True)
class Library:
    """A 64-bit little-endian library with one dynamic symbol."""

    symbol: str = "C_GetFunctionList"
    defined: bool = True
    machine: int = _MACHINE
    type: int = _ET_DYN

    def write(self, path: Path) -> Path:
        """Write it to `path`."""
        path.write_bytes(self.content())
        return path

    def content(self) -> bytes:
        """Return it: headers, string table, symbols, their hash table, dynamic section."""
        strings = b"\0" + self.symbol.encode() + b"\0"
        strtab = _EHDR + 2 * _PHDR
        symtab = (strtab + len(strings) + 7) & ~7
        table = symtab + 2 * _SYM
        dynamic = table + 24
        pad = b"\0" * (symtab - strtab - len(strings))
        symbol = struct.pack("<IBBHQQ", 1, _GLOBAL_FUNC, 0, 1 if self.defined else 0, 0x1000, 16)
        hashes = struct.pack("<5I4x", 1, 2, 1, 0, 0)
        tags = [(_DT_HASH, table), (_DT_STRTAB, strtab), (_DT_SYMTAB, symtab), (_DT_STRSZ, len(strings))]
        tags += [(_DT_SYMENT, _SYM), (0, 0)]
        section = b"".join(struct.pack("<QQ", *tag) for tag in tags)
        end = dynamic + len(section)
        return b"".join(
            [self._header(), _segments(end, dynamic), strings, pad, bytes(_SYM), symbol, hashes, section]
        )

    def _header(self) -> bytes:
        ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
        return ident + struct.pack(
            "<HHIQQQIHHHHHH", self.type, self.machine, 1, 0, _EHDR, 0, 0, _EHDR, _PHDR, 2, 0, 0, 0
        )


def _segments(end: int, dynamic: int) -> bytes:
    load = struct.pack("<IIQQQQQQ", _PT_LOAD, 5, 0, 0, 0, end, end, 0x1000)
    return load + struct.pack(
        "<IIQQQQQQ", _PT_DYNAMIC, 6, dynamic, dynamic, dynamic, end - dynamic, end - dynamic, 8
    )
