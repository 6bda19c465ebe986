"""The rule of section 4.10 of PROTOCOL.md as a model: one slot, a helper that watches it, a caller that asks.

Every interleaving of what can happen is explored, for so many changes, ends and failures as the budgets say.
Nothing is called. A `Rule` that differs from the protocol's shows what would go wrong.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

#: What can be in the slot: nothing, and two tokens that can be told apart.
TOKENS = (0, 1, 2)
#: Events that a helper remembers; how far apart the numbers of two lives begin.
REMEMBERED, APART = 2, 100


class WrongError(Exception):
    """What the rule promises does not hold; and what happened up to there."""


@dataclass(frozen=True)
class Rule:
    """The protocol's rule; each of these can be broken."""

    state_with_number: bool = True
    """A state is read in one step with its number. Else the number is read after it."""
    number_first: bool = False
    """Where these are two steps: the number before the state."""
    ear_before_check: bool = True
    """Who waits can be woken from before it looks whether it has to wait."""
    numbers_grow: bool = True
    """Numbers of a life are above those of the last."""
    gap_is_told: bool = True
    """A number that is too old is answered by the state, not by what is left."""
    number_by_answer: bool = True
    """The caller's number is that of the last answer it received, not of the last that was sent."""
    swap_is_two: bool = True
    """One token in the place of another is two events."""


@dataclass(frozen=True)
class Helper:
    """A life: what it has seen, and what it has told."""

    life: int
    begun: int
    number: int
    known: int
    log: tuple[tuple[int, int], ...] = ()

    def has(self, after: int) -> bool:
        """Tell whether it remembers all after a number."""
        return self.begun <= after <= self.number and self.number - after <= len(self.log)

    def news(self, after: int | None) -> bool:
        """Tell whether there is anything to say."""
        return after is None or after != self.number


@dataclass(frozen=True)
class Thread:
    """What answers a request: where it is in that, and what it has read so far."""

    at: str
    after: int | None
    rung: bool = False
    part: int = 0


@dataclass(frozen=True)
class Message:
    """An answer on its way."""

    kind: str
    life: int
    number: int
    states: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Caller:
    """What the caller knows."""

    number: int | None = None
    life: int = 0
    view: int | None = None


@dataclass(frozen=True)
class World:
    """All there is, at one moment."""

    slot: int = 0
    helper: Helper | None = Helper(1, 0, 0, 0)
    thread: Thread | None = None
    answer: Message | None = None
    caller: Caller = Caller()
    changes: int = 3
    ends: int = 1
    losses: int = 1
    patience: int = 1
    last_life: int = 1
    last_number: int = 0


Step = tuple[str, World]


def steps(world: World, rule: Rule) -> Iterator[Step]:
    """Yield everything that can happen next."""
    if world.changes:
        for token in TOKENS:
            if token != world.slot:
                yield f"change to {token}", replace(world, slot=token, changes=world.changes - 1)
    if world.helper is None:
        yield "restart", restarted(world, rule)
    else:
        yield from of_helper(world, world.helper, rule)
    if world.answer is not None:
        yield "receive", received(world, world.answer, rule)
    if world.losses and (world.thread or world.answer):
        yield "lose the channel", replace(world, thread=None, answer=None, losses=world.losses - 1)


def restarted(world: World, rule: Rule) -> World:
    """Return the world with the next helper, which looks before it answers anybody."""
    begun = world.last_number + APART if rule.numbers_grow else 0
    helper = Helper(world.last_life + 1, begun, begun, world.slot)
    return replace(world, helper=helper, last_life=helper.life)


def of_helper(world: World, helper: Helper, rule: Rule) -> Iterator[Step]:
    """Yield what a living helper, or a caller of it, can do."""
    if world.slot != helper.known:
        yield "look", looked(world, helper, rule)
    if world.thread is None and world.answer is None:
        thread = Thread("lent" if rule.ear_before_check else "check", world.caller.number)
        yield "ask", replace(world, thread=thread)
    elif world.thread is not None:
        yield from of_thread(world, helper, world.thread, rule)
    if world.ends:
        number = max(world.last_number, helper.number)
        yield "die", replace(world, helper=None, thread=None, ends=world.ends - 1, last_number=number)


def looked(world: World, helper: Helper, rule: Rule) -> World:
    """Return the world after a look: what changed is logged, and who waits is woken, in one step."""
    both = bool(helper.known and world.slot and rule.swap_is_two)
    found = [0, world.slot] if both else [world.slot]
    new = tuple((helper.number + n, state) for n, state in enumerate(found, 1))
    log = (helper.log + new)[-REMEMBERED:]
    thread = world.thread
    if thread is not None and thread.at in ("lent", "asleep"):
        thread = replace(thread, rung=True)
    after = replace(helper, known=world.slot, number=helper.number + len(new), log=log)
    return replace(world, helper=after, thread=thread)


