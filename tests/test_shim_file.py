"""The shim as a file: what it exports, what it asks of the process that loads it, what runs by itself."""

from collections.abc import Iterator

import pytest
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from p11host import shim_path
from p11host.tables import tables

#: What would run at fork, exit or a signal, or changes the process for everybody in it.
SIDE_EFFECTS = frozenset(
    [
        *("pthread_atfork", "__register_atfork", "atexit", "__cxa_atexit", "__cxa_finalize", "on_exit"),
        *("at_quick_exit", "__cxa_thread_atexit_impl", "exit", "abort", "raise", "kill", "wait", "waitid"),
        *("signal", "sigaction", "bsd_signal", "sysv_signal", "__sysv_signal", "sigprocmask"),
        *("setlocale", "setenv", "putenv", "chdir", "umask", "setuid", "setgid", "pthread_create"),
    ]
)
LIBC = frozenset({"libc.so.6", "libpthread.so.0", "libdl.so.2"})
#: Loaded with everything, as ld-linux-x86-64.so.2, ld-linux-aarch64.so.1, ld-musl-x86_64.so.1, …
LOADER = "ld-"
EXECUTABLE_AND_WRITABLE = 3
DF_BIND_NOW = 8


@pytest.fixture(scope="module")
def shim() -> Iterator[ELFFile]:
    """Return the shim, parsed."""
    with shim_path().open("rb") as file:
        yield ELFFile(file)


def dynamic(shim: ELFFile) -> DynamicSection:
    """Return its dynamic section."""
    section = shim.get_section_by_name(".dynamic")
    assert isinstance(section, DynamicSection)
    return section


def symbols(shim: ELFFile, *, defined: bool) -> set[str]:
    """Return the names of the dynamic symbols that it defines, or that it wants defined."""
    section = shim.get_section_by_name(".dynsym")
    assert isinstance(section, SymbolTableSection)
    found = section.iter_symbols()
    return {symbol.name for symbol in found if symbol.name and (symbol["st_shndx"] != "SHN_UNDEF") == defined}


def test_exports_cryptoki_and_nothing_else(shim: ELFFile) -> None:
    """The shim exports every function of the standard, and no other symbol."""
    assert set(tables().functions) == symbols(shim, defined=True)


def test_imports_nothing_that_acts_on_the_process(shim: ELFFile) -> None:
    """The shim asks for nothing that would run at fork or exit, handle a signal or change the locale."""
    assert set() == symbols(shim, defined=False) & SIDE_EFFECTS


def test_needs_the_c_library_alone(shim: ELFFile) -> None:
    """Whoever loads the shim gets no library along with it but libc."""
    needed: set[str] = {vars(tag)["needed"] for tag in dynamic(shim).iter_tags("DT_NEEDED")}

    assert {"libc.so.6"} <= needed
    assert set() == {name for name in needed - LIBC if not name.startswith(LOADER)}


@pytest.mark.parametrize("kind", ["DT_INIT", "DT_FINI", "DT_INIT_ARRAY", "DT_FINI_ARRAY", "DT_PREINIT_ARRAY"])
def test_nothing_runs_by_itself(shim: ELFFile, kind: str) -> None:
    """Loading and unloading the shim runs no code of it."""
    assert [] == list(dynamic(shim).iter_tags(kind))


def test_cannot_be_written_or_executed_where_it_should_not(shim: ELFFile) -> None:
    """The shim has no memory both written and executed, and its pointers to others become read-only."""
    segments = list(shim.iter_segments())
    flags = {tag.entry.d_tag: tag.entry.d_val for tag in dynamic(shim).iter_tags()}

    assert [] == [segment for segment in segments if segment["p_flags"] & EXECUTABLE_AND_WRITABLE == 3]
    assert {"PT_GNU_RELRO", "PT_GNU_STACK"} <= {segment["p_type"] for segment in segments}
    assert flags.get("DT_FLAGS", 0) & DF_BIND_NOW
