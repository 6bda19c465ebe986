"""A sshd on this machine, and clients that know it by the name that the recipes give it.

Knows what a server is told of its host key, and what a client has to know. Must not know where keys are.
"""

import getpass
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from reach import Reach
from recipe import recipe

PATIENCE_S = 60
#: Logins at the same time, where there are many.
CLIENTS = 8


@dataclass(frozen=True)
class Host:
    """A host key: its public half, and what a server is told of it."""

    public: Path
    lines: str


def made_host(work: Path) -> Host:
    """Return a host key in a file."""
    make_key(work / "host_key")
    return Host(work / "host_key.pub", f"HostKey {work / 'host_key'}\n")


def make_key(path: Path) -> str:
    """Make a key pair in a file; return its public half."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True, timeout=PATIENCE_S
    )
    return path.with_suffix(".pub").read_text()


def askpass(reach: Reach, work: Path) -> dict[str, str]:
    """Return an environment in which OpenSSH's tools are told the PIN."""
    script = work / "askpass"
    script.write_text(f"#!/bin/sh\necho {reach.token.pin}\n")
    script.chmod(0o700)
    return {"SSH_ASKPASS": str(script), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":0"}


# ---- the server ----


@contextmanager
def sshd(work: Path, authorized: str, host: Host | None = None) -> Iterator[int]:
    """Serve logins, each with a sshd that lives no longer than its connection; yield the loopback port."""
    host = host or made_host(work)
    config = configure_sshd(work, authorized, host)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        (work / "known_hosts").write_text(f"[127.0.0.1]:{port} {host.public.read_text()}")
        thread = threading.Thread(target=serve, args=(listener, config, work / "sshd.log"))
        thread.start()
        try:
            yield port
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE_S)


def serve(listener: socket.socket, config: Path, log: Path) -> None:
    """Give each connection to a sshd, as inetd would, until nobody listens; return when all have ended."""
    program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin") or "sshd"
    command = [program, "-i", "-f", str(config), "-E", str(log)]
    started: list[subprocess.Popen[bytes]] = []
    while connection := accept(listener):
        with connection:
            both = connection.fileno()
            started.append(subprocess.Popen(command, stdin=both, stdout=both, stderr=subprocess.DEVNULL))
    for server in started:
        try:
            server.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def accept(listener: socket.socket) -> socket.socket | None:
    """Return the next connection, None if nobody listens any more."""
    try:
        return listener.accept()[0]
    except OSError:
        return None


def configure_sshd(work: Path, authorized: str, host: Host) -> Path:
    """Write the configuration of a server that knows one key."""
    if os.geteuid() == 0:
        # Where sshd confines its unprivileged part; the package's service makes it at boot.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    (work / "authorized_keys").write_text(authorized)
    config = work / "sshd_config"
    config.write_text(
        f"{host.lines}"
        f"AuthorizedKeysFile {work / 'authorized_keys'}\n"
        "StrictModes no\n"
        "UsePAM no\n"
        "PermitRootLogin yes\n"
        "MaxAuthTries 20\n"  # as many keys as an agent may have
        "PubkeyAuthentication yes\n"
        "PasswordAuthentication no\n"
        "KbdInteractiveAuthentication no\n"
        "LogLevel VERBOSE\n"
    )
    return config


# ---- the recipes ----

_HOST_KEY, _HOST_AGENT = "/etc/ssh/ssh_host_token_key.pub", "/run/ssh-host-agent"
_CLIENT = """\
Host server
    HostName 127.0.0.1
    Port {port}
    User {user}
    ConnectTimeout 20
    IdentityFile none
    PreferredAuthentications publickey
    StrictHostKeyChecking yes
    UserKnownHostsFile {work}/known_hosts
"""


@contextmanager
def host_agent(reach: Reach, work: Path) -> Iterator[Host]:
    """Follow the recipe for a host key on the token, until the end of the `with`."""
    public, agent = work / "token_key.pub", work / "host-agent"
    module = {"$(p11host path)": reach.module.resolve()}
    script = recipe("host-agent.sh", {_HOST_KEY: public, _HOST_AGENT: agent, **module})
    try:
        reach.run("sh", "-ec", script, env=askpass(reach, work))
        yield Host(public, recipe("sshd_config", {_HOST_KEY: public, _HOST_AGENT: agent}))
    finally:
        reach.run("sh", "-c", f". {agent}.env; ssh-agent -k")


def logins(reach: Reach, work: Path, port: int, name: str, count: int, *, config: str = "") -> int:
    """Follow a recipe that ends with a login, but log in many times; return how many worked.

    `config` is the ssh_config that goes with it; where there is none the recipe itself names the library.
    """
    client = _CLIENT.format(port=port, user=getpass.getuser(), work=work)
    (work / "ssh_config").write_text(client + config)
    # As ~/.ssh/config, which is of the account and not of $HOME.
    ssh = work / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {work}/ssh_config "$@"\n')
    ssh.chmod(0o700)
    places = {} if config else {"$(p11host path)": reach.module.resolve()}
    *before, login = recipe(name, places).strip().split("\n")
    many = f"seq {count} | xargs -P {CLIENTS} -I% {login} || :"
    end = "trap '[ -z \"$SSH_AGENT_PID\" ] || ssh-agent -k' EXIT"
    env = askpass(reach, work) | {"PATH": f"{work}:{os.environ['PATH']}"}
    done = reach.run("sh", "-ec", "\n".join([end, *before, many]), env=env)
    return done.stdout.count(f"uid={os.getuid()}(")
