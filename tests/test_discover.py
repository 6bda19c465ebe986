"""`p11host discover`: which providers are found, under which names, and what is asked of them."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from brokers import PATIENCE, ROOT
from elf import Library

from p11host import helper_path
from p11host.discover.ask import configuration
from p11host.discover.find import Found, find
from p11host.discover.places import Places, places
from p11host.paths import P11KitPlaces


@pytest.fixture
def machine(tmp_path: Path) -> Places:
    """Return the places of a machine below a directory of the test's."""
    for name in ("lib", "pkcs11", "kit"):
        (tmp_path / name).mkdir()
    libraries, providers = (str(tmp_path / "lib"),), (str(tmp_path / "pkcs11"),)
    return replace(places(), directories=libraries, modules=providers)


@pytest.fixture
def kit(tmp_path: Path) -> P11KitPlaces:
    """Return the places of a p11-kit that has nothing of this machine's."""
    return P11KitPlaces(tmp_path / "pkcs11.conf", tmp_path / "kit", tmp_path / "packages")


def names(found: list[Found]) -> list[tuple[str, str]]:
    """Return names and profiles."""
    return [(each.name, each.profile) for each in found]


class TestFind:
    """Looking at directories and files, without loading anything."""

    def test_known_and_unknown(self, machine: Places, kit: P11KitPlaces, tmp_path: Path) -> None:
        """Known names are found among other libraries; where only providers are, all of them."""
        for name in ("lib/libsofthsm2.so", "lib/libother.so", "pkcs11/acme-pkcs11.so", "pkcs11/README"):
            Library().write(tmp_path / name)

        found, _ = find(machine, kit=kit)

        assert [("acme", "strict"), ("softhsm2", "softhsm2")] == names(found)
        assert [None, None] == [each.error for each in found]

    def test_kit_files(self, machine: Places, kit: P11KitPlaces, tmp_path: Path) -> None:
        """What p11-kit has comes by its name there, with its string for pReserved; what is gone does not."""
        acme = Library().write(tmp_path / "pkcs11" / "acme.so")
        (tmp_path / "kit" / "Vendor.module").write_text(f"module: {acme}\nx-init-reserved: a=b:c\n")
        (tmp_path / "kit" / "gone.module").write_text(f"module: {tmp_path}/gone.so\n")

        ((found,), _) = find(machine, kit=kit)

        assert ("vendor", "a=b:c", "a=b:c") == (found.name, found.given, found.reserved)
        assert f"p11-kit: {tmp_path}/kit/Vendor.module" == found.source

    def test_each_file_once(self, machine: Places, kit: P11KitPlaces, tmp_path: Path) -> None:
        """Of a library and the links to it the shortest name is taken; two builds get two names."""
        (tmp_path / "pkcs11" / "32").mkdir()
        Library().write(tmp_path / "lib" / "libykcs11.so.2.3")
        (tmp_path / "lib" / "libykcs11.so.2").symlink_to("libykcs11.so.2.3")
        (tmp_path / "lib" / "libykcs11.so").symlink_to("libykcs11.so.2")
        Library().write(tmp_path / "pkcs11" / "ykcs11-pkcs11.so")

        found, _ = find(machine, kit=kit)

        assert [("ykcs11", "strict"), ("ykcs11-2", "ykcs11")] == names(found)
        assert tmp_path / "lib" / "libykcs11.so" == found[1].path

    def test_passed_over(self, machine: Places, kit: P11KitPlaces, tmp_path: Path) -> None:
        """What is no provider by its name is passed over, and why is said."""
        for name in ("p11-kit-proxy.so", "pkcs11-spy.so", "p11host.so"):
            Library().write(tmp_path / "pkcs11" / name)

        found, passed = find(machine, kit=kit)

        assert [] == found
        assert {"p11-kit-proxy.so", "p11host.so", "pkcs11-spy.so"} == {each.path.name for each in passed}
        assert all(each.reason for each in passed)

    def test_unfit(self, machine: Places, kit: P11KitPlaces, tmp_path: Path) -> None:
        """A file that cannot be a provider is shown with the reason."""
        (tmp_path / "lib" / "libsofthsm2.so").write_text("no library")

        ((found,), _) = find(machine, kit=kit)

        assert found.error is not None
        assert found.error.startswith("not an ELF library")

    def test_named_directories(self, machine: Places, kit: P11KitPlaces, tmp_path: Path) -> None:
        """In a directory that is named only what is a PKCS#11 library is found, whatever it is called."""
        Library().write(tmp_path / "lib" / "odd.so")
        Library("C_Other").write(tmp_path / "lib" / "other.so")

        found, _ = find(machine, [tmp_path / "lib"], kit)

        assert [("odd", "strict")] == names(found)

    def test_every_profile_has_a_place(self) -> None:
        """What is asked for is of known providers, and the text is a configuration."""
        titles = {title.name for title in places().titles}

        assert set(places().ask) <= titles
        made = Found("a", Path("/a.so"), "", "", "strict", reserved='quoted "and" \\')
        assert 'reserved = "quoted \\"and\\" \\\\"' in configuration([made])


class TestAsk:
    """The command, which asks each in a helper."""

    @pytest.fixture
    def vendor(self, tmp_path: Path) -> Path:
        """Return a directory with a provider that works, and one that cannot be loaded."""
        directory = tmp_path / "vendor"
        directory.mkdir()
        shutil.copy(helper_path().with_name("p11host-sleepy.so"), directory / "sleepy.so")
        Library().write(directory / "empty.so")
        return directory

    def run(self, tmp_path: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Run the command in an environment of its own."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("P11HOST_")}
        config = tmp_path / "p11host.toml"
        return subprocess.run(
            [sys.executable, "-m", "p11host", *map(str, words)],
            env=environ | {"P11HOST_HELPER": str(helper_path()), "P11HOST_CONFIG": str(config)},
            cwd=ROOT if not helper_path().is_relative_to(ROOT) else tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def test_asked(self, tmp_path: Path, vendor: Path) -> None:
        """Each says who made it; one that cannot is shown with the reason, and the others as ever."""
        done = self.run(tmp_path, "discover", "--json", vendor)
        empty, sleepy = json.loads(done.stdout)["providers"]

        assert (0, "") == (done.returncode, done.stderr)
        assert ("empty", None) == (empty["name"], empty["library"])
        assert empty["error"]
        assert ("sleepy", None, "strict") == (sleepy["name"], sleepy["error"], sleepy["profile"])
        assert sleepy["library"]["description"]

    def test_shown(self, tmp_path: Path, vendor: Path) -> None:
        """A pipe gets a table without colour and with whole paths; what is configured is said to be."""
        (tmp_path / "p11host.toml").write_text(f'[module.mine]\npath = "{vendor / "sleepy.so"}"\n')
        done = self.run(tmp_path, "discover", "--no-ask", vendor)

        assert (0, "") == (done.returncode, done.stderr)
        assert "configured as [module.mine]" in done.stdout
        assert "p11host add empty" in done.stdout
        assert "\x1b" not in done.stdout
        assert f" {vendor / 'sleepy.so'} " in done.stdout

    def test_wrong_directory(self, tmp_path: Path) -> None:
        """A directory that is not there is wrong usage."""
        assert 2 == self.run(tmp_path, "discover", tmp_path / "none").returncode
