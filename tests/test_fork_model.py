"""Trees of processes that fork, call, log in and out and end as chance has it: all is as the model says.

More, and others each time: with P11HOST_FORK_MODEL=100 so many of each kind are grown.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from brokers import module
from cryptoki import constant
from fork_model import Handle, Helper, Subject
from fork_tree import Grove, Process, growing
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from life import Host, hosted

from p11host.tables import tables
from p11host.throwaway import Token, make_token

pytest_plugins = ["life_fixtures"]

TREES = int(os.environ.get("P11HOST_FORK_MODEL", "0"))
#: Without that: few, and always the same.
FEW, STEPS = 6, 6
DEEPEST, MOST = 4, 8
RW = constant("CKF_SERIAL_SESSION") | constant("CKF_RW_SESSION")
RO = constant("CKF_SERIAL_SESSION")
STATES = {
    (RW, True): constant("CKS_RW_USER_FUNCTIONS"),
    (RW, False): constant("CKS_RW_PUBLIC_SESSION"),
    (RO, True): constant("CKS_RO_USER_FUNCTIONS"),
    (RO, False): constant("CKS_RO_PUBLIC_SESSION"),
}
#: What a process may do, by how often.
DEEDS = {
    8: ("fork", "look"),
    6: ("use",),
    4: ("make",),
    3: ("open", "log_in", "log_out", "end_operation"),
    2: ("initialize", "close", "begin_operation", "fork_and_leave"),
    1: ("finalize", "list_slots", "close_all", "leave", "be_killed"),
}


@dataclass(frozen=True)
class Choice:
    """What a process does, and numbers that choose who and with what."""

    deed: str
    process: int
    session: int
    thing: int
    anyone: bool
    """Of any session, be it good or not; otherwise one that is good, if there is one."""


Deed = Callable[[Process, Subject, Choice], None]
CHOICES = st.builds(
    Choice,
    st.sampled_from([deed for times, deeds in DEEDS.items() for deed in deeds * times]),
    st.integers(0, 1 << 16),
    st.integers(0, 1 << 16),
    st.integers(0, 1 << 16),
    st.integers(0, 3).map(lambda number: number == 1),
)


class Trees(RuleBasedStateMachine):
    """One tree, and what should become of it."""

    def __init__(self, grove: Grove, mode: str) -> None:
        super().__init__()
        self.grove, self.mode = grove, mode
        self.living: list[tuple[Process, Subject]] = []
        self.given: dict[str, list[Handle]] = {"session": [], "object": []}
        self.slots: list[int] = []
        self.names = 0

    @initialize(is_used=st.booleans(), choices=st.lists(CHOICES, min_size=10, max_size=40))
    def begin(self, is_used: bool, choices: list[Choice]) -> None:  # noqa: FBT001 (drawn by name)
        """Begin with a program that has loaded the shim, or has used it too."""
        self.living.append((self.grove.seed.fork(), Subject(self.mode, tables().life.first)))
        for deed in ("initialize", "open", "log_in", "make") if is_used else ():
            self.do(Choice(deed, 0, 0, 0, anyone=False))
        self.go_on(choices)

    @rule(choices=st.lists(CHOICES, min_size=10, max_size=40))
    def go_on(self, choices: list[Choice]) -> None:
        """Do some things."""
        for choice in choices:
            self.do(choice)

    def do(self, choice: Choice) -> None:
        """Let a process do something."""
        process, subject = self.living[choice.process % len(self.living)]
        deed: Deed = getattr(self, choice.deed)
        deed(process, subject, choice)

    # ---- processes ----

    def fork(self, process: Process, subject: Subject, _: Choice) -> None:
        """Fork."""
        if subject.depth < DEEPEST and len(self.living) < MOST:
            self.living.append((process.fork(), subject.fork()))

    def fork_and_leave(self, process: Process, subject: Subject, choice: Choice) -> None:
        """Fork as daemons do: the child forks too, and ends before the grandchild calls."""
        if subject.depth + 1 < DEEPEST and len(self.living) + 1 < MOST:
            self.fork(process, subject, choice)
            self.fork(*self.living[-1], choice)
            self.leave(*self.living[-2], choice)

    def leave(self, process: Process, subject: Subject, _: Choice) -> None:
        """End a process, which closes nothing. One is left."""
        if len(self.living) > 1:
            process.end()
            subject.end()
            self.living.remove((process, subject))

    def be_killed(self, process: Process, subject: Subject, choice: Choice) -> None:
        """Kill a process. One is left."""
        if len(self.living) > 1:
            process.kill()
            self.leave(process, subject, choice)

    # ---- calls about the process ----

    def initialize(self, process: Process, subject: Subject, _: Choice) -> None:
        """Call C_Initialize."""
        assert [subject.take("C_Initialize")] == process.tell("initialize")

    def finalize(self, process: Process, subject: Subject, _: Choice) -> None:
        """Call C_Finalize."""
        expected = subject.take("C_Finalize")
        assert [expected] == process.tell("finalize")
        if expected == "CKR_OK":
            subject.end()

    def list_slots(self, process: Process, subject: Subject, _: Choice) -> None:
        """List slots: they are the same in all."""
        expected = subject.take("call")
        rv, slots = process.tell("list_slots")
        assert expected == rv
        if rv == "CKR_OK":
            self.slots = self.slots or slots
            assert self.slots == slots

    # ---- sessions ----

    def open(self, process: Process, subject: Subject, choice: Choice) -> None:
        """Open a session: its handle is one that this process never saw."""
        if not self.slots:
            self.list_slots(process, subject, choice)
        flags = RO if choice.thing % 4 == 1 else RW
        expected = subject.take("call")
        rv, number = process.tell("open", self.slots[0] if self.slots else 1, flags)
        assert expected == rv
        if rv == "CKR_OK":
            assert subject.helper is not None
            session = Handle("session", number, flags, subject.helper)
            subject.learn(session)
            subject.touch(session)
            self.given["session"].append(session)

    def pick(self, subject: Subject, choice: Choice) -> Handle | None:
        """Return a session that is good there, if any is; now and then one from anywhere."""
        good = [] if choice.anyone else subject.sessions()
        some = good or self.given["session"]
        picked = some[choice.session % len(some)] if some else None
        return picked if picked and subject.origin(picked) else None

    def use(self, process: Process, subject: Subject, choice: Choice) -> tuple[Handle, Helper] | None:
        """Use a session: it is the one that it was, and as much logged in as those who share its login."""
        session = self.pick(subject, choice)
        if session is None:
            return None
        expected = subject.take(f"session.{subject.origin(session)}")
        rv, flags, state = process.tell("info", session.number)
        assert expected == rv
        if rv != "CKR_OK":
            return None
        helper = subject.touch(session)
        if helper.logged_in is None:
            helper.logged_in = state == STATES[flags, True]
        assert (session.says, STATES[flags, helper.logged_in]) == (flags, state)
        return session, helper

    def close(self, process: Process, subject: Subject, choice: Choice) -> None:
        """Close a session: here, and nowhere else."""
        session = self.pick(subject, choice)
        if session is None:
            return
        expected = subject.take(f"session.{subject.origin(session)}")
        assert [expected] == process.tell("close", session.number)
        if expected == "CKR_OK":
            subject.forget(session)

    def close_all(self, process: Process, subject: Subject, _: Choice) -> None:
        """Close all sessions: here, and nowhere else."""
        if not self.slots:
            return
        expected = subject.take("call")
        assert [expected] == process.tell("close_all", self.slots[0])
        for session in subject.sessions() if expected == "CKR_OK" else []:
            subject.forget(session)

    def log_in(self, process: Process, subject: Subject, choice: Choice) -> None:
        """Log in."""
        if used := self.use(process, subject, choice):
            session, helper = used
            expected = "CKR_USER_ALREADY_LOGGED_IN" if helper.logged_in else "CKR_OK"
            assert [expected] == process.tell("log_in", session.number)
            helper.logged_in = True

    def log_out(self, process: Process, subject: Subject, choice: Choice) -> None:
        """Log out: who has inherited a login, itself alone."""
        if used := self.use(process, subject, choice):
            session, helper = used
            assert ["CKR_OK"] == process.tell("log_out", session.number)
            subject.log_out(helper)

    # ---- objects and operations ----

    def make(self, process: Process, subject: Subject, choice: Choice) -> None:
        """Make an object: its handle is one that this process never saw."""
        if used := self.use(process, subject, choice):
            session, helper = used
            label = f"object {len(self.given['object'])}"
            rv, number = process.tell("make", session.number, label)
            assert rv == "CKR_OK"
            made = Handle("object", number, label, helper, (subject, session))
            subject.learn(made)
            helper.made.add(made)
            self.given["object"].append(made)

    def look(self, process: Process, subject: Subject, choice: Choice) -> None:
        """Look at an object, known or not: if there is one of that handle, it is the one that it was."""
        used, made = self.use(process, subject, choice), self.given["object"]
        if not (used and made):
            return
        session, thing = used[0], made[choice.thing % len(made)]
        origin = subject.origin(thing)
        expected = subject.take(f"object.{origin}") if origin else ""
        rv, label = process.tell("label", session.number, thing.number)
        if thing.doubtful and expected == "CKR_OK":
            assert rv in ("CKR_OK", "CKR_OBJECT_HANDLE_INVALID")
        elif origin:
            assert expected == rv
        assert not origin or label == (thing.says if rv == "CKR_OK" else "")

    def begin_operation(self, process: Process, subject: Subject, choice: Choice) -> None:
        """Begin an operation."""
        if used := self.use(process, subject, choice):
            expected = "CKR_OPERATION_ACTIVE" if used[0] in subject.active else "CKR_OK"
            assert [expected] == process.tell("begin_digest", used[0].number)
            subject.active.add(used[0])

    def end_operation(self, process: Process, subject: Subject, choice: Choice) -> None:
        """End an operation: it is this process's own, whoever else uses the session."""
        if used := self.use(process, subject, choice):
            digest = hashlib.sha256(b"data").hexdigest()
            active = used[0] in subject.active
            expected = ["CKR_OK", digest] if active else ["CKR_OPERATION_NOT_INITIALIZED", ""]
            assert expected == process.tell("digest", used[0].number, "data")
            subject.active.discard(used[0])

    def teardown(self) -> None:
        """End what is left."""
        for process, _ in self.living:
            with suppress(AssertionError):
                process.end()


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Token:
    """Return a token for all: what is made there lives no longer than its helper."""
    return make_token(tmp_path_factory.mktemp("token"))


@pytest.fixture(scope="module", params=sorted(tables().life.modes))
def mode(request: pytest.FixtureRequest) -> str:
    """Return each value of `fork`."""
    return str(request.param)


@pytest.fixture(scope="module")
def host(mode: str, token: Token, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """Return a broker with a module of that mode."""
    table = module("soft", token.provider, env=dict(token.env), fork=mode)
    with hosted(tmp_path_factory.mktemp(mode), table) as host:
        yield host


@pytest.fixture(params=["page", "pid"])
def grove(request: pytest.FixtureRequest, host: Host, tmp_path: Path) -> Iterator[Grove]:
    """Return where trees grow, for each way to notice a fork."""
    with growing(host, tmp_path / "tree", {"P11HOST_FORK_DETECTION": request.param}) as grove:
        yield grove


@pytest.mark.timeout(900 + TREES * 10)  # most of it to find the smallest tree that fails
def test_a_tree_of_processes(grove: Grove, mode: str) -> None:
    """Whatever processes do, each call returns what the table says, and touches nobody else."""
    chosen = settings(
        derandomize=not TREES,
        max_examples=TREES or FEW,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(partial(Trees, grove, mode), settings=chosen)  # type: ignore[arg-type] # or what makes one
