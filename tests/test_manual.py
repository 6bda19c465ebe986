"""The manual pages: nothing that `--help`, the schema and the library know is missing; groff is content."""

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from brokers import PATIENCE, ROOT

from p11host.cli import COMMANDS, cli
from p11host.config_schema import FileTable, fields_of
from p11host.errors import EXIT_CODES
from p11host.manual import pages
from p11host.manual.configuration import tables
from p11host.manual.library import ENVIRONMENT
from p11host.manual.roff import page, paragraph, tagged, text


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Write the pages by the command, and return each as a terminal shows it; groff must not complain."""
    directory = tmp_path_factory.mktemp("man")
    command = [sys.executable, "-m", "p11host.manual", str(directory)]
    written = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return {Path(line).name: rendered(Path(line)) for line in written.stdout.splitlines()}


def rendered(file: Path) -> str:
    """Return a page as text."""
    command = ["groff", "-man", "-ww", "-P-cbou", "-rLL=100n", "-Tutf8", "-K", "utf8", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (0, "") == (done.returncode, done.stderr), file
    return done.stdout


def test_every_command(plain: dict[str, str]) -> None:
    """Each command has a page with every option of it, and p11host(1) names them all."""
    context = click.Context(cli, info_name="p11host")
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        shown = plain[f"p11host-{name}.1"]

        assert f"p11host-{name}(1)" in plain["p11host.1"]
        for param in command.params:
            if isinstance(param, click.Option) and not param.hidden:
                assert all(option in shown for option in param.opts), (name, param.opts)


def test_every_key(plain: dict[str, str]) -> None:
    """Each key of the configuration is there, below its table, a module's with what they are for."""
    shown = plain["p11host.toml.5"]
    for path, table in tables(FileTable):
        if path:
            section = shown.partition(f"\n[{path}]\n")[2].partition("\n[")[0]

            lacking = [key for key in fields_of(table) if not re.search(rf"(?m)^ +{key}\b", section)]
            assert [] == lacking, path
    assert {"module.NAME", "module.NAME.sandbox", "broker"} <= {path for path, _ in tables(FileTable)}
    assert "One call at a time, for a provider that is not safe with threads" in " ".join(shown.split())


def test_exit_codes(plain: dict[str, str]) -> None:
    """p11host(1) has every exit code with what it means."""
    section = plain["p11host.1"].partition("EXIT STATUS")[2].partition("ENVIRONMENT")[0]

    for code, meaning in EXIT_CODES.items():
        assert re.search(rf"(?m)^ +{code} +{meaning[0].upper()}{meaning[1:]}\.$", section), code


def test_every_variable(plain: dict[str, str]) -> None:
    """Each variable that the library reads is told of."""
    sources = [path.read_text() for path in (ROOT / "shim").glob("*.c") if path.name != "helper.c"]
    read = {name for source in sources for name in re.findall(r'getenv\("(\w+)"\)', source)}

    assert "P11HOST_SOCKET" in read
    assert read <= ENVIRONMENT.keys()
    assert all(name in plain["p11host.so.7"] for name in read)


def test_all_are_written(plain: dict[str, str]) -> None:
    """What the command writes is every page."""
    assert {name for name, _ in pages()} == plain.keys()


def test_text_is_shown_as_it_is(tmp_path: Path) -> None:
    """What troff would take for its own is text."""
    odd = ".TH 'x' \\fB --long-option ~/a `b` \"c\""
    file = tmp_path / "odd.1"
    file.write_text(page("odd", 1, odd, [paragraph(f"{odd}\n'and this"), tagged(odd, ".said"), text(odd)]))
    shown = rendered(file)

    assert 3 <= shown.count(odd)
    assert "'and this" in shown
    assert ".said" in shown


def test_usage() -> None:
    """Without a directory it says what it wants."""
    command = [sys.executable, "-m", "p11host.manual"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)

    assert (2, "usage: python -m p11host.manual DIRECTORY\n") == (done.returncode, done.stderr)
