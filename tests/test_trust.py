"""Who may change what is loaded: files and directories that others can write are refused."""

import os
from pathlib import Path

import pytest
from elf import Library

from p11host.config import choose, load
from p11host.errors import ConfigError, ProviderError
from p11host.facts import facts
from p11host.provider import check
from p11host.trust import distrust

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives files to others")


@pytest.fixture
def provider(tmp_path: Path) -> Path:
    """Return a provider in directories of its own."""
    directory = tmp_path / "above" / "lib"
    directory.mkdir(parents=True)
    return Library().write(directory / "provider.so")


def test_our_own_is_trusted(provider: Path) -> None:
    """What is ours or root's, in directories that are, may be loaded; /tmp is nobody's and shared."""
    assert distrust(provider) is None
    assert distrust(Path("/bin/sh")) is None


@pytest.mark.parametrize("above", [0, 1, 2])
def test_everybody_may_write(provider: Path, above: int) -> None:
    """A provider that everybody may change, or may replace through a directory above it, is refused."""
    place = [provider, *provider.parents][above]
    place.chmod(0o777)
    with pytest.raises(ProviderError) as caught:
        check(provider)

    assert f"{provider}: not loaded, for everybody may write {place}; run: chmod o-w {place}" == str(
        caught.value
    )


def test_sticky_directory(provider: Path) -> None:
    """In a directory like /tmp nobody can replace what is ours."""
    provider.parent.chmod(0o1777)

    assert distrust(provider) is None


@needs_root
def test_group(provider: Path) -> None:
    """A group may write if it has nobody in it but root and us."""
    provider.chmod(0o664)
    assert distrust(provider) is None
    os.chown(provider, -1, 65533)

    assert f"the group 65533 may write {provider}; run: chmod g-w {provider}" == distrust(provider)


@needs_root
@pytest.mark.parametrize("above", [0, 1])
def test_owner(provider: Path, above: int) -> None:
    """Whoever owns a file, or a directory above it, can change it at any time."""
    place = [provider, *provider.parents][above]
    os.chown(place, 65533, -1)

    assert f"{place} belongs to 65533; run: chown root {place}" == distrust(provider)


def test_link(provider: Path, tmp_path: Path) -> None:
    """A link is looked at with all that is above it, and so is what it leads to."""
    others = tmp_path / "others"
    others.mkdir()
    link = others / "link.so"
    link.symlink_to(provider)
    assert distrust(link) is None
    others.chmod(0o777)

    assert f"everybody may write {others}; run: chmod o-w {others}" == distrust(link)


def test_configuration(tmp_path: Path) -> None:
    """A configuration in a directory that everybody may write is refused."""
    directory = tmp_path / "etc"
    directory.mkdir()
    file = directory / "p11host.toml"
    file.write_text('[module.x]\npath = "/x.so"\n')
    load(choose(file, {}))
    directory.chmod(0o777)
    with pytest.raises(ConfigError) as caught:
        load(choose(file, {}))

    assert (f"{file}: everybody may write {directory}; run: chmod o-w {directory}",) == caught.value.problems


def test_facts(provider: Path) -> None:
    """Of a provider's file are told its owner, group and mode, and what an application finds in it."""
    provider.chmod(0o640)
    found = facts(provider)

    assert found is not None
    assert ("0640", ("C_GetFunctionList",), 0, 0) == (
        found.mode,
        found.entries,
        found.functions,
        found.others,
    )
    assert str(found).endswith(", mode 0640, symbols C_GetFunctionList")
    assert facts(provider.with_name("none.so")) is None
