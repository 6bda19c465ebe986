"""fork = "inherit": how long a shared helper lives, and what a child has lost of what its parent had."""

import os
import resource
import select
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from application import PATIENCE, Shim, descriptors, helpers, in_child, in_threads, report
from brokers import Starter, module
from family import GONE, NO_OBJECT, Family, count_sessions
from life import Host, Hosting, has_ended
from test_fork import needs_root

from p11host import helper_path
from p11host.throwaway import make_token

pytest_plugins = ["life_fixtures", "family_fixtures"]

NOBODY = 65534


# ---- how long the helper lives ----


def test_child_outlives_its_parent(family: Host, env: Mapping[str, str]) -> None:
    """A child that first calls when its parent is long dead is logged in; the helper ends with the child."""
    with family.playing(leave_a_child, env=env) as application:
        helper = application.report()
        assert ["user", True] == application.report()
        application.end()

    assert has_ended(helper)


def leave_a_child() -> list[Any]:
    """Fork as daemons do, so that only the grandchild is left, and use the token there."""
    shim = Family()
    expected = shim.mac()
    report(helpers()["soft"])
    parent = os.pidfd_open(os.getpid())
    if os.fork():
        os._exit(0)
    assert select.select([parent], [], [], PATIENCE)[0]
    return [shim.state(), shim.mac() == expected]


def test_parent_finalizes_before_its_child_calls(family: Host) -> None:
    """C_Finalize in the parent leaves a child with helper, login and sessions."""
    assert ["user", True] == family.play(finalize_then_live)


def finalize_then_live() -> list[Any]:
    """Finalize in the parent; only then call in the child."""
    shim = Family()
    expected = shim.mac()
    forked, go = os.pipe(), os.pipe()

    def live() -> list[Any]:
        os.write(forked[1], b".")
        os.read(go[0], 1)
        return [shim.state(), shim.mac() == expected]

    def finalize() -> None:
        os.read(forked[0], 1)
        shim.must("C_Finalize", None)
        os.write(go[1], b".")

    child, _ = in_threads([partial(in_child, live), finalize])
    assert isinstance(child, list)
    return child


def test_sessions_of_the_dead_are_closed(odds: Host) -> None:
    """What a child had open is closed when it has ended, so that workers may come and go."""
    assert 1 == odds.play(open_and_die)


def open_and_die() -> int:
    """Let children open sessions and die; return how many sessions are open at last."""
    shim = Shim()
    shim.begin()
    slot = shim.slots()[0]
    for _ in range(3):
        in_child(lambda: [shim.open_session(slot) for _ in range(10)])
    end = time.monotonic() + PATIENCE
    while count_sessions(shim) > 1 and time.monotonic() < end:
        time.sleep(0.01)
    return count_sessions(shim)


def test_child_that_dies_just_before_its_parent(tmp_path: Path, odd: Path) -> None:
    """C_Finalize is not called while what a child had open is being closed: the helper ends well."""
    starter = Starter(tmp_path, helper_path())
    try:
        broker = starter.start(module("odd", odd, env={"ODD_CLOSING": "200"}, fork="inherit"))
        host = Host({"P11HOST_SOCKET": str(broker.socket), "P11HOST_NO_START": "1"})
        with host.playing(outlive_child) as application:
            application.report()
        ended = broker.wait_event("helper.ended")
    finally:
        starter.end_all()

    assert 0 == ended.get("status"), ended


def outlive_child() -> None:
    """Outlive a child that has opened a session, and has lost its channel before it ended."""
    shim = Shim()
    shim.begin()
    slot = shim.slots()[0]
    pid = os.fork()
    if pid == 0:
        shim.open_session(slot)
        os.execv("/bin/sleep", ["sleep", "0.2"])  # noqa: S606 (as programs do)
    os.waitpid(pid, 0)


def test_helper_that_dies(family: Host, env: Mapping[str, str]) -> None:
    """When the shared helper is killed, each process gets one of its own; what was before is refused."""
    parent, child = family.play(kill_helper, env=env)

    for process in (parent, child):
        assert ["CKR_DEVICE_REMOVED", GONE, "public", NO_OBJECT] == process["rvs"]
    assert parent["helper"] != child["helper"]


def kill_helper() -> list[Any]:
    """Kill the helper of parent and child."""
    shim = Family()
    helper, slots = helpers()["soft"], shim.slots()

    def live_on() -> dict[str, Any]:
        old = [shim.use(shim.session)]
        assert slots == shim.slots()
        old.append(shim.use(shim.session))
        own = shim.open_session(shim.slot)
        state = "user" if shim.is_logged_in(own) else "public"
        return {"rvs": [*old, state, shim.begin_mac(own)], "helper": helpers()["soft"]}

    def live() -> dict[str, Any]:
        shim.use(shim.session)
        os.kill(helper, signal.SIGKILL)
        assert has_ended(helper)
        return live_on()

    child = in_child(live)
    return [live_on(), child]


# ---- what a child has lost, or is not to have ----


