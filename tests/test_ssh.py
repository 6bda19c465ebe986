"""OpenSSH: its tools find the keys of the token, and one of them opens a login at a local sshd."""

import getpass
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from reach import Reach
from sshd import Host, askpass, make_key, sshd


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
    lines = f"HostKey {work / 'on_token.pub'}\nHostKeyAgent {agent['SSH_AUTH_SOCK']}\n"
    with running(command, reach.environ):
        reach.run("ssh-add", "-s", reach.module, env=askpass(reach, work) | agent)
        with sshd(work, authorized=make_key(user), host=Host(work / "on_token.pub", lines)) as port:
            options = {"HostKeyAlgorithms": algorithms, "IdentityFile": str(user), "PKCS11Provider": "none"}
            done = reach.run(*ssh(reach, work, port, more=options), "echo", "proven")

    assert "proven\n" == done.stdout


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
