"""What can be seen of a provider's file without loading it: whose it is, its mode, its symbols.

Knows stat and ELF. Whether the file is fit to be used is provider.py's to say.
"""

import stat
from dataclasses import dataclass
from pathlib import Path

from p11host.trust import group_name, owner_name

ENTRIES = ("C_GetFunctionList", "C_GetInterface", "C_GetInterfaceList")


@dataclass(frozen=True, slots=True)
class Facts:
    """`entries` are those an application may begin with; `functions` and `others` count all else."""

    owner: str
    group: str
    mode: str
    entries: tuple[str, ...]
    functions: int
    others: int

    def __str__(self) -> str:
        more = [f"{self.functions} other C_*"] if self.functions else []
        more += [f"{self.others} that are not Cryptoki's"] if self.others else []
        symbols = ", ".join([*self.entries, *more])
        return f"owner {self.owner}:{self.group}, mode {self.mode}, symbols {symbols}"


def facts(path: Path) -> Facts | None:
    """Return what there is to see of a provider's file, None if it cannot be looked at."""
    try:
        found = path.stat()
        symbols = _symbols(path)
    # The file is somebody else's bytes and the library's errors on broken ones are of every kind.
    except Exception:  # noqa: BLE001
        return None
    others = [name for name in symbols if name not in ENTRIES]
    functions = sum(name.startswith("C_") for name in others)
    return Facts(
        owner_name(found.st_uid),
        group_name(found.st_gid),
        f"{stat.S_IMODE(found.st_mode):04o}",
        tuple(name for name in ENTRIES if name in symbols),
        functions,
        len(others) - functions,
    )


def _symbols(path: Path) -> set[str]:
    """Return the names that a library defines for others."""
    from elftools.elf.dynamic import DynamicSegment  # noqa: PLC0415 (70 ms, for those who look)
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415

    with path.open("rb") as file:
        for segment in ELFFile(file).iter_segments():
            if isinstance(segment, DynamicSegment):
                return {symbol.name for symbol in segment.iter_symbols() if _is_exported(symbol)}
    return set()


def _is_exported(symbol: object) -> bool:
    entry = symbol.entry  # type: ignore[attr-defined]  # pyelftools has no types
    named = bool(symbol.name)  # type: ignore[attr-defined]
    return named and entry["st_info"]["bind"] != "STB_LOCAL" and entry["st_shndx"] != "SHN_UNDEF"
