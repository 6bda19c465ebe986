"""Forks at every lock, atomic operation and access to memory of the shim, with a thread stopped right there.

All of them, by hand, in a few minutes: `P11HOST_SCHEDULES=all .venv/bin/pytest tests/test_schedules.py`.
CI stops at some.
"""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from brokers import module
from life import Host, Workshop, hosted
from shims import LOCKS, Shims, functions_of, imports_of, stops_of
from test_nss import LIBRARY as SOFTOKN
from test_nss import RESERVED

pytest_plugins = ["life_fixtures"]

#: Seconds a program may take.
PATIENCE_S = 800
ALL = os.environ.get("P11HOST_SCHEDULES") == "all"
#: Kinds of points, as tests/programs/points.h numbers them: the rarer, the smaller.
CHANGE, ATOMIC, ACCESS = 1, 2, 3
PLACES = ("initialize", "finalize", "child", "sign", "digest", "slots", "session", "events")
#: Those that pass so many points that each seventh has to do.
LONG = ("initialize", "child")
#: A child may come back between the last look at whose call it is and the instruction that the peer sees.
LAST_INSTRUCTION = {"pass", "rouse", "is_anothers", "receive", "control_receive"}
#: What those places do not lead to: the end of a helper, and what only some providers or mechanisms need.
ELSEWHERE = {
    "a helper that is late, hangs or has ended": """
        attach_report bell_shut bell_sleep bell_wake keep late_may_ask module_drop module_give_up
        module_is_late_for_list module_start revive
    """,
    "an event that comes, or a helper that has gone, while somebody waits: test_storm.py, test_events.py": """
        module_try seen_take
    """,
    "a thread that is cancelled while it waits: test_storm.py": "sleep_on",
    "handles over 47 bits": "handle_to_server large_put",
    "a helper's own list of sessions": "sessions_move",
    "C_Logout of an heir": "module_leave search",
    "mechanisms with late outputs, messages": """
        operations_find_or_map operations_forget operations_recall operations_release operations_remember
        operations_reserve operations_update
    """,
    "a parameter that cannot be described": "refusal_count",
    "a module with resume, or one that is broken": """
        module_is_broken objects_forget objects_get objects_has objects_put objects_settle resume_follow
        resume_login
    """,
}
EXCUSED = {name for names in ELSEWHERE.values() for name in names.split()}


@dataclass(frozen=True)
class Passage:
    """What came of the forks in one place."""

    stops: int
    bad: set[int]
    sites: set[int]


@dataclass
class Runner:
    """Sends threads through places, and remembers which points they passed."""

    workshop: Workshop
    hosts: dict[str, Host]
    passed: set[int] = field(default_factory=set)

    @property
    def shim(self) -> Path:
        """The shim with points."""
        return Shims(self.workshop).with_points()

    def run(self, mode: str, place: str, way: str, level: int, every: int) -> Passage:
        """Stop at each n-th point of these kinds."""
        words = [str(self.workshop.program("schedules")), str(self.shim), place, way, str(level), str(every)]
        env = os.environ | dict(self.hosts[mode].env)
        done = subprocess.run(words, env=env, check=False, capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stderr
        rows = [line.split() for line in done.stdout.splitlines()]
        [(good, bad, _)] = [tuple(map(int, row[1:])) for row in rows if row[0] == "stops"]
        sites = {int(row[1], 16) for row in rows if row[0] == "site"}
        self.passed |= sites
        return Passage(good + bad, {int(row[1], 16) for row in rows if row[0] == "bad"}, sites)


@pytest.fixture(scope="module")
def runner(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """Return a runner with a broker for each mode, and one that the program has to start itself."""
    modes, hosts = ("reinit", "inherit"), {}
    directories = {mode: tmp_path_factory.mktemp(mode) for mode in modes}
    tables = {
        mode: module("nss", SOFTOKN, reserved=RESERVED.format(path), fork=mode)
        for mode, path in directories.items()
    }
    with (
        hosted(directories["reinit"], tables["reinit"]) as reinit,
        hosted(directories["inherit"], tables["inherit"]) as inherit,
    ):
        hosts = {"reinit": reinit, "inherit": inherit}
        yield Runner(workshop, hosts)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["reinit", "inherit"])
@pytest.mark.parametrize("place", PLACES)
def test_beside(runner: Runner, place: str, mode: str) -> None:
    """Wherever another thread stands, a child's first call succeeds, and that thread's call does."""
    every = 3 if mode == "inherit" else 8
    passage = runner.run(mode, place, "beside", *((ATOMIC, 1) if ALL else (CHANGE, every)))

    assert passage.stops > 0
    assert set() == passage.bad


@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", ["within", "after"])
@pytest.mark.parametrize("place", PLACES)
def test_within(runner: Runner, place: str, way: str) -> None:
    """Wherever a signal handler forks, in either order: the parent's call is answered, the child goes on."""
    seventh = 7 if place in LONG else 1
    passage = runner.run("inherit", place, way, *((ACCESS, seventh) if ALL else (ATOMIC, 12)))
    functions = functions_of(runner.shim)

    assert passage.stops > 0
    assert set() == {functions[site] for site in passage.bad} - LAST_INSTRUCTION


@pytest.mark.timeout(900)
def test_broker_being_started(runner: Runner, tmp_path: Path) -> None:
    """A child forked while its parent starts the broker, and waits for it, succeeds as well."""
    host = runner.hosts["reinit"]
    assert host.config is not None
    env = {
        **{key: value for key, value in host.env.items() if key != "P11HOST_NO_START"},
        "P11HOST_SOCKET": str(tmp_path / "broker.sock"),
        "P11HOST_CONFIG": str(host.config),
    }
    runner.hosts["alone"] = Host(env)
    passage = runner.run("alone", "broker", "beside", CHANGE, 1 if ALL else 15)

    assert passage.stops > 0
    assert set() == passage.bad


def test_no_point_is_missed(runner: Runner) -> None:
    """Every lock and atomic change is a point, and these tests lead to it, but where the opposite is said."""
    for mode in ("reinit", "inherit"):
        for place in PLACES:
            runner.run(mode, place, "beside", CHANGE, 1000)
    stops = stops_of(runner.shim)
    missed = {function for site, function in stops.items() if site not in runner.passed}

    assert len(stops) > len(LOCKS)
    assert "" == " ".join(sorted(missed - {stops[site] for site in runner.passed & set(stops)} - EXCUSED))
    assert set() == EXCUSED - set(stops.values()), "what is excused is there"


def test_no_other_locks(runner: Runner) -> None:
    """The shim waits for nothing in its own process but for mutexes."""
    kinds = ("pthread_", "sem_", "mtx_", "cnd_", "call_once", "flock", "lockf")
    found = {name for name in imports_of(runner.shim) if name.startswith(kinds)}

    assert {*LOCKS, "pthread_sigmask", "pthread_setcancelstate"} == found
