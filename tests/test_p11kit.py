"""p11-kit's configuration: what comes of it here beside what p11-kit itself shows, and what is said of it."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from brokers import PATIENCE
from life import Workshop

from p11host.config import Choice, Config, load
from p11host.errors import ConfigError
from p11host.p11kit import layers, modules
from p11host.paths import p11kit_places
from p11host.peer import hidden
from p11host.throwaway import Token, make_token
from p11host.view import Peer

pytest_plugins = ["life_fixtures"]
#: Imported here: who reads a case as another user may not be let to where they are.
IMPORTED = (layers, modules)

CASES: Mapping[str, Any] = tomllib.loads((Path(__file__).parent / "p11kit.toml").read_text())
NOBODY = 65534
P11KIT = Peer(NOBODY, frozenset(), ("p11-kit",), None)
#: The places where p11-kit looks, in a mount namespace of its own; then it is asked as the user it is for.
SHOW = """
mount --bind /etc {top}/real && mount --bind {top}/etc /etc &&
mount --bind {case}/system /etc/pkcs11 && mount --bind {case}/package /usr/share/p11-kit/modules &&
mount -t tmpfs tmpfs /run &&
exec setpriv --reuid {uid} --clear-groups env -u XDG_CONFIG_HOME HOME={case}/home "$@"
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to show p11-kit other files")


@dataclass(frozen=True)
class Laid:
    """The files of a case."""

    top: Path
    directory: Path
    uid: int

    def places(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have our code find them where p11-kit's are."""
        monkeypatch.setattr("p11host.paths.P11KIT_SYSTEM", self.directory / "system")
        monkeypatch.setattr("p11host.paths.P11KIT_PACKAGES", self.directory / "package")
        environ = {"HOME": str(self.directory / "home")}
        monkeypatch.setattr("p11host.config.p11kit_places", lambda: p11kit_places(environ, self.uid))

    def shown(self) -> list[str]:
        """Return what p11-kit shows of them."""
        text = re.sub(r"(?m)^module: (\S+)\n\s+path: ", r"\1: ", self.run("p11-kit", "list-modules"))
        return [f"{name} {Path(path).name}" for name, path in re.findall(r"(?m)^([\w.-]+): (.*)$", text)]

    def run(self, *command: str) -> str:
        """Return what a program prints that finds them where p11-kit's are."""
        script = SHOW.format(top=self.top, case=self.directory, uid=self.uid)
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, "sh", *command],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert "mount:" not in done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def top(workshop: Workshop) -> Iterator[Path]:
    """Return a directory that every user can read, with providers and links to all that is in /etc."""
    with tempfile.TemporaryDirectory(prefix="p11host-test-", dir="/tmp") as name:
        found = Path(name)
        found.chmod(0o755)
        for part in ("real", "etc", "etc/pkcs11", "providers"):
            (found / part).mkdir()
        for entry in Path("/etc").iterdir():
            if entry.name != "pkcs11":
                (found / "etc" / entry.name).symlink_to(found / "real" / entry.name)
        for number in ("one", "two", "three", "four"):
            shutil.copy(workshop.provider("odd"), found / "providers" / f"{number}.so")
        (found / "providers" / "link.so").symlink_to("one.so")
        (found / "providers" / "libp11-kit.so.0.9").touch()
        (found / "providers" / "proxy.so").symlink_to("libp11-kit.so.0.9")
        yield found


def lay(top: Path, name: str, case: Mapping[str, Any]) -> Laid:
    """Write the files of a case."""
    directory = top / name
    for part in ("system/modules", "package", "home/.config/pkcs11/modules"):
        (directory / part).mkdir(parents=True)
    for path, text in case.get("files", {}).items():
        place = directory / (f"home/.config/pkcs11/{path[5:]}" if path.startswith("user/") else path)
        place.parent.mkdir(exist_ok=True)
        place.write_text(
            text.replace("@", str(top / "providers")), encoding=case.get("encoding", "utf-8"), newline=""
        )
        if path in case.get("root-only", ()):
            place.chmod(0o600)
    return Laid(top, directory, 0 if case.get("root") else NOBODY)


