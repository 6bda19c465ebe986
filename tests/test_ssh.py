"""OpenSSH: its tools find the keys of the token, and one of them opens a login at a local sshd."""

import getpass
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from reach import Reach

PATIENCE_S = 60


@pytest.fixture(params=["rsa:2048", "EC:prime256v1"], ids=["rsa", "ecdsa"])
def key_line(request: pytest.FixtureRequest, reach: Reach) -> str:
    """Make a key pair on the token; return its public half as ssh-keygen prints it."""
    reach.user_tool("--keypairgen", "--key-type", request.param, "--id", "01", "--label", "login")
    return reach.run("ssh-keygen", "-D", reach.module, "-e").stdout


def test_public_key_is_printed(key_line: str) -> None:
    """`ssh-keygen -D` prints the public key with its label, in one line."""
    kind, _, label = key_line.split()

    assert kind in ("ssh-rsa", "ecdsa-sha2-nistp256")
    assert "login" == label


def test_login_with_key_on_token(reach: Reach, work: Path, key_line: str) -> None:
    """The client logs in at a local sshd with the key on the token, and runs a command there."""
    with sshd(work, authorized=key_line) as port:
        done = reach.run(*ssh(reach, work, port), "echo", "logged", "in", env=askpass(reach, work))

    assert "logged in\n" == done.stdout


def test_login_is_refused_to_another_key(reach: Reach, work: Path, key_line: str) -> None:
    """A key that the server does not know opens nothing: the login above was the token's doing."""
    assert "login" in key_line

    with sshd(work, authorized=make_key(work / "stranger")) as port:
        done = reach.run(*ssh(reach, work, port), "true", env=askpass(reach, work), status=255)

    assert "Permission denied" in done.stderr


def test_agent_signs_for_a_login(reach: Reach, work: Path, key_line: str) -> None:
    """ssh-agent loads the library into its own helper, which then signs for the login."""
    agent = {"SSH_AUTH_SOCK": str(work / "agent")}
    command = ["ssh-agent", "-D", "-P", str(reach.module.resolve()), "-a", agent["SSH_AUTH_SOCK"]]
    with sshd(work, authorized=key_line) as port, running(command, reach.environ):
        reach.run("ssh-add", "-s", reach.module, env=askpass(reach, work) | agent)
        done = reach.run(*ssh(reach, work, port, agent=True), "echo", "by", "agent", env=agent)

    assert "by agent\n" == done.stdout


def test_host_key_in_an_agent(reach: Reach, work: Path, key_line: str) -> None:
    """A sshd proves who it is with the key on the token, through an agent that has loaded the library."""
    agent = {"SSH_AUTH_SOCK": str(work / "agent")}
    command = ["ssh-agent", "-D", "-P", str(reach.module.resolve()), "-a", agent["SSH_AUTH_SOCK"]]
    user, algorithms = work / "user", "rsa-sha2-512,ecdsa-sha2-nistp256"
    (work / "on_token.pub").write_text(key_line)
    host = Host(work / "on_token.pub", agent["SSH_AUTH_SOCK"])
    with running(command, reach.environ):
        reach.run("ssh-add", "-s", reach.module, env=askpass(reach, work) | agent)
        with sshd(work, authorized=make_key(user), host=host) as port:
            options = {"HostKeyAlgorithms": algorithms, "IdentityFile": str(user), "PKCS11Provider": "none"}
            done = reach.run(*ssh(reach, work, port, more=options), "echo", "proven")

    assert "proven\n" == done.stdout


@dataclass(frozen=True)
class Host:
    """A host key: its public half, and the agent that has the other, if it is not beside it in a file."""

    public: Path
    agent: str = ""


def make_key(path: Path) -> str:
    """Make a key pair in a file; return its public half."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True, timeout=PATIENCE_S
    )
    return path.with_suffix(".pub").read_text()


def ssh(
    reach: Reach, work: Path, port: int, *, agent: bool = False, more: Mapping[str, str] | None = None
) -> list[str]:
    """Return the command line of a client that knows nothing but the token's keys, or the agent's."""
    options = {
        "BatchMode": "yes" if agent else "no",
        "ConnectTimeout": "20",
        "HostKeyAlgorithms": "ssh-ed25519",
        "IdentityAgent": "SSH_AUTH_SOCK" if agent else "none",
        "IdentityFile": "none",
        "PKCS11Provider": "none" if agent else str(reach.module),
        "PreferredAuthentications": "publickey",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": str(work / "known_hosts"),
    }
    words = [word for key, value in (options | dict(more or {})).items() for word in ("-o", f"{key}={value}")]
    return ["ssh", "-F", "none", "-p", str(port), *words, f"{getpass.getuser()}@127.0.0.1"]


def askpass(reach: Reach, work: Path) -> dict[str, str]:
    """Return an environment in which OpenSSH's tools are told the PIN."""
    script = work / "askpass"
    script.write_text(f"#!/bin/sh\necho {reach.token.pin}\n")
    script.chmod(0o700)
    return {"SSH_ASKPASS": str(script), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":0"}


@contextmanager
def sshd(work: Path, authorized: str, host: Host | None = None) -> Iterator[int]:
    """Serve one login on a loopback port, with a sshd that lives no longer than its connection."""
    if not host:
        make_key(work / "host_key")
        host = Host(work / "host_key.pub")
    config = configure_sshd(work, authorized, host)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        (work / "known_hosts").write_text(f"[127.0.0.1]:{port} {host.public.read_text()}")
        thread = threading.Thread(target=serve_one, args=(listener, config, work / "sshd.log"))
        thread.start()
        try:
            yield port
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE_S)


def serve_one(listener: socket.socket, config: Path, log: Path) -> None:
    """Accept one connection and give it to a sshd, as inetd would."""
    try:
        connection, _ = listener.accept()
    except OSError:
        return
    program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin") or "sshd"
    command = [program, "-i", "-f", str(config), "-E", str(log)]
    with connection:
        both = connection.fileno()
        sshd = subprocess.Popen(command, stdin=both, stdout=both, stderr=subprocess.DEVNULL)
    try:
        sshd.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        sshd.kill()
        sshd.wait()


def configure_sshd(work: Path, authorized: str, host: Host) -> Path:
    """Write the configuration of a server that knows one key."""
    if os.geteuid() == 0:
        # Where sshd confines its unprivileged part; the package's service makes it at boot.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    (work / "authorized_keys").write_text(authorized)
    config = work / "sshd_config"
    config.write_text(
        f"HostKey {host.public if host.agent else host.public.with_suffix('')}\n"
        f"HostKeyAgent {host.agent or 'none'}\n"
        f"AuthorizedKeysFile {work / 'authorized_keys'}\n"
        "StrictModes no\n"
        "UsePAM no\n"
        "PermitRootLogin yes\n"
        "PubkeyAuthentication yes\n"
        "PasswordAuthentication no\n"
        "KbdInteractiveAuthentication no\n"
        "LogLevel VERBOSE\n"
    )
    return config


@contextmanager
def running(command: list[str], environ: dict[str, str]) -> Iterator[None]:
    """Run the agent until the end of the `with`; it is ready when it has said how to reach it."""
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            assert b"SSH_AUTH_SOCK" in process.stdout.readline()
            yield
        finally:
            process.kill()
