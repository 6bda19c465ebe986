"""docs/servers.md: its recipes for OpenSSH log in, under load."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import test_nss as nss
from brokers import module
from life import hosted
from notebook import Notebook
from reach import Reach
from sshd import host_agent, logins, sshd

from p11host import shim_path
from p11host.throwaway import Token

LOGINS = 16


@pytest.fixture
def reach(tmp_path: Path) -> Iterator[Reach]:
    """Return a token with a key, of a provider that bears many logins at once: SoftHSM does not."""
    database = tmp_path / "database"
    database.mkdir()
    ours = module("nss", nss.LIBRARY, reserved=nss.RESERVED.format(database))
    with hosted(tmp_path, ours) as host:
        host.play(set_pin)
        token = Token(database, nss.LIBRARY, nss.DATABASE, nss.PIN.decode())
        way = Reach("reinit", shim_path(), host.env, token)
        way.user_tool("--keypairgen", "--key-type", "EC:prime256v1", "--id", "01", "--label", "web")
        yield way


def set_pin() -> None:
    """Give a database that has none its PIN."""
    book = Notebook("")
    book.initialize()
    session = book.open_session(book.slot_of(nss.DATABASE))
    book.login(session, "CKU_SO", b"")
    book.must("C_InitPIN", session, nss.PIN, len(nss.PIN))
    book.must("C_Finalize", None)


@pytest.fixture
def public(reach: Reach) -> str:
    """Return the public half of the key."""
    return reach.run("ssh-keygen", "-D", reach.module, "-e").stdout


def test_many_log_in_with_the_key(reach: Reach, work: Path, public: str) -> None:
    """Many clients sign with the token's key, each by itself, at the same time."""
    with sshd(work, public) as port:
        assert LOGINS == logins(reach, work, port, "login.sh", LOGINS)


def test_agents_sign_for_many_logins(reach: Reach, work: Path, public: str) -> None:
    """One agent signs for many clients, and another for all servers, whose host key is on the token."""
    with host_agent(reach, work) as host, sshd(work, public, host) as port:
        assert LOGINS == logins(reach, work, port, "agent.sh", LOGINS)


def test_login_needs_the_key(reach: Reach, work: Path) -> None:
    """A server that does not know the key lets nobody in: the logins above were the token's doing."""
    with sshd(work, authorized="") as port:
        assert 0 == logins(reach, work, port, "login.sh", 1)