def ours(laid: Laid, monkeypatch: pytest.MonkeyPatch) -> Config | ConfigError:
    """Return what comes of the files here."""
    laid.places(monkeypatch)
    before = os.geteuid()
    os.seteuid(laid.uid if before == 0 else before)
    try:
        return load(Choice((laid.directory / "none.toml",), named=False, p11kit=True))
    except ConfigError as error:
        return error
    finally:
        os.seteuid(before)


def test_what_leads_nowhere(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link or a path that nobody can follow harms its own module only."""
    directory = top / "nowhere"
    for part in ("system/modules", "package", "home/.config/pkcs11/modules"):
        (directory / part).mkdir(parents=True)
    (directory / "loop.so").symlink_to("loop.so")
    good = top / "providers" / "one.so"
    for name, path in (("loop", directory / "loop.so"), ("long", "/" + "x" * 300), ("good", good)):
        (directory / "package" / f"{name}.module").write_text(f"module: {path}\n")
    (directory / "package" / "far.module").symlink_to("x" * 300)
    (directory / "package" / "round.module").symlink_to("round.module")
    found = ours(Laid(top, directory, NOBODY), monkeypatch)

    assert isinstance(found, Config)
    assert "good" in {each.name for each in found.modules}
    assert not {"far", "round"} & {each.name for each in found.modules}


@needs_root
@pytest.mark.parametrize("name", CASES)
def test_corpus(top: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, order and providers are those that p11-kit shows, or other ones for a reason."""
    case = CASES[name]
    laid = lay(top, name, case)
    found = ours(laid, monkeypatch)
    modules = () if isinstance(found, ConfigError) else found.modules
    seen = [each for each in modules if hidden(each.view, P11KIT, chosen=True) is None]

    assert case["modules"] == [f"{module.name} {module.path.name}" for module in seen]
    assert ("p11kit" in case) == ("why" in case) or case["p11kit"] == case["modules"]
    if "alone" not in case:
        assert case.get("p11kit", case["modules"]) == laid.shown()
    told = str(found) if isinstance(found, ConfigError) else "\n".join(map(str, found.remarks))
    assert [] == [text for text in case.get("remarks", []) if text not in told]


@contextmanager
def serving(token: Token, socket: Path) -> Iterator[None]:
    """Have p11-kit's own server offer a token at a socket."""
    words = ["p11-kit", "server", "--foreground", "--name", str(socket), "--provider", str(token.provider)]
    with subprocess.Popen(
        [*words, f"pkcs11:token={token.label}"], env=os.environ | dict(token.env), stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith(b"P11_KIT_SERVER_ADDRESS=")
        try:
            yield
        finally:
            server.terminate()


@needs_root
def test_remote(top: Path, tmp_path: Path) -> None:
    """Tokens that p11-kit shows by its own server, or by running `p11-kit remote`, are there here, too."""
    socket = top / "far.sock"
    files = {
        "package/a.module": f"remote: unix:path={socket}\n",
        "package/b.module": "remote: |p11-kit remote @/one.so\n",
    }
    laid = lay(top, "far", {"root": True, "files": files})
    p11host = [sys.executable, "-P", "-m", "p11host"]
    with serving(make_token(tmp_path, "far"), socket):
        shown = laid.run("p11-kit", "list-modules")
        listed = json.loads(laid.run(*p11host, "run", "--", *p11host, "list", "--json"))

    tokens = [slot["token"]["serial"] for each in listed["modules"] for slot in each["slots"]]
    assert ["a", "b"] == re.findall(r"(?m)^(\w+): ", shown) == [each["name"] for each in listed["modules"]]
    assert re.findall(r"serial-number: (\S+)", shown) == tokens
    assert 2 == len(tokens)
