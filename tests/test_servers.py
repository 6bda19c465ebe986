"""The system's own servers, unchanged: workers sign with a key loaded before they were forked."""

import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from life import has_ended
from reach import Reach, forking
from servers import WORKERS, nginx
from tls import Site, make_site, visits

from p11host.client import Door
from p11host.throwaway import Token

VISITS = 120


@pytest.fixture
def way(token: Token) -> Iterator[Reach]:
    """Return the token as reached by a module whose children inherit."""
    with forking("inherit", token) as reach:
        yield reach


@pytest.fixture
def site(way: Reach, work: Path) -> Site:
    """Return a site with a key on the token."""
    return make_site(way, work)


@pytest.fixture
def user() -> str | None:
    """Return the user whom workers are given to, if we may give them away."""
    return "nobody nogroup" if os.geteuid() == 0 else None


def helpers(reach: Reach) -> list[int]:
    """Return the pids of all helpers of the broker."""
    with Door.of_broker(Path(reach.env["P11HOST_SOCKET"])) as door, door.open() as channel:
        status: Any = channel.call("status", [{}])
    return [helper["pid"] for each in status["applications"] for helper in each["helpers"]]


def test_nginx(site: Site, user: str | None) -> None:
    """All workers of an nginx sign, after a reload and an upgrade too, by one helper that ends with them."""
    with nginx(site, user) as server:
        first = workers(site)
        server.reload()
        assert all(map(has_ended, first))
        second = workers(site)
        server.upgrade()
        assert all(map(has_ended, second))
        workers(site)
        used = helpers(site.reach)
        server.stop(signal.SIGQUIT)

    assert 1 == len(used)
    assert all(map(has_ended, used))


def workers(site: Site) -> Mapping[int, int]:
    """Visit a server that answers with pids; all its workers must answer. Return how often each did."""
    done = visits(site, VISITS)
    assert {} == done.failures
    assert WORKERS == len(done.answers)
    return {int(pid): count for pid, count in done.answers.items()}