@needs_root
def test_child_without_rights_broker_or_environment(
    tmp_path: Path, env: Mapping[str, str], hosting: Hosting
) -> None:
    """A worker that is another user by now, in another root, without a broker still has its login."""
    token = make_token(tmp_path)
    host = hosting(module("soft", token.provider, env=dict(token.env), fork="inherit"))
    assert host.broker is not None
    with host.playing(worker, env=env) as application:
        application.report()
        os.kill(host.broker.pid, signal.SIGKILL)
        assert has_ended(host.broker.pid)
        os.kill(application.process.pid, signal.SIGUSR1)
        assert ["user", True] == application.report()


def worker() -> list[Any]:
    """Give up all that a broker is found by, then call."""
    shim = Family()
    expected = shim.mac()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    report("ready")
    signal.sigtimedwait([signal.SIGUSR1], PATIENCE)

    def live() -> list[Any]:
        os.environ.clear()
        os.chroot("/proc/self/fdinfo")
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        return [shim.state(), shim.mac() == expected]

    child: list[Any] = in_child(live)
    return child


def test_exec_leaves_nothing(family: Host, env: Mapping[str, str]) -> None:
    """A program that a child becomes has no descriptor of ours, whether the child had called or not."""
    before, unused, used = family.play(exec_in_children, env=env)

    assert before == unused == used


def exec_in_children() -> list[str]:
    """List the descriptors of programs that children become."""
    shim = Shim()
    before = run_ls()
    session = shim.begin()

    def use_and_run() -> str:
        shim.use(session)
        return run_ls()

    return [before, in_child(run_ls), in_child(use_and_run)]


def run_ls() -> str:
    """Return what descriptors a program finds open."""
    command = ["/bin/ls", "/proc/self/fd"]
    return subprocess.run(command, close_fds=False, check=True, capture_output=True, text=True).stdout


def test_without_descriptors(family: Host) -> None:
    """A child that may open nothing is told so, harms nobody, and goes on once it may."""
    starved, fed, parent = family.play(starve)

    assert "CKR_FUNCTION_FAILED" == starved
    assert "user" == fed
    assert "user" == parent


def starve() -> list[str]:
    """Make the first call in a child that has as many descriptors as it may."""
    shim = Family()

    def live() -> list[str]:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(descriptors()) + 1, hard))
        while True:
            try:
                os.dup(0)
            except OSError:
                break
        starved = shim.use(shim.session)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return [starved, shim.state()]

    return [*in_child(live), shim.state()]


def test_child_that_closed_its_descriptors(family: Host) -> None:
    """A child that has closed all it inherited has a helper of its own: what it had is refused."""
    refused, works, parent = family.play(close_all_and_call)

    assert GONE == refused
    assert "CKR_OK" == works
    assert "user" == parent


def close_all_and_call() -> list[str]:
    """Close all but the standard streams in a child, as daemons do, then call."""
    shim = Family()

    def live() -> list[str]:
        for place, what in descriptors().items():
            if place > 2 and not what.startswith("pipe:"):
                os.close(place) if what.startswith("socket:") else None
        return [shim.use(shim.session), shim.use(shim.open_session(shim.slots()[0]))]

    return [*in_child(live), shim.state()]


def test_junk_through_an_inherited_door(family: Host) -> None:
    """What a child sends through the inherited door that is no hello harms nobody."""
    assert ["user", "user"] == family.play(send_junk)


def send_junk() -> list[str]:
    """Send junk, too much and nothing through the door, with descriptors and without."""
    shim = Family()

    def live() -> str:
        places = [place for place, what in descriptors().items() if is_door(place, what)]
        doors = [socket.socket(fileno=os.dup(place)) for place in places]
        assert doors
        for door in doors:
            ends = socket.socketpair()
            for body in (b"junk", b"\xff" * 5000, b""):
                door.send(body)
                socket.send_fds(door, [body or b"."], [end.fileno() for end in ends])
                socket.send_fds(door, [body or b"."], [end.fileno() for end in ends] * 4)
        return shim.state()

    return [in_child(live), shim.state()]


def is_door(place: int, what: str) -> bool:
    """Tell whether a descriptor is a socket of packets."""
    if not what.startswith("socket:"):
        return False
    with socket.socket(fileno=os.dup(place)) as sock:
        return sock.type & 0xF == socket.SOCK_SEQPACKET


# ---- beside others ----


def test_modules_of_both_kinds(hosting: Hosting, odd: Path, tmp_path: Path) -> None:
    """Of two modules one is inherited; the other begins anew, when it is needed and not before."""
    token = make_token(tmp_path)
    soft = module("soft", token.provider, env=dict(token.env), fork="inherit")
    parent, at_first, child = hosting(soft, module("odd", odd)).play(both_kinds)

    assert {} == at_first["helpers"]
    assert "user" == at_first["state"]
    assert parent["slots"] == child["slots"]
    assert [GONE, "CKR_OK"] == child["odd"]
    assert ["odd"] == child["helpers"]


def both_kinds() -> list[dict[str, Any]]:
    """Use two modules in the parent and in a child."""
    shim = Family()
    slots = shim.slots()
    other = shim.open_session(slots[-1])

    def live() -> list[dict[str, Any]]:
        at_first = {"state": shim.state(), "helpers": helpers()}
        refused = shim.use(other)
        found = shim.slots()
        own = shim.use(shim.open_session(found[-1]))
        return [at_first, {"slots": found, "odd": [refused, own], "helpers": list(helpers())}]

    return [{"slots": slots}, *in_child(live)]
