"""fork = "inherit": a child goes on with its parent's helper, login and objects."""

import ctypes
import os
import resource
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from application import PATIENCE, Shim, descriptors, helpers, in_child, in_threads, report
from brokers import Starter, module
from cryptoki import ULONG, constant, struct
from life import Host, Hosting, has_ended, hosted
from test_fork import needs_root

from p11host import helper_path
from p11host.client import Door
from p11host.paths import socket_path
from p11host.throwaway import make_token

pytest_plugins = ["life_fixtures"]

GONE = "CKR_SESSION_HANDLE_INVALID"
NO_OBJECT = "CKR_OBJECT_HANDLE_INVALID"
PIN = b"123456"
ROUNDS, CHILDREN = 50, 3
NOBODY = 65534
MAC_BYTES = 16


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """Return a broker with a SoftHSM token that children share, for all tests of this file."""
    directory = tmp_path_factory.mktemp("family")
    token = make_token(directory)
    with hosted(directory, module("soft", token.provider, env=dict(token.env), fork="inherit")) as host:
        yield host


@pytest.fixture(scope="module")
def odds(tmp_path_factory: pytest.TempPathFactory, odd: Path) -> Iterator[Host]:
    """Return a broker with a provider that counts, and that children share."""
    with hosted(tmp_path_factory.mktemp("odds"), module("odd", odd, fork="inherit")) as host:
        yield host


@pytest.fixture(params=["page", "pid"])
def env(request: pytest.FixtureRequest) -> Mapping[str, str]:
    """Return the environment for each way to notice a fork: a page that the kernel wipes, and the pid."""
    return {"P11HOST_FORK_DETECTION": request.param}


class Family(Shim):
    """A process that has logged in and made a key that only its user may see."""

    def __init__(self) -> None:
        super().__init__()
        self.session = self.begin()
        self.slot = self.slots()[0]
        self.must("C_Login", self.session, 1, PIN, len(PIN))
        self.key = self.make_key()

    def make_key(self) -> int:
        """Make a private AES key for this session."""
        numbers = {"CKA_VALUE_LEN": 16}
        flags = {"CKA_PRIVATE": 1, "CKA_SENSITIVE": 1, "CKA_SIGN": 1, "CKA_TOKEN": 0}
        values: list[tuple[int, Any]] = [(constant(name), ULONG(value)) for name, value in numbers.items()]
        values += [(constant(name), ctypes.c_ubyte(value)) for name, value in flags.items()]
        template = (struct("CK_ATTRIBUTE") * len(values))()
        for entry, (type_, value) in zip(template, values, strict=True):
            entry.type, entry.pValue, entry.ulValueLen = type_, ctypes.addressof(value), ctypes.sizeof(value)
        mechanism = struct("CK_MECHANISM")(constant("CKM_AES_KEY_GEN"), None, 0)
        key = ULONG()
        self.must(
            "C_GenerateKey",
            self.session,
            ctypes.byref(mechanism),
            template,
            len(values),
            ctypes.byref(key),
        )
        return key.value

    def begin_mac(self, session: int, key: int | None = None) -> str:
        """Begin a signature; return the name of the CK_RV."""
        mechanism = struct("CK_MECHANISM")(constant("CKM_AES_CMAC"), None, 0)
        return self.rv("C_SignInit", session, ctypes.byref(mechanism), self.key if key is None else key)

    def end_mac(self, session: int, data: bytes = b"data") -> str:
        """End it; return the signature, or the name of the CK_RV."""
        room, length = (ctypes.c_ubyte * MAC_BYTES)(), ULONG(MAC_BYTES)
        rv = self.rv("C_Sign", session, data, len(data), room, ctypes.byref(length))
        return bytes(room).hex() if rv == "CKR_OK" else rv

    def mac(self, session: int | None = None, data: bytes = b"data") -> str:
        """Sign; return the signature, or the name of the CK_RV."""
        session = self.session if session is None else session
        rv = self.begin_mac(session)
        return self.end_mac(session, data) if rv == "CKR_OK" else rv

    def state(self) -> str:
        """Tell whether our session is logged in, or why it is none."""
        info = struct("CK_SESSION_INFO")()
        rv = self.rv("C_GetSessionInfo", self.session, ctypes.byref(info))
        return (
            rv if rv != "CKR_OK" else "user" if info.state == constant("CKS_RW_USER_FUNCTIONS") else "public"
        )


# ---- what a child has ----


def test_child_goes_on(family: Host, env: Mapping[str, str]) -> None:
    """A child signs with its parent's session handle and key, logged in, through its parent's helper."""
    parent, child, grandchild, later = family.play(three_sign, env=env)

    assert 2 * MAC_BYTES == len(parent["mac"])
    assert [parent] * 3 == [child, grandchild, later]


def three_sign() -> list[dict[str, Any]]:
    """Sign in the parent, in its child, in that one's child, and in the parent again."""
    shim = Family()

    def live() -> dict[str, Any]:
        return {"mac": shim.mac(), "state": shim.state(), "slots": shim.slots()}

    def live_and_fork() -> list[dict[str, Any]]:
        return [live(), in_child(live)]

    return [live(), *in_child(live_and_fork), live()]


