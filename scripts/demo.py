"""The demo: a throw-away token, used through p11host.so by programs nobody here wrote, and what that bought.

Run by `make demo`. Leaves nothing behind.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from p11host import P11HostError, shim_path
from p11host.bench.command import TOOL
from p11host.bench.measures import MEASURES, Target, measure
from p11host.bench.report import number
from p11host.bench.ways import Provider, configuration
from p11host.client import Door
from p11host.start import PrivateBroker, private_broker
from p11host.throwaway import Token, make_token

CLIENT = Path(__file__).resolve().parent / "demo_client.py"
PATIENCE_S = 60
SHARE = 0.2
COMPARED = ("session-info", "random", "digest", "sign-1")
console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Stage:
    """The token, its broker, and the environment in which a program finds both."""

    token: Token
    broker: PrivateBroker

    @property
    def provider(self) -> Provider:
        """The provider, as the benchmark wants it."""
        return Provider("softhsm", self.token.provider, self.token.label, self.token.pin, self.token.env)


def main() -> None:
    """Show everything, in order."""
    try:
        with (
            tempfile.TemporaryDirectory(prefix="p11host-demo-") as directory,
            set_up(Path(directory)) as stage,
        ):
            use_pkcs11_tool(stage, Path(directory))
            use_python(stage)
            show_cost(stage)
        show_own_provider()
    except P11HostError as error:
        console.print(f"[red]demo:[/] {escape(str(error))}")
        sys.exit(error.exit_code)


@contextmanager
def set_up(directory: Path) -> Iterator[Stage]:
    """Make the token, write its configuration, run a broker."""
    headline("A throw-away token, and a broker that knows its provider")
    token = make_token(directory, "demo")
    config = directory / "p11host.toml"
    config.write_text(configuration(Provider("softhsm", token.provider, token.label, token.pin, token.env)))
    config.chmod(0o600)
    console.print(f"[dim]{escape(config.read_text().strip())}[/]")
    with private_broker(config) as broker:
        yield Stage(token, broker)


# ---- programs that nobody here wrote ----


def use_pkcs11_tool(stage: Stage, directory: Path) -> None:
    """List the token, make a key pair, sign and verify with OpenSC's pkcs11-tool."""
    headline("pkcs11-tool")
    (directory / "message").write_text("a message\n")
    login = ["--login", "--pin", stage.token.pin]
    rsa = ["--mechanism", "SHA256-RSA-PKCS", "--id", "01", "--input-file", "message"]
    pkcs11_tool(stage, "--list-token-slots")
    pkcs11_tool(stage, *login, "--keypairgen", "--key-type", "rsa:2048", "--id", "01", "--label", "demo")
    pkcs11_tool(stage, *login, "--sign", *rsa, "--output-file", "signature")
    pkcs11_tool(stage, "--verify", *rsa, "--signature-file", "signature")


def pkcs11_tool(stage: Stage, *arguments: str) -> None:
    """Run one command in the token's directory and show what it says."""
    module = ["--module", str(shim_path()), "--token-label", stage.token.label]
    console.print(f"[bold]$ pkcs11-tool --module p11host.so {escape(shlex.join(arguments))}[/]")
    done = subprocess.run(
        ["pkcs11-tool", *module, *arguments],
        cwd=stage.token.directory,
        env=environment(stage.broker.env),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    if done.stdout:
        console.print(indented(done.stdout))
    if done.returncode != 0:
        raise P11HostError(f"pkcs11-tool ended with status {done.returncode}: {done.stderr.strip()}")


def use_python(stage: Stage) -> None:
    """Do the same from a second process with python-pkcs11, and look at the processes while it is there."""
    headline("python-pkcs11, in a second process")
    command = [sys.executable, "-P", str(CLIENT), str(shim_path()), stage.token.label, stage.token.pin]
    with subprocess.Popen(
        command, env=environment(stage.broker.env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as client:
        said = []
        for line in client.stdout or ():
            said.append(line)
            console.print(indented(line))
            if line.startswith("verified"):
                break
        if not said or "verified: yes" not in said[-1]:
            raise P11HostError("python-pkcs11 did not verify its signature")
        show_processes(stage, client.pid)


# ---- what that bought ----


def show_processes(stage: Stage, application: int) -> None:
    """Show who runs as what process, and who has mapped whose code."""
    headline("Who is who, and whose code is mapped where")
    table = Table("process", "pid", "p11host.so", stage.token.provider.name)
    for name, pid in {
        "application (python)": application,
        "helper": helper_of(stage, application),
        "broker": stage.broker.pid,
    }.items():
        table.add_row(name, str(pid), *(mapped(pid, path) for path in (shim_path(), stage.token.provider)))
    console.print(table)
    console.print(
        "The application cannot be harmed by the provider's bugs: its code runs in the helper alone."
    )


def helper_of(stage: Stage, application: int) -> int:
    """Ask the broker for the helper of an application."""
    with Door.of_broker(stage.broker.socket) as door, door.open(program="demo") as channel:
        status = channel.call("status", [{}])
    for known in status["applications"]:
        if known["pid"] == application and known["helpers"]:
            return int(known["helpers"][0]["pid"])
    raise P11HostError(f"the broker knows no helper of process {application}")


def mapped(pid: int, library: Path) -> str:
    """Tell whether a process has mapped a library, as far as the kernel lets us look."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text()
    except PermissionError:
        return "[dim]only root may look[/]"
    return "[bold]mapped[/]" if str(library.resolve()) in maps else "no"


def show_cost(stage: Stage) -> None:
    """Show what a call costs on this machine, by both ways."""
    headline("What it costs (p11host bench measures all of it)")
    table = Table("", "direct", "through p11host")
    direct = Target(stage.token.provider, stage.token.env, stage.token.label, stage.token.pin)
    ours = Target(shim_path(), stage.broker.env, stage.token.label, stage.token.pin)
    for row in MEASURES:
        if row.name in COMPARED:
            cells = [number(measure(TOOL, row, target, SHARE).value, row.unit) for target in (direct, ours)]
            table.add_row(row.title, *cells)
    console.print(table)


def show_own_provider() -> None:
    """Print the lines to do the same with another provider."""
    headline("With your own provider")
    program = Path(sys.executable).with_name("p11host")
    console.print(
        f"  {program} add /path/to/provider.so\n"
        f"  {program} list\n"
        f'  pkcs11-tool --module "$({program} path)" --list-token-slots\n'
    )


# ---- printing ----


def headline(text: str) -> None:
    """Print the heading of a part."""
    console.print(f"\n[bold cyan]{escape(text)}[/]\n")


def indented(text: str) -> str:
    """Return what a program said, set off from what the demo says."""
    return "\n".join(f"  {escape(line)}" for line in text.rstrip().splitlines())


def environment(found: Mapping[str, str]) -> Mapping[str, str]:
    """Return our environment with what a program needs to find the broker."""
    return os.environ | dict(found)


if __name__ == "__main__":
    main()
