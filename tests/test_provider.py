"""Which files are providers, found out without running anything of them."""

import os
import sys
from pathlib import Path

import pytest
from elf import Library

from p11host.errors import ProviderError
from p11host.provider import CheckedProviders, check

EM_ARM = 40
ET_EXEC = 2


def reason(path: Path) -> str:
    """Return why `path` is no provider."""
    with pytest.raises(ProviderError) as caught:
        check(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def test_a_provider(tmp_path: Path) -> None:
    """A library for this machine that defines C_GetFunctionList is one."""
    check(Library().write(tmp_path / "a.so"))


@pytest.mark.parametrize(
    ("library", "why"),
    [
        (Library("C_Sign"), "not a PKCS#11 library: it does not define C_GetFunctionList"),
        (Library(defined=False), "not a PKCS#11 library: it does not define C_GetFunctionList"),
        (Library(machine=EM_ARM), "a 64-bit library for arm, while p11host runs as 64-bit"),
        (Library(type=ET_EXEC), "an ELF file but no shared library"),
    ],
)
def test_another_library(tmp_path: Path, library: Library, why: str) -> None:
    """A library that cannot be loaded as a provider is told from one in a line that says what to do."""
    assert why in reason(library.write(tmp_path / "a.so"))


def test_no_file(tmp_path: Path) -> None:
    """A path to nothing is told as such."""
    assert "no such file; correct the path, or install the provider" in reason(tmp_path / "a.so")


def test_no_regular_file(tmp_path: Path) -> None:
    """Directories, pipes and devices are refused without waiting for them."""
    os.mkfifo(tmp_path / "pipe")

    assert "Is a directory" in reason(tmp_path)
    assert "not a regular file" in reason(tmp_path / "pipe")
    assert "not a regular file" in reason(Path("/dev/zero"))


@pytest.mark.parametrize(
    "content", [b"", b"\x7f", b"#!/bin/sh\n", b"INPUT(libother.so)\n", b"\x7fELG" + bytes(60)]
)
def test_no_elf(tmp_path: Path, content: bytes) -> None:
    """A text, a linker script or an empty file is no library."""
    (tmp_path / "a.so").write_bytes(content)

    assert "not an ELF library" in reason(tmp_path / "a.so")


def test_damaged(tmp_path: Path) -> None:
    """A library cut off anywhere, or with any byte changed, is judged without harm."""
    whole = Library().content()
    path = tmp_path / "a.so"
    for size in range(4, len(whole)):
        path.write_bytes(whole[:size])
        reason(path)
    for position in range(4, len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        _judge(path)


def _judge(path: Path) -> None:
    """Check a file of which nothing is known but that it must not raise anything else."""
    try:
        check(path)
    except ProviderError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017 (it need not be raised)


def test_an_executable() -> None:
    """A program is no provider."""
    reason(Path(sys.executable))


def test_is_checked_once_for_each_state(tmp_path: Path) -> None:
    """A file that was good need not be read again until it changes."""
    path = tmp_path / "a.so"
    checked = CheckedProviders()

    assert not checked.is_known(path)
    Library().write(path)
    checked.check(path)
    assert checked.is_known(path)
    path.write_bytes(b"other")
    assert not checked.is_known(path)
    with pytest.raises(ProviderError):
        checked.check(path)
    path.unlink()
    assert not checked.is_known(path)
