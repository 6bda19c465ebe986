"""Children that lack what a first call needs: it works without, or fails and says why in one line."""

import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
from application import Shim, descriptors, in_child, report
from brokers import module
from life import Host, Hosting, has_ended
from test_fork import NOBODY, needs_root

pytest_plugins = ["life_fixtures"]

LOGGED = {"P11HOST_LOG": "1"}
OURS = "p11host: "


@pytest.fixture(params=["reinit", "inherit"])
def fork(request: pytest.FixtureRequest) -> str:
    """Return each way in which a child goes on by itself."""
    return str(request.param)


@pytest.fixture
def host(fork: str, hosting: Hosting, odd: Path) -> Host:
    """Return a broker of the test's own."""
    return hosting(module("odd", odd, fork=fork))


def lines(output: str) -> list[str]:
    """Return what the shim said."""
    return [line for line in output.splitlines() if line.startswith(OURS)]


class Parent(Shim):
    """A process that has used the shim, and forks."""

    def __init__(self) -> None:
        super().__init__()
        self.session = self.begin()
        self.slot = self.slots()[0]

    def first_call(self) -> str:
        """Make a call that works in a child of any kind."""
        return self.rv("C_GetSlotInfo", self.slot, bytes(256))


@needs_root
def test_no_more_processes(host: Host) -> None:
    """A child that may have no more processes does not need one."""
    played = host.played(be_the_last, env=LOGGED)

    assert "CKR_OK" == played.result
    assert [] == lines(played.output)


def be_the_last() -> str:
    """Make the first call as a user that may fork no more."""
    shim = Parent()

    def live() -> str:
        be_nobody()
        return shim.first_call()

    rv: str = in_child(live)
    return rv


def test_no_more_descriptors(host: Host, fork: str) -> None:
    """A child that may open nothing is told so, in one line, and goes on once it may."""
    played = host.played(starve, env=LOGGED)

    starved = {"reinit": "CKR_GENERAL_ERROR", "inherit": "CKR_FUNCTION_FAILED"}[fork]
    assert [starved, "CKR_OK", "CKR_OK"] == played.result
    assert 1 == len(lines(played.output)), played.output


def starve() -> list[str]:
    """Make the first call in a child that has as many descriptors as it may."""
    shim = Parent()

    def live() -> list[str]:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(descriptors()) + 1, hard))
        taken = []
        while True:
            try:
                taken.append(os.dup(0))
            except OSError:
                break
        starved = shim.first_call()
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return [starved, shim.first_call()]

    return [*in_child(live), shim.use(shim.session)]


@pytest.mark.parametrize(
    "lack", ["broker", *[pytest.param(lack, marks=needs_root) for lack in ("root", "processes")]]
)
def test_no_broker(lack: str, fork: str, host: Host) -> None:
    """Where the broker has gone an heir does not miss it; others are told, in one line. The parent goes on.

    Neither can it be found in another root, nor started by who may have no more processes.
    """
    assert host.broker is not None
    where = Host({"P11HOST_SOCKET": host.env["P11HOST_SOCKET"]}) if lack == "processes" else host
    with where.playing(be_left, lack, env=LOGGED) as application:
        application.report()
        os.kill(host.broker.pid, signal.SIGKILL)
        assert has_ended(host.broker.pid)
        os.kill(application.process.pid, signal.SIGUSR1)
        rvs = application.report()
        output = application.end()

    assert [{"reinit": "CKR_GENERAL_ERROR", "inherit": "CKR_OK"}[fork], "CKR_OK"] == rvs
    assert {"reinit": 1, "inherit": 0}[fork] == len(lines(output)), output


def be_left(lack: str) -> list[Any]:
    """Make the first call in a child when the broker has gone."""
    shim = Parent()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    report("ready")
    signal.sigwait([signal.SIGUSR1])

    def live() -> str:
        if lack == "root":
            os.chroot("/proc/self/fdinfo")
        if lack == "processes":
            be_nobody()
        return shim.first_call()

    return [in_child(live), shim.use(shim.session)]


def be_nobody() -> None:
    """Become a user that may have no more processes."""
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    with pytest.raises(BlockingIOError):
        os.fork()