def test_child_has_no_helper_of_its_own(family: Host) -> None:
    """A child's first calls start nothing: it is served by its parent's helper, also after C_Initialize."""
    parent, child, initialized = family.play(helpers_of_a_family)

    assert ["soft"] == list(parent)
    assert {} == child
    assert ["CKR_OK", "CKR_CRYPTOKI_ALREADY_INITIALIZED", "user", {}] == initialized


def helpers_of_a_family() -> list[Any]:
    """Tell which helpers the broker started for us, for a child, and for one that calls C_Initialize."""
    shim = Family()

    def use() -> dict[str, int]:
        shim.mac()
        return helpers()

    def initialize() -> list[Any]:
        rvs = [shim.rv("C_Initialize", None) for _ in range(2)]
        return [*rvs, shim.state(), helpers()]

    return [helpers(), in_child(use), in_child(initialize)]


def test_status_tells_who_shares_a_helper(family: Host) -> None:
    """The broker's status lists, for a shared helper, the processes that it serves now."""
    before, during, after = family.play(who_shares)

    assert 1 == len(before)
    assert [*before, during[0]] == during[1]
    assert before == after


def who_shares() -> list[Any]:
    """Ask who shares our helper before a child calls, while it lives, and when it has ended."""
    shim = Family()
    ours = os.getpid()
    before = sharers(ours)
    during = in_child(lambda: [os.getpid(), shim.state() and sharers(ours)])
    end = time.monotonic() + PATIENCE
    while len(after := sharers(ours)) > 1 and time.monotonic() < end:
        time.sleep(0.01)
    return [before, during, after]


def sharers(pid: int) -> list[int]:
    """Return whom the helper serves that was started for a process."""
    with Door.of_broker(socket_path()) as door, door.open() as channel:
        status: Any = channel.call("status", [{}])
    [helper] = [each["helpers"][0] for each in status["applications"] if each["pid"] == pid]
    found: list[int] = helper["shared"]
    return found


def test_operations_are_each_ones_own(family: Host, env: Mapping[str, str]) -> None:
    """An operation that was active at the fork is not in the child, and goes on in the parent."""
    child, parent, expected = family.play(active_at_fork, env=env)

    assert "CKR_OPERATION_NOT_INITIALIZED" == child[0]
    assert expected == child[1] == parent


def active_at_fork() -> list[Any]:
    """Fork within a signature."""
    shim = Family()
    expected = shim.mac()
    shim.begin_mac(shim.session)
    child = in_child(lambda: [shim.end_mac(shim.session), shim.mac()])
    return [child, shim.end_mac(shim.session), expected]


def test_all_sign_at_once(family: Host, env: Mapping[str, str]) -> None:
    """Parent, children and grandchildren sign at the same time, with the same handles, each its own data."""
    assert [True] * (2 * CHILDREN + 1) == family.play(sign_at_once, env=env)


def sign_at_once() -> list[bool]:
    """Sign many things in many processes."""
    shim = Family()
    expected = {name: shim.mac(data=name.encode()) for name in map(str, range(2 * CHILDREN + 1))}

    def is_right(name: str) -> bool:
        return all(shim.mac(data=name.encode()) == expected[name] for _ in range(ROUNDS))

    def live_and_fork(i: int) -> list[bool]:
        return [is_right(str(i)), in_child(partial(is_right, str(CHILDREN + i)))]

    children = [partial(in_child, partial(live_and_fork, i)) for i in range(CHILDREN)]
    *pairs, own = in_threads([*children, partial(is_right, str(2 * CHILDREN))])
    return [each for pair in pairs for each in pair] + [own]


def test_many_threads_use_an_inherited_session_first(odds: Host, env: Mapping[str, str]) -> None:
    """The first calls in a child may be those of many threads with one inherited session; it gets one."""
    rvs, opened = odds.play(threads_begin, env=env)

    assert ["CKR_OK"] * 8 == rvs
    assert 1 == opened


def threads_begin() -> list[Any]:
    """Use one session first with eight threads of a child; count what that opened."""
    shim = Shim()
    session = shim.begin()
    before = count_sessions(shim)

    def live() -> list[Any]:
        rvs = in_threads([partial(shim.use, session)] * 8)
        return [rvs, count_sessions(shim) - before]

    found: list[Any] = in_child(live)
    return found


def count_sessions(shim: Shim) -> int:
    """Return how many sessions the odd provider has open."""
    info = struct("CK_TOKEN_INFO")()
    shim.must("C_GetTokenInfo", shim.slots()[0], ctypes.byref(info))
    return int(info.ulSessionCount)


def test_sessions_of_parent_and_child_are_never_the_same_number(family: Host) -> None:
    """A child's new session has a handle that its parent never had nor will have; objects are shared."""
    parent, child = family.play(open_in_both)

    assert set() == set(parent) & set(child["sessions"])
    assert child["parent's key"]
    assert GONE == child["parent's later session"]