def of_thread(world: World, helper: Helper, thread: Thread, rule: Rule) -> Iterator[Step]:
    """Yield the next step of what answers."""
    news = helper.news(thread.after)
    match thread.at:
        case "lent":
            yield "check", replace(world, thread=replace(thread, at="answer" if news else "asleep"))
        case "check":
            yield "check", replace(world, thread=replace(thread, at="answer" if news else "unlent"))
        case "unlent":
            yield "lend an ear", replace(world, thread=replace(thread, at="asleep"))
        case "asleep":
            if thread.rung:
                again = replace(thread, at="answer" if news else "asleep", rung=False)
                yield "wake", replace(world, thread=again)
            if world.patience:
                ended = replace(world, thread=replace(thread, at="answer"), patience=world.patience - 1)
                yield "time-out or cancel", ended
        case "answer" | "half":
            yield answered(world, helper, thread, rule)


def answered(world: World, helper: Helper, thread: Thread, rule: Rule) -> Step:
    """Return the step in which an answer is made, or half of one where the rule is broken so."""
    after = thread.after
    left = tuple((number, state) for number, state in helper.log if after is None or number > after)
    can_tell = after is not None and (helper.has(after) or (not rule.gap_is_told and bool(left)))
    number, state = helper.number, helper.known
    if not can_tell and not rule.state_with_number:
        if thread.at == "answer":
            part = number if rule.number_first else state
            return "read half of it", replace(world, thread=replace(thread, at="half", part=part))
        number, state = (thread.part, state) if rule.number_first else (number, thread.part)
    kind, states = ("events", left) if can_tell else ("state", ((0, state),))
    message = Message(kind, helper.life, number, states)
    caller = world.caller if rule.number_by_answer else replace(world.caller, number=number, life=helper.life)
    return f"answer {message.kind}", replace(world, thread=None, answer=message, caller=caller)


def received(world: World, message: Message, rule: Rule) -> World:
    """Return the world in which the caller has read an answer; WrongError if it can tell that it is wrong."""
    caller = world.caller
    view = message.states[-1][1] if message.states else caller.view
    if message.kind == "events":
        check_events(caller, message, rule)
    caller = Caller(message.number, message.life, view)
    return replace(world, answer=None, caller=caller)


def check_events(caller: Caller, message: Message, rule: Rule) -> None:
    """Raise WrongError unless these events are those that come next, each once."""
    if caller.life != message.life:
        raise WrongError("events of another life")
    view = caller.view
    first = message.number - len(message.states) + 1
    for number, (told, state) in enumerate(message.states, first):
        if told != number or (rule.number_by_answer and first != (caller.number or 0) + 1):
            raise WrongError("a gap")
        if state == view:
            raise WrongError("an event twice")
        if state and view:
            raise WrongError("a token that was never pulled")
        view = state


def check(world: World, *, is_last: bool) -> None:
    """Raise WrongError if somebody sleeps who should not, or in the end knows something wrong."""
    helper, thread = world.helper, world.thread
    if helper and thread and thread.at == "asleep" and not thread.rung and helper.news(thread.after):
        raise WrongError("somebody sleeps while there is an event")
    if is_last and (
        helper is None or world.caller.view != world.slot or world.caller.number != helper.number
    ):
        raise WrongError("an event is lost")


@dataclass(frozen=True)
class Explored:
    """How many worlds there are, how many of them are last, and what can happen."""

    worlds: int
    last: int
    steps: frozenset[str]


def explore(rule: Rule, first: World | None = None) -> Explored:
    """Go through every world that can come of the first; WrongError with the shortest way to a wrong one."""
    begin = first or World()
    way: dict[World, tuple[str, World] | None] = {begin: None}
    queue, last, happened = deque([begin]), 0, set[str]()
    while queue:
        world = queue.popleft()
        try:
            following = list(steps(world, rule))
            check(world, is_last=not following)
        except WrongError as error:
            raise WrongError(f"{error}: {', '.join(told(way, world))}") from None
        last += not following
        for name, after in following:
            happened.add(name)
            if after not in way:
                way[after] = (name, world)
                queue.append(after)
    return Explored(len(way), last, frozenset(happened))


def told(way: dict[World, tuple[str, World] | None], world: World) -> list[str]:
    """Return the names of the steps that led to a world."""
    names = []
    while (step := way[world]) is not None:
        name, world = step
        names.append(name)
    return names[::-1]
