"""Is this file a provider? Answered from its bytes, before anything of it runs.

Knows ELF as pyelftools tells it. Never maps the file: a library's constructors run when it is loaded, so
loading is for the helper alone, which checks again for itself.
"""

import os
import stat
import sys
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

from p11host import narrow_helper_path, shim_path
from p11host.errors import P11HostError, ProviderError
from p11host.paths import real
from p11host.trust import distrust

if TYPE_CHECKING:
    from elftools.elf.dynamic import DynamicSegment
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import Symbol

ENTRY = "C_GetFunctionList"
#: Bits of the providers that have a helper of their own, and the machines that run both.
NARROW = 32
_RUNS_BOTH = {("EM_X86_64", 64): ("EM_386", NARROW)}
_DEFINES = {"STT_FUNC", "STT_GNU_IFUNC", "STT_NOTYPE"}


def check(path: Path) -> int:
    """Return how many bits a PKCS#11 library has; ProviderError, saying what to do, if it is none for us."""
    try:
        # A pipe or a device in its place must not make us wait for it.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            _check_kind(file, path)
            _check_trust(path)
            _check_proxy(path)
            return _check_library(file, path)
    except FileNotFoundError as error:
        raise ProviderError(f"{path}: no such file; correct the path, or install the provider") from error
    except OSError as error:
        raise ProviderError(f"{path}: cannot be read: {error.strerror}; check its owner and mode") from error


def proxy(path: Path) -> str | None:
    """Return what it is called if it is no provider but shows those of others, and so ours again."""
    if _is_shim(path):
        return "p11host itself"
    # libp11-kit is a provider too: p11-kit-proxy.so is a link to it.
    return "p11-kit's proxy" if real(path).name.startswith(("libp11-kit.so", "p11-kit-proxy.so")) else None


def _is_shim(path: Path) -> bool:
    try:
        return path.samefile(shim_path())
    except (OSError, P11HostError):
        return real(path).name == "p11host.so"


class CheckedProviders:
    """Remembers which files were found good, for as long as they stay the same files."""

    def __init__(self) -> None:
        self._good: dict[Path, tuple[tuple[int, ...], int]] = {}

    def is_known(self, path: Path) -> bool:
        """Tell whether `path` is as it was when it was found good."""
        return path in self._good and self._good[path][0] == stamp(path) != ()

    def check(self, path: Path) -> None:
        """Do as `check`, once for each state of the file. Reads the file, so not for an event loop."""
        before = stamp(path)
        self._good[path] = before, check(path)

    def bits(self, path: Path) -> int:
        """Return how many bits a file has that was found good."""
        return self._good[path][1]

    def stamp(self, path: Path) -> tuple[int, ...]:
        """Return how a file was when it was found good."""
        return self._good[path][0]


def stamp(path: Path) -> tuple[int, ...]:
    """Return what changes when a file does, () where there is none."""
    try:
        now = path.stat()
    except OSError:
        return ()
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_mode


def _check_kind(file: IO[bytes], path: Path) -> None:
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise ProviderError(f"{path}: not a regular file; name the provider's .so itself")


def _check_trust(path: Path) -> None:
    """Refuse what others can replace: they would run as whoever uses it."""
    fault = distrust(path)
    if fault is not None:
        raise ProviderError(f"{path}: not loaded, for {fault}")


def _check_proxy(path: Path) -> None:
    if whose := proxy(path):
        raise ProviderError(f"{path}: not loaded, for it is {whose}; name a provider")


def _check_library(file: IO[bytes], path: Path) -> int:
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415 (70 ms, for those who check)

    if file.read(4) != b"\x7fELF":
        raise ProviderError(f"{path}: not an ELF library; name the provider's .so itself")
    try:
        elf = ELFFile(file)
        shape = elf.elfclass, elf.little_endian, elf.header["e_machine"], elf.header["e_type"]
        found = _defines_entry(elf)
    # The file is somebody else's bytes and the library's errors on broken ones are of every kind.
    except Exception as error:
        raise ProviderError(
            f"{path}: a damaged ELF file ({type(error).__name__}); install the provider anew"
        ) from error
    _check_machine(path, *shape[:3])
    if shape[3] != "ET_DYN":
        raise ProviderError(f"{path}: an ELF file but no shared library; name the provider's .so itself")
    if not found:
        raise ProviderError(
            f"{path}: not a PKCS#11 library: it does not define {ENTRY}; name the provider's .so itself"
        )
    return int(shape[0])


def _check_machine(path: Path, bits: int, little: bool, machine: str) -> None:  # noqa: FBT001 (ELF's)
    """Refuse what no helper can load: neither the one like this process nor the narrow one, where it is."""
    own_bits, own_little, own_machine = _own_shape()
    if (bits, little, machine) == (own_bits, own_little, own_machine):
        return
    if _RUNS_BOTH.get((own_machine, own_bits)) != (machine, bits):
        raise ProviderError(
            f"{path}: a {bits}-bit library for {_machine(machine)}, while p11host runs as {own_bits}-bit "
            f"{_machine(own_machine)}; install the provider for this machine"
        )
    try:
        narrow_helper_path()
    except P11HostError as error:
        raise ProviderError(
            f"{path}: a {bits}-bit library, for which this p11host has no helper; install gcc-multilib and "
            "build p11host again"
        ) from error


@cache
def _own_shape() -> tuple[int, bool, str]:
    """Return class, byte order and machine of this process's own program, which the helper is built like."""
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415

    with Path(sys.executable).open("rb") as file:
        elf = ELFFile(file)
        return elf.elfclass, elf.little_endian, elf.header["e_machine"]


def _machine(name: object) -> str:
    return str(name).removeprefix("EM_").lower().replace("_", "-")


def _defines_entry(elf: "ELFFile") -> bool:
    """Tell whether the dynamic symbols define C_GetFunctionList, as the loader would look it up."""
    from elftools.elf.dynamic import DynamicSegment  # noqa: PLC0415

    dynamic = next((segment for segment in elf.iter_segments() if isinstance(segment, DynamicSegment)), None)
    return dynamic is not None and any(map(_is_definition, _named_entry(elf, dynamic)))


def _named_entry(elf: "ELFFile", dynamic: "DynamicSegment") -> "list[Symbol]":
    """Return the dynamic symbols of that name: by the hash table if there is one, for there may be many."""
    from elftools.elf.hash import GNUHashTable  # noqa: PLC0415

    _, offset = dynamic.get_table_offset("DT_GNU_HASH")
    if offset is not None:
        symbol = GNUHashTable(elf, offset, dynamic).get_symbol(ENTRY)
        return [] if symbol is None else [symbol]
    return dynamic.get_symbol_by_name(ENTRY) or []


def _is_definition(symbol: "Symbol") -> bool:
    entry = symbol.entry
    bound = entry["st_info"]["bind"] in ("STB_GLOBAL", "STB_WEAK") and entry["st_info"]["type"] in _DEFINES
    return bound and entry["st_shndx"] != "SHN_UNDEF"
