"""docs/servers.md: its recipes make the system's own servers sign with a key loaded before their forks."""

import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from life import has_ended
from reach import Reach
from recipe import LABEL, recipe
from servers import WORKERS, Apache, apache, nginx, stunnel, until
from tls import Site, make_site, visits

from p11host import shim_path
from p11host.client import Door
from p11host.start import private_broker
from p11host.throwaway import make_token

VISITS = 120


@pytest.fixture(params=[""])
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reach]:
    """Return a token as the recipes call it, reached by the module they configure, with these keys more."""
    token = make_token(tmp_path, LABEL)
    pin = tmp_path / "pin"
    pin.write_text(token.pin)
    pin.chmod(0o400)
    config = tmp_path / "p11host.toml"
    written = recipe(config.name, {"/etc/softhsm/softhsm2.conf": token.env["SOFTHSM2_CONF"]})
    config.write_text(written + request.param.format(pin=pin))
    config.chmod(0o600)
    with private_broker(config) as broker:
        yield Reach("inherit", shim_path(), broker.env, token)


@pytest.fixture
def site(way: Reach, work: Path) -> Site:
    """Return a site with a key on the token."""
    return make_site(way, work)


def helpers(reach: Reach) -> list[int]:
    """Return the pids of all helpers of the broker."""
    with Door.of_broker(Path(reach.env["P11HOST_SOCKET"])) as door, door.open() as channel:
        status: Any = channel.call("status", [{}])
    return [helper["pid"] for each in status["applications"] for helper in each["helpers"]]


def test_nginx(site: Site) -> None:
    """All workers of an nginx sign, after a reload and an upgrade too, by one helper that ends with them."""
    with nginx(site) as server:
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


@pytest.mark.parametrize("way", ['resume = true\npin-source = "file:{pin}"\n'], indirect=True)
def test_nginx_goes_on_after_a_crash(site: Site) -> None:
    """With `resume` the workers of an nginx sign with the key it loaded once after their helper has died."""
    with nginx(site) as server:
        workers(site)
        for pid in helpers(site.reach):
            os.kill(pid, signal.SIGKILL)
            assert has_ended(pid)
        first = workers(site)
        for pid in helpers(site.reach):
            os.kill(pid, signal.SIGKILL)
            assert has_ended(pid)
        second = workers(site)
        server.stop(signal.SIGQUIT)

    assert first.keys() == second.keys()


def workers(site: Site) -> Mapping[int, int]:
    """Visit a server that answers with pids; all its workers must answer. Return how often each did."""
    done = visits(site, VISITS)
    assert {} == done.failures
    assert WORKERS == len(done.answers)
    return {int(pid): count for pid, count in done.answers.items()}


def test_apache(site: Site) -> None:
    """Apache's processes sign, those it was started with and those that a reload has put in their place."""
    with apache(site) as server:
        first = processes(site, server)
        server.reload()
        assert all(map(has_ended, first))
        processes(site, server)
        used = helpers(site.reach)
        server.stop()

    assert 1 == len(used)
    assert all(map(has_ended, used))


def processes(site: Site, server: Apache) -> set[int]:
    """Visit an Apache until as many processes have served as there are workers; return their pids."""
    server.served.write_text("")
    until(lambda: served_all(site) and len(server.serving()) >= WORKERS)
    return server.serving()


def test_stunnel(site: Site) -> None:
    """A stunnel that has become a daemon signs while it forks programs, and does after a reload."""
    with stunnel(site) as server:
        assert served_all(site)
        server.reload()
        assert served_all(site)
        used = helpers(site.reach)
        server.stop()

    assert 1 == len(used)
    assert all(map(has_ended, used))


def served_all(site: Site) -> bool:
    """Visit many times; all must be served."""
    done = visits(site, VISITS)
    assert ({"served": VISITS}, {}) == (done.answers, done.failures)
    return True
