"""Several files that make one configuration: drop-ins, p11-kit's beside ours; shown, checked, read anew."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from brokers import Starter, module
from click.testing import CliRunner, Result

from p11host.cli import cli
from p11host.config import Config, choose, load
from p11host.errors import ConfigError
from p11host.paths import drop_ins
from p11host.reload import Configuration

pytest_plugins = ["broker_fixtures"]


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory with the places of the user's, the system's and p11-kit's files."""
    for name in ("user/p11host/p11host.d", "system/p11host.d", "p11kit/modules", "packages"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user"))
    monkeypatch.delenv("P11HOST_CONFIG", raising=False)
    monkeypatch.setattr("p11host.paths.SYSTEM_CONFIG", tmp_path / "system" / "p11host.toml")
    monkeypatch.setattr("p11host.paths.P11KIT_SYSTEM", tmp_path / "p11kit")
    monkeypatch.setattr("p11host.paths.P11KIT_PACKAGES", tmp_path / "packages")
    user = tmp_path / "user" / "p11host" / "p11host.toml"
    monkeypatch.setattr(
        "p11host.config.config_candidates", lambda _: (user, tmp_path / "system/p11host.toml")
    )
    return tmp_path


def write(place: Path, *modules: str, more: str = "") -> Path:
    """Write a file with a module for each name, whose provider is called as it is."""
    place.write_text(
        more + "".join(module(name, Path(f"/usr/lib/{name}-of-{place.stem}.so")) for name in modules)
    )
    return place


def providers(config: Config) -> list[str]:
    """Return the names of the providers in the order of their slots."""
    return [each.path.name for each in config.modules]


# ---- drop-ins ----


def test_drop_ins(places: Path) -> None:
    """Beside each file those of its directory count, by name; the user's before the system's."""
    write(places / "user/p11host/p11host.toml", "a")
    write(places / "user/p11host/p11host.d/20.toml", "b")
    write(places / "user/p11host/p11host.d/10.toml", "c", more="[broker]\nidle = 7\n")
    write(places / "system/p11host.d/x.toml", "a", "d")
    for ignored in (".hidden.toml", "old.toml~", "notes.txt"):
        write(places / "user/p11host/p11host.d" / ignored, "e")
    config = load(choose())

    assert ["a-of-p11host.so", "c-of-10.so", "b-of-20.so", "d-of-x.so"] == providers(config)
    assert 7 == config.idle
    assert Path("/x/p11host.d") == drop_ins(Path("/x/p11host.toml"))


def test_one_file_alone(places: Path) -> None:
    """A file that is named counts alone, whatever is beside it."""
    write(places / "user/p11host/p11host.d/20.toml", "b")
    file = write(places / "user/p11host/p11host.toml", "a")
    (places / "packages/z.module").write_text("module: /usr/lib/z.so\n")

    assert ["a-of-p11host.so"] == providers(load(choose(file)))


def test_every_fault_of_every_file(places: Path) -> None:
    """All faults of all files are told at once, and two modules of one name in one place with both files."""
    first = write(places / "user/p11host/p11host.d/1.toml", "a")
    second = write(places / "user/p11host/p11host.d/2.toml", "b", "a")
    third = write(places / "system/p11host.toml", "c", more="[broker]\nidel = 3\n")
    with pytest.raises(ConfigError) as caught:
        load(choose())

    assert (
        f"{second}:3: module.a: {first} has it already; remove one of them",
        f"{third}:2: broker.idel: unknown key; did you mean 'idle'?",
    ) == caught.value.problems


def test_faults_of_views(places: Path) -> None:
    """What a rule or a list of programs should have been is told; so is a user that there is not."""
    wrong = [
        'enable-in = "ssh"',
        "disable-in = ['/usr/bin/ssh']",
        "allow = [{ uid = 'no such user' }]",
        "deny = [{}]",
    ]
    with write(places / "system/p11host.toml", "a").open("a") as file:
        file.write("\n".join(wrong))
    with pytest.raises(ConfigError) as caught:
        load(choose())

    expected = [("enable-in", "programs"), ("disable-in", "programs"), ("allow", "rules"), ("deny", "rules")]
    told = [problem.partition("module.a.")[2] for problem in caught.value.problems]
    assert len(told) == len(expected)
    assert all(
        text.startswith(key) and word in text for text, (key, word) in zip(told, expected, strict=True)
    )


# ---- p11-kit beside ours ----


def test_ours_counts_more(places: Path, provider: Path) -> None:
    """Of a module that both have by name or by file ours counts, disabled too; the others come after ours."""
    write(places / "system/p11host.toml", "a")
    with (places / "system/p11host.toml").open("a") as file:
        file.write(module("mine", provider, enabled=False))
    (places / "packages/A.module").write_text("module: /usr/lib/other.so\n")
    (places / "packages/theirs.module").write_text(f"module: {provider}\npriority: 9\n")
    (places / "packages/z.module").write_text("module: /usr/lib/z.so\n")
    config = load(choose())

    assert ["a-of-p11host.so", provider.name, "z.so"] == providers(config)
    assert ["a", "z"] == [each.name for each in config.enabled]
    same, twice = (remark.text.partition("left out: ")[2] for remark in config.remarks)
    assert f"{places}/system/p11host.toml has a module of that name" == same
    assert "module mine is the same provider" == twice


def test_switched_off(places: Path) -> None:
    """p11-kit's configuration counts unless a file says no; beside one that is named, if that says so."""
    (places / "packages/z.module").write_text("module: /usr/lib/z.so\n")
    file = write(places / "system/p11host.toml", "a")

    assert ["a-of-p11host.so", "z.so"] == providers(load(choose()))
    write(file, "a", more="[broker]\np11-kit = false\n")
    assert ["a-of-p11host.so"] == providers(load(choose()))
    write(file, "a", more="[broker]\np11-kit = true\n")
    assert ["a-of-p11host.so", "z.so"] == providers(load(choose(file)))


@pytest.mark.usefixtures("places")
def test_nothing_anywhere() -> None:
    """Where there is neither ours nor p11-kit's, that is said, and what to do."""
    with pytest.raises(
        ConfigError, match=r"neither .* exists, and p11-kit has no module; add a provider with"
    ):
        load(choose())


def test_ourselves(places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """p11host is no provider of its own, by whatever name."""
    shim = tmp_path / "p11host.so"
    shim.touch()
    (tmp_path / "innocent.so").symlink_to(shim)
    monkeypatch.setenv("P11HOST_SHIM", str(shim))
    (places / "packages/a.module").write_text(f"module: {tmp_path}/innocent.so\n")
    with pytest.raises(ConfigError, match=r"a\.module:1: module a is left out: it is p11host itself"):
        load(choose())


# ---- read anew ----


def test_what_is_new_is_seen(places: Path) -> None:
    """A broker sees a new drop-in, a new module of p11-kit's and their ends without being told."""
    write(places / "system/p11host.toml", "a")
    configuration = Configuration(choose())
    new = {places / "user/p11host/p11host.d/1.toml": "b", places / "packages/c.module": "c"}

    assert ["a"] == [each.name for each in configuration.current().modules]
    write(places / "user/p11host/p11host.d/1.toml", "b")
    assert ["b", "a"] == [each.name for each in configuration.current().modules]
    (places / "packages/c.module").write_text("module: /usr/lib/c.so\n")
    assert ["b", "a", "c"] == [each.name for each in configuration.current().modules]
    for file in new:
        file.unlink()
    assert ["a"] == [each.name for each in configuration.current().modules]


def test_reload(starter: Starter, provider: Path) -> None:
    """The broker reads its files when it is told to; what is wrong is told and does not count."""
    broker = starter.start(module("one", provider))
    run = Shell(lambda: os.environ | {"P11HOST_SOCKET": str(broker.socket)})
    broker.config.write_text(module("one", provider) + module("two", provider))
    right = run("reload")
    broker.config.write_text("[modul]\n")
    wrong = run("reload")

    assert (0, "read: one, two\n") == (right.exit_code, right.output)
    assert isinstance(wrong.exception, ConfigError)
    assert "unknown key; did you mean 'module'?" in str(wrong.exception)
    assert ["one", "two"] == [each["name"] for each in broker.status()["modules"]]


# ---- shown and checked ----


class Shell:
    """Runs commands of ours in this process."""

    def __init__(self, environ: Callable[[], Any]) -> None:
        self._environ = environ

    def __call__(self, *words: str) -> Result:
        """Run one."""
        return CliRunner().invoke(cli, words, env=dict(self._environ()))


def test_show(places: Path) -> None:
    """Each value is shown with the file and the line it comes from, secrets only if asked for."""
    mine = write(places / "user/p11host/p11host.toml", "a", more="[broker]\nidle = 3\n")
    with mine.open("a") as file:
        file.write('broken = ["CKR_DEVICE_ERROR"]\nreserved = "password"\n[module.a.env]\nKEY = "secret"\n')
    (places / "packages/z.module").write_text("module: /usr/lib/z.so\ncritical: yes\n")
    (places / "p11kit/modules/z.module").write_text("priority: 4\n")
    run = Shell(lambda: os.environ)
    text, plain = run("config", "show").output, run("config", "show", "--json").output
    found = json.loads(plain)["tables"]

    assert ["module.z", "module.a", "broker"] == list(found)
    assert {"key": "path", "value": "/usr/lib/a-of-p11host.so", "origin": f"{mine}:4"} == found["module.a"][
        "path"
    ]
    assert (4, f"{places}/p11kit/modules/z.module:1") == tuple(found["module.z"]["priority"].values())[1:]
    assert f"{places}/packages/z.module:1" == found["module.z"]["path"]["origin"]
    assert ("reinit", "default") == tuple(found["module.a"]["fork"].values())[1:]
    assert (3, f"{mine}:2") == tuple(found["broker"]["idle"].values())[1:]
    assert f"# {mine}:4\npath = " in text
    assert not {"password", "secret"} & set(text.replace('"', " ").split())
    assert "note: " in text
    assert ["CKR_DEVICE_ERROR"] == found["module.a"]["broken"]["value"]
    assert '"secret"' in run("config", "show", "--secrets", "a").output


def test_check(places: Path) -> None:
    """What is right is said to be; what is not taken over of p11-kit's is told, and is no fault."""
    write(places / "system/p11host.toml", "a")
    (places / "packages/z.module").write_text("nonsense\n")
    right = CliRunner().invoke(cli, ["config", "check"])
    (places / "system/p11host.toml").write_text("[modul]\n")
    wrong = CliRunner().invoke(cli, ["config", "check"])

    assert (0, "right: 1 module in 1 file") == (right.exit_code, right.stdout.strip())
    assert f"not taken over: {places}/packages/z.module:1: expected 'name: value'" in right.stderr
    assert isinstance(wrong.exception, ConfigError)
    assert "unknown key; did you mean 'module'?" in str(wrong.exception)
