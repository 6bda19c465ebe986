"""What `p11host bench --slots` measured: medians over the rounds, targets, and how they are shown.

Knows numbers and names of ways. Must not know how they were measured.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from rich.console import Console

from p11host.bench.machine import this_machine
from p11host.bench.measures import Sample
from p11host.bench.merged import ALONE, CASES, MERGED_WAYS, Found, Plan
from p11host.bench.report import DIRECT, OURS, PEER, Verdict, number, table, targets

#: How much longer than the slowest module's own time a list of all slots may take.
MOST_TIMES = 1.2
#: Nanoseconds that finding the module of a call may add.
MOST_ROUTING = 100
_HEADS = (DIRECT, ALONE, "all", PEER, "× one", "× p11-kit")


def as_json(plan: Plan, found: Found) -> dict[str, Any]:
    """Return the medians as one JSON-able object: times in ns."""
    return {
        **asdict(plan),
        "machine": asdict(this_machine()),
        "cases": {
            case.name: {way: asdict(_middle(found[case.name][way])) for way in MERGED_WAYS} for case in CASES
        },
        "targets": [asdict(verdict) for verdict in verdicts(found)],
    }


def show(console: Console, plan: Plan, found: Found) -> None:
    """Print the medians and the targets as tables."""
    title = f"{plan.slots * plan.modules} slots of {plan.modules} modules, medians of {plan.rounds} rounds"
    shown = table(title, "", *_HEADS)
    shown.caption = (
        f"{this_machine()}. direct and one module: one of the {plan.modules}, with its {plan.slots} slots. "
        "all: p11host with all modules. p11-kit: its proxy, with a process for each. "
        "The last two columns: how many times as long p11host takes with all."
    )
    for case in CASES:
        rounds = found[case.name]
        cells = [_cell(_middle(rounds[way])) for way in MERGED_WAYS]
        ratios = [_times(_ratio(rounds, other)) for other in (ALONE, PEER)]
        shown.add_row(case.title, *cells, *ratios)
    console.print(shown)
    console.print(targets(verdicts(found)))


def verdicts(found: Found) -> Iterator[Verdict]:
    """Yield every target with what was measured."""
    for other, name in ((ALONE, "through p11host"), (DIRECT, "directly")):
        value = _ratio(found["slow"], other)
        text = f"C_GetSlotList of all: at most {MOST_TIMES:g} × the slowest module's own time, {name}"
        yield Verdict(text, value, MOST_TIMES, None if value is None else value <= MOST_TIMES)
    ours, alone = _quickest(found["routed"][OURS]), _quickest(found["routed"][ALONE])
    added = None if ours is None or alone is None else ours - alone
    text = f"a call among all modules, quickest round: at most {MOST_ROUTING} ns more than with one"
    yield Verdict(text, added, MOST_ROUTING, None if added is None else added <= MOST_ROUTING)


def _ratio(rounds: Mapping[str, Sequence[Sample]], other: str) -> float | None:
    """Return how many times as long as by another way p11host takes: the median of the rounds' own ratios."""
    pairs = zip(rounds[OURS], rounds[other], strict=True)
    values = [a.value / b.value for a, b in pairs if a.value is not None and b.value]
    return median(values) if values else None


def _quickest(rounds: Sequence[Sample]) -> float | None:
    """Return the best round: a difference as small as this drowns in what else the machine does in others."""
    return min((sample.value for sample in rounds if sample.value is not None), default=None)


def _middle(rounds: Sequence[Sample]) -> Sample:
    values = [sample.value for sample in rounds if sample.value is not None]
    return Sample(median(values)) if values else Sample(None, why=rounds[0].why)


def _cell(sample: Sample) -> str:
    return number(sample.value, "ns", sample.why)


def _times(value: float | None) -> str:
    return "—" if value is None else f"{value:.2f} ×"