def open_in_both() -> list[Any]:
    """Open sessions and make objects in both."""
    shim = Family()
    ours, theirs = os.pipe(), os.pipe()

    def live() -> dict[str, Any]:
        sessions = [shim.open_session(shim.slot) for _ in range(3)]
        os.write(ours[1], b".")
        later = int(os.read(theirs[0], 64))
        found = {"sessions": sessions, "parent's key": shim.begin_mac(sessions[0]) == "CKR_OK"}
        return found | {"parent's later session": shim.use(later)}

    def open_meanwhile() -> list[int]:
        os.read(ours[0], 1)
        sessions = [shim.open_session(shim.slot) for _ in range(3)]
        os.write(theirs[1], str(sessions[-1]).encode())
        return sessions

    child, opened = in_threads([partial(in_child, live), open_meanwhile])
    return [[shim.session, *opened], child]


def test_closed_session_is_not_inherited(family: Host) -> None:
    """A session that the parent had closed before the fork is none in the child."""
    assert [GONE, "user"] == family.play(close_then_fork)


def close_then_fork() -> list[str]:
    """Close one of two sessions and fork."""
    shim = Family()
    other = shim.open_session(shim.slot)
    shim.must("C_CloseSession", other)
    found: list[str] = in_child(lambda: [shim.use(other), shim.state()])
    return found


# ---- what a child ends is its own ----


@pytest.mark.parametrize("how", ["close", "close_all", "finalize", "exit", "kill"])
def test_end_in_a_child_is_the_childs(how: str, family: Host, env: Mapping[str, str]) -> None:
    """Whatever a child closes or ends, its parent's session, login and active operation stay."""
    parent = family.play(end_in_child, how, env=env)

    assert {"mac": True, "state": "user", "again": True} == parent


def end_in_child(how: str) -> dict[str, Any]:
    """End things in a child, within an operation of the parent's."""
    shim = Family()
    expected = shim.mac()
    ways: dict[str, Callable[[], object]] = {
        "close": lambda: shim.must("C_CloseSession", shim.session),
        "close_all": lambda: shim.must("C_CloseAllSessions", shim.slot),
        "finalize": lambda: shim.must("C_Finalize", None),
        "exit": lambda: None,
        "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    }
    shim.begin_mac(shim.session)
    pid = os.fork()
    if pid == 0:
        assert shim.mac() == expected
        assert shim.use(shim.open_session(shim.slot)) == "CKR_OK"
        ways[how]()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status == (signal.SIGKILL if how == "kill" else 0), status
    found = {"mac": shim.end_mac(shim.session) == expected, "state": shim.state()}
    return found | {"again": in_child(shim.mac) == expected}


def test_closed_in_the_child(family: Host, env: Mapping[str, str]) -> None:
    """A session that a child has closed, used or not, is closed in the child."""
    assert [["CKR_OK", GONE, GONE], ["CKR_OK", GONE, GONE]] == family.play(close_in_children, env=env)


def close_in_children() -> list[list[str]]:
    """Close a session in a child at once, and in another one after a use."""
    shim = Family()

    def close() -> list[str]:
        return [shim.rv("C_CloseSession", shim.session), shim.use(shim.session), in_child(shim.state)]

    def use_and_close() -> list[str]:
        shim.use(shim.session)
        return close()

    return [in_child(close), in_child(use_and_close)]


def test_logout_in_a_child(family: Host, env: Mapping[str, str]) -> None:
    """A child that logs out is logged out, alone. Its sessions stay, its children's too; its key is gone."""
    child, grandchild, parent = family.play(log_out_in_child, env=env)

    assert ["CKR_OK", "public", "public", NO_OBJECT] == child["after"]
    assert ["CKR_PIN_INCORRECT", "CKR_OK", "user", NO_OBJECT] == child["login"]
    assert ["soft"] == child["helpers"]
    assert "user" == grandchild
    assert {"state": "user", "mac": True} == parent


def log_out_in_child() -> list[Any]:
    """Log out in a child, fork, log in again there with a wrong PIN and the right one, and fork."""
    shim = Family()
    expected = shim.mac()

    def log_in(pin: bytes) -> str:
        return shim.rv("C_Login", shim.session, 1, pin, len(pin))

    def log_out() -> str:
        return shim.rv("C_Logout", shim.session)

    def live() -> list[Any]:
        after = [log_out(), in_child(shim.state), shim.state(), shim.mac()]
        login = [log_in(b"000000"), log_in(PIN), shim.state(), shim.mac()]
        return [{"after": after, "login": login, "helpers": list(helpers())}, in_child(shim.state)]

    child = in_child(live)
    return [*child, {"state": shim.state(), "mac": shim.mac() == expected}]


def test_logout_of_who_is_not_logged_in(family: Host) -> None:
    """C_Logout where the parent never logged in is the provider's to answer and changes nothing."""
    assert ["CKR_OK", "CKR_OK", {}] == family.play(log_out_of_nothing)


def log_out_of_nothing() -> list[Any]:
    """Log out in a child, without any login."""
    shim = Shim()
    session = shim.begin()
    found: list[Any] = in_child(lambda: [shim.rv("C_Logout", session), shim.use(session), helpers()])
    return found


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
