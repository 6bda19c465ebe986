"""The rule by which events are told (section 4.10 of PROTOCOL.md), in every order; and broken."""

import pytest
from event_model import Rule, World, WrongError, explore

#: Each way to break the rule, and what then happens, after so few changes.
BROKEN = {
    "the state is read, then its number": (Rule(state_with_number=False), 1, "an event is lost"),
    "the number is read, then its state": (
        Rule(state_with_number=False, number_first=True),
        3,
        "an event twice",
    ),
    "looking first, then listening": (
        Rule(ear_before_check=False),
        3,
        "somebody sleeps while there is an event",
    ),
    "every life counts from nothing": (Rule(numbers_grow=False), 3, "events of another life"),
    "what is forgotten is left out": (Rule(gap_is_told=False), 3, "a gap"),
    "what was sent counts as received": (Rule(number_by_answer=False), 1, "an event is lost"),
    "a swap is one event": (Rule(swap_is_two=False), 3, "a token that was never pulled"),
}


def test_the_rule_holds() -> None:
    """Whatever happens when, no event is lost or told twice, and nobody sleeps while there is one."""
    found = explore(Rule())

    assert found.worlds > 10_000
    assert found.last > 0
    assert {"look", "ask", "check", "wake", "die", "restart", "receive", "lose the channel"} <= found.steps
    assert {"time-out or cancel", "answer state", "answer events"} <= found.steps


@pytest.mark.parametrize(("rule", "changes", "wrong"), BROKEN.values(), ids=BROKEN)
def test_a_broken_rule_is_found(rule: Rule, changes: int, wrong: str) -> None:
    """The model can fail: each part of the rule is needed, and what goes wrong without it is what is said."""
    with pytest.raises(WrongError, match=f"^{wrong}: "):
        explore(rule, World(changes=changes))


def test_every_budget_matters() -> None:
    """With less that can happen there is less to explore: nothing in the model is idle."""
    whole = explore(Rule()).worlds
    for less in (World(changes=0), World(ends=0), World(losses=0), World(patience=0)):
        assert whole > explore(Rule(), less).worlds
