"""What should come of a tree of processes that fork: the table of specs/life.toml, and whose is what.

A model: it makes no call. Knows who shares a helper with whom, what is open there, and where each handle
comes from. What a call returns for a handle of that origin is the table's to say.
"""

from dataclasses import dataclass, field

from p11host.tables import Step, tables

GENERATION_SHIFT = 48


@dataclass(eq=False)
class Helper:
    """A helper, its login, and the sessions that living processes have open there."""

    logged_in: bool | None = False
    """None where it cannot be known: it may have ended with a session of a process that is no more."""
    haunted: bool = False
    """What a process that is no more had open may be open yet, and keep the login."""
    open: set[tuple["Subject", "Handle"]] = field(default_factory=set)
    made: set["Handle"] = field(default_factory=set)

    def close(self, subject: "Subject", session: "Handle") -> None:
        """Note that a process closed a session: its objects go with it, and with the last one the login."""
        if (subject, session) not in self.open:
            return
        self.open.remove((subject, session))
        for each in self.made:
            each.dead = each.dead or each.session == (subject, session)
        if not self.open and self.logged_in:
            self.logged_in = None if self.haunted else False

    def abandon(self, subject: "Subject") -> None:
        """Note that a process has gone without closing anything."""
        left = {pair for pair in self.open if pair[0] is subject}
        self.haunted = self.haunted or bool(left)
        self.open -= left
        for each in self.made:
            each.doubtful = each.doubtful or each.session in left


@dataclass(eq=False)
class Handle:
    """A handle, as it was given out."""

    kind: str
    number: int
    says: int | str
    """What tells it from others: the flags of a session, the label of an object."""
    helper: Helper
    session: tuple["Subject", "Handle"] | None = None
    """Of an object: in which session of whom it was made."""
    dead: bool = False
    doubtful: bool = False
    """Nobody can tell if it is dead."""

    @property
    def generation(self) -> int:
        """Of the life it is of: the highest 16 of 64 bits."""
        return self.number >> GENERATION_SHIFT


@dataclass(eq=False)
class Subject:
    """A process: what it is, its helper, and the handles that it knows, by kind and number."""

    mode: str
    state: str
    depth: int = 0
    helper: Helper | None = None
    is_heir: bool = False
    known: dict[tuple[str, int], Handle] = field(default_factory=dict)
    origins: dict[Handle, str] = field(default_factory=dict)
    newest: int = 0
    """Of the generations known at the fork. Later ones it draws itself, as does any other process."""
    active: set[Handle] = field(default_factory=set)
    """Sessions with an operation."""

    # ---- what it is ----

    def step(self, event: str) -> Step:
        """Return what an event does; it must be one that can happen."""
        found = tables().life.step(self.mode, self.state, event)
        assert found is not None, f"{self.mode}, {self.state}: no row for {event}"
        return found

    def take(self, event: str) -> str:
        """Let an event happen; return what it returns."""
        before, step = self.state, self.step(event)
        self.state = step.state
        anew = event == "C_Initialize" and before in ("new", "ended")
        used = event not in ("C_Initialize", "C_Finalize") and step.rv == "CKR_OK"
        if self.helper is None and (anew or used):
            self.helper = Helper()
            self.is_heir = False
        return step.rv

    def fork(self) -> "Subject":
        """Return a child."""
        life = tables().life
        child = Subject(self.mode, life.forks[self.state], self.depth + 1)
        if life.modes[self.mode]:
            child.helper, child.is_heir = self.helper, self.helper is not None
        child.known = dict(self.known)
        child.newest = max((handle.generation for handle in self.known.values()), default=0)
        child.origins = {
            handle: "parents" if origin == "own" else origin for handle, origin in self.origins.items()
        }
        return child

    def end(self) -> None:
        """Note its end, or that of its life."""
        if self.helper:
            self.helper.abandon(self)
        self.helper, self.is_heir = None, False
        self.active.clear()
        self.origins = dict.fromkeys(self.origins, "past")

    # ---- handles ----

    def learn(self, handle: Handle) -> None:
        """Take a new handle. It must not be one that it ever knew."""
        place = (handle.kind, handle.number)
        assert place not in self.known, f"{handle.kind} {handle.number:#x} is another's: {self.known[place]}"
        self.known[place] = handle
        self.origins[handle] = "own"

    def origin(self, handle: Handle) -> str | None:
        """Return where a handle comes from, as the table has it; None if its number may be another's too."""
        known = self.known.get((handle.kind, handle.number))
        if known is handle:
            origin = self.origins[handle]
            return "past" if handle.dead and origin in ("own", "parents") else origin
        if known or self._names_another(handle):
            return None
        if self.helper is not handle.helper:
            return None if self._may_be_another(handle) else "strange"
        return "past" if handle.dead else "shared"

    def _names_another(self, handle: Handle) -> bool:
        made = self.helper.made if self.helper else set()
        return any(
            each is not handle and (each.kind, each.number) == (handle.kind, handle.number) for each in made
        )

    def _may_be_another(self, handle: Handle) -> bool:
        """Tell if it may have a session of that number unknown to it: one opened for an inherited one."""
        return tables().life.modes[self.mode] and handle.kind == "session" and handle.generation > self.newest

    def is_good(self, session: Handle) -> bool:
        """Tell whether it may use a session."""
        origin = self.origin(session)
        return origin in ("own", "parents") and self.step(f"session.{origin}").rv == "CKR_OK"

    def touch(self, session: Handle) -> Helper:
        """Note the use of a good session; return the helper in which it is open now."""
        assert self.helper is not None
        self.helper.open.add((self, session))
        return self.helper

    def forget(self, session: Handle) -> None:
        """Note that a session is closed."""
        if self.helper:
            self.helper.close(self, session)
        self.origins[session] = "past"
        self.active.discard(session)

    def sessions(self) -> list[Handle]:
        """Return the sessions that it may use."""
        return [each for each in self.origins if each.kind == "session" and self.is_good(each)]

    # ---- logging out ----

    def log_out(self, helper: Helper) -> None:
        """Note that it has logged out: all who share its helper or, if it has inherited that, itself."""
        if not (self.is_heir and helper.logged_in):
            helper.logged_in = False
            return
        for subject, session in list(helper.open):
            if subject is self:
                helper.close(self, session)
        self.helper, self.is_heir = None, False
        self.active.clear()
        for handle in self.origins:
            if handle.kind == "object":
                self.origins[handle] = "past"
