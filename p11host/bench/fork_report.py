"""What `p11host bench --fork` measured: medians over the rounds, and how they are shown.

Knows numbers and names of ways. Must not know how they were measured.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from statistics import median
from typing import Any

from rich.console import Console

from p11host.bench.prefork import FORK_WAYS, Memory, Plan, Sample
from p11host.bench.report import number, table

Samples = Mapping[str, Sequence[Sample]]
_NONE = "—"


def as_json(plan: Plan, found: Samples) -> dict[str, Any]:
    """Return the medians as one JSON-able object: times in ns, memory in KiB; None: there is no such way."""
    return {**asdict(plan), "ways": {way: summary(found[way]) for way in FORK_WAYS}}


def summary(rounds: Sequence[Sample]) -> dict[str, Any] | None:
    """Return the medians over the rounds, None if there were none."""
    if not rounds:
        return None
    return {
        "all_signed": median(each.all_signed for each in rounds),
        "refused": median(each.refused for each in rounds),
        "first": median(each.first for each in rounds),
        "memory": _memory([each.memory for each in rounds if each.memory is not None]),
        "why": rounds[0].why,
    }


def _memory(rounds: Sequence[Memory]) -> dict[str, float] | None:
    if not rounds:
        return None
    names = [field.name for field in fields(Memory)]
    return {name: median(getattr(each, name) for each in rounds) for name in names}


def show(console: Console, plan: Plan, found: Samples) -> None:
    """Print the medians as a table."""
    ways = {way: summary(found[way]) for way in FORK_WAYS}
    shown = table(f"Medians of {plan.rounds} interleaved rounds", "", *FORK_WAYS)
    shown.caption = "Memory is the proportional set size."
    for title, cell in _rows(plan):
        shown.add_row(title, *(_NONE if each is None else cell(each) for each in ways.values()))
    console.print(shown)
    for why in {each["why"] for each in ways.values() if each and each["why"]}:
        console.print(f"Memory was not read: {why}.")


def _rows(plan: Plan) -> Sequence[tuple[str, Callable[[Mapping[str, Any]], str]]]:
    return (
        (f"{plan.workers} workers have signed after", lambda way: number(way["all_signed"], "ns")),
        ("  refused, and tried again", lambda way: f"{way['refused']:.0f}"),
        ("a child's first call to first signature", lambda way: number(way["first"], "ns")),
        (f"memory of {plan.workers} workers and their parent", lambda way: _mebibytes(way, "application")),
        ("  of helpers, or of p11-kit's", lambda way: _mebibytes(way, "helpers")),
        ("  of the broker, or p11-kit's server", lambda way: _mebibytes(way, "daemon")),
    )


def _mebibytes(way: Mapping[str, Any], of: str) -> str:
    return f"{way['memory'][of] / 1024:.1f} MiB" if way["memory"] else _NONE
