"""Whatever an application calls: the shim gives back the CK_RV, lengths and bytes that the provider gives."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import zip_longest
from typing import Any

import pytest
from calls import Call, beginning, runs
from hypothesis import HealthCheck, given, reject, settings
from reach import reached
from way import Way

from p11host.tables import Arg, tables
from p11host.throwaway import make_token

BEGINNING = beginning()
EXAMPLES = 300
NOTHING = "random by nature"
CKR_OK = 0
NO_SUCH = {
    row.value
    for row in tables().constants.values()
    if row.name.endswith(("_HANDLE_INVALID", "SLOT_ID_INVALID"))
}


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[Way]]:
    """Return two processes that call SoftHSM directly and one through p11host, each on a token of its own."""
    with ExitStack() as stack:
        found = []
        for name in ("direct", "direct", "p11host"):
            directory = tmp_path_factory.mktemp("token")
            directory.chmod(0o700)
            way = Way(stack.enter_context(reached(name, make_token(directory))))
            stack.callback(way.stop)
            found.append(way)
        yield found


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
@given(calls=runs)
@pytest.mark.timeout(600)
def test_every_call_has_the_same_outcome(ways: Sequence[Way], calls: list[Call]) -> None:
    """Random calls in random order: in what two direct runs agree, the run through p11host agrees too."""
    calls = BEGINNING + calls
    for way in ways:
        way.ask(calls)
    first, second, ours = answers = [way.answers(calls) for way in ways]
    if any(len(found) < len(calls) for found in answers):
        start_again(ways)
    if min(len(first), len(second)) < len(calls):
        reject()  # these calls crash the provider itself: there is nothing to compare

    known: set[Any] = {"slot", "free"}
    for call, one, other, found in zip_longest(calls, first, second, ours):
        if found and found[0] != CKR_OK and found[0] in NO_SUCH and not handles(call) <= known:
            assert one[0] != CKR_OK, call
            continue
        assert agreed(one, one, other) == agreed(found, one, other), call
        known |= new_handles(call) if one[0] == CKR_OK else set()


def handles(call: Call) -> set[Any]:
    """Return the handles a call is given. Those that nobody has the shim may refuse before the provider."""
    return {given for arg, given in pairs(call) if arg.kind in ("session", "object", "slot")}


def new_handles(call: Call) -> set[Any]:
    """Return the names of the handles that a call gives."""
    return {given for arg, given in pairs(call) if arg.kind in ("out session", "out object")}


def pairs(call: Call) -> Iterator[tuple[Arg, Any]]:
    """Return a call's arguments with their rows in the tables."""
    name, arguments = call
    return zip(tables().functions[name].args, arguments, strict=True)


def start_again(ways: Sequence[Way]) -> None:
    """Give every way a new process."""
    for way in ways:
        way.stop()
        way.start()


def agreed(shown: Any, one: Any, other: Any) -> Any:
    """Return `shown` less all in which `one` and `other` differ. Of bytes that do the length is left."""
    parts = (shown, one, other)
    if all(isinstance(part, list) for part in parts) and len(one) == len(other) == len(shown):
        return [agreed(*items) for items in zip(*parts, strict=True)]
    if all(isinstance(part, dict) for part in parts):
        return {key: agreed(shown[key], one.get(key), other.get(key)) for key in shown}
    if one == other:
        return shown
    if all(isinstance(part, bytes) for part in parts) and len(one) == len(other):
        return len(shown)
    return NOTHING
