"""The system calls of children, as strace sees them: none before the first call, then none on parents."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from brokers import module
from life import Host, Workshop, hosted
from strace import SystemCall, traced, tracing

from p11host import shim_path

pytest_plugins = ["life_fixtures"]

NEW_PROCESS = ("clone", "clone3", "fork", "vfork")
#: What tells whose a descriptor is, and changes nothing.
LOOKS = {"fstat", "newfstatat"}
Forked = Callable[..., list[list[str]]]
_DESCRIPTOR = re.compile(r"(\d+)[,)]")


@pytest.fixture(scope="module", params=["reinit", "inherit"])
def host(
    request: pytest.FixtureRequest, odd: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Host]:
    """Return a broker with one module, for each way in which children go on."""
    with hosted(tmp_path_factory.mktemp("host"), module("odd", odd, fork=request.param)) as host:
        yield host


@pytest.fixture
def forked(host: Host, workshop: Workshop, tmp_path: Path) -> Forked:
    """Return what makes children, with a library or without, and tells which system calls were made.

    Those of each child are from its beginning to its end or exec, of the parent from the fork until it waits.
    """

    def trace(way: str, use: str, detection: str, *library: Path) -> list[list[str]]:
        log = tmp_path / f"{way}-{len(library)}"
        env = {"P11HOST_FORK_DETECTION": detection}
        host.run(*tracing(log), workshop.program("forker"), way, use, *library, env=env)
        first, *children = in_order(log)
        parent = [call.name for call in first[forks(first)[0] :]]
        return [
            until("wait4", parent),
            *(until("execve", [call.name for call in child]) for child in children),
        ]

    return trace


def in_order(log: Path) -> list[list[SystemCall]]:
    """Return the calls of each process, by when it made its first."""
    return sorted((calls for calls in traced(log).values() if calls), key=lambda calls: calls[0].at)


def forks(calls: list[SystemCall]) -> list[int]:
    """Return where a process makes another."""
    return [i for i, call in enumerate(calls) if call.name in NEW_PROCESS]


def until(name: str, names: list[str]) -> list[str]:
    """Return the names up to the first of that name."""
    return names[: names.index(name) + 1] if name in names else names


@pytest.mark.parametrize("detection", ["page", "pid"])
@pytest.mark.parametrize(
    ("way", "use"),
    [
        *[("fork", "exec"), ("fork", "nothing"), ("fork", "exit"), ("fork", "dlclose")],
        *[("clone", "exec"), ("vfork", "exec"), ("spawn", "exec"), ("twice", "nothing"), ("daemon", "exit")],
    ],
)
def test_nothing_happens_before_the_first_call(way: str, use: str, detection: str, forked: Forked) -> None:
    """However a child is made and whatever it becomes: until it calls there is no system call of ours."""
    ours = forked(way, use, detection, shim_path())
    if use == "dlclose":
        ours = [[name for name in names if name != "munmap"] for names in ours]
    assert forked(way, use, detection) == ours


def test_finalize_in_a_child_that_never_called_does_nothing(forked: Forked) -> None:
    """C_Finalize is no system call in a child that never used us: there is nothing of its own to end."""
    assert forked("fork", "finalize", "page") == forked("fork", "finalize", "page", shim_path())


@pytest.mark.parametrize("use", ["exit", "dlclose", "finalize", "used-exit", "used-dlclose", "used-finalize"])
def test_what_is_inherited_is_closed_and_nothing_else(
    use: str, host: Host, workshop: Workshop, tmp_path: Path
) -> None:
    """At its end a child does nothing to what it inherited but close it, after a look at what it is."""
    log = tmp_path / "log"
    printed = host.run(*tracing(log), workshop.program("forker"), "fork", use, shim_path())
    inherited = set(printed.split())
    _, child = in_order(log)
    marks = [i for i, call in enumerate(child) if call.name == "getppid"]
    used, ending = (child[: marks[0]], child[marks[0] :]) if marks else ([], child)

    assert len(inherited) > 1
    assert set() == done_to(inherited, used) - LOOKS - {"close", "sendmsg", "setsockopt"}
    assert set() == done_to(inherited, ending) - LOOKS - {"close"}
    if not marks:
        assert set() == done_to(inherited, child)


def done_to(inherited: set[str], calls: list[SystemCall]) -> set[str]:
    """Return the names of the calls about descriptors that a process inherited and has not closed yet."""
    found = set()
    for call in calls:
        about = _DESCRIPTOR.match(call.rest)
        if about and about[1] in inherited:
            found.add(call.name)
            if call.name == "close":
                inherited.discard(about[1])
    return found
