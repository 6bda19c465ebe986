"""The benchmark's results: ratios, the targets they are held to, and how both are shown.

Knows numbers and names of ways. Must not know how they were measured.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table

from p11host.bench.machine import this_machine
from p11host.bench.measures import Measure, Sample, Unit

OURS, DIRECT, PEER, BARE = "p11host", "direct", "p11-kit", "socketpair"
#: p11host with `sandbox = "off"`: what confining a provider costs.
UNCONFINED = "p11host without sandbox"
WAYS = (DIRECT, OURS, UNCONFINED, PEER, BARE)
HEADS = (DIRECT, OURS, "open", PEER, "bare", "× direct", "× p11-kit")
_UNITS: Mapping[Unit, Sequence[tuple[float, str]]] = {
    "ns": ((1e6, "ms"), (1e3, "µs"), (1, "ns")),
    "calls/s": ((1e3, "k/s"), (1, "/s")),
}


@dataclass(frozen=True, slots=True)
class Row:
    """What one measure gave: for each way one sample a round, in the order of the rounds."""

    measure: Measure
    samples: Mapping[str, Sequence[Sample]]

    def summary(self, way: str) -> Sample:
        """Return the median over the rounds, or why there is none."""
        rounds = self.samples.get(way, ())
        values = [sample.value for sample in rounds if sample.value is not None]
        if not values:
            return Sample(None, why=rounds[0].why if rounds else "")
        p99 = [sample.p99 for sample in rounds if sample.p99 is not None]
        return Sample(median(values), median(p99) if p99 else None)

    def speed(self, other: str) -> float | None:
        """Return how many times as fast as `other` p11host is: the median of the rounds' ratios."""
        pairs = zip(self.samples.get(OURS, ()), self.samples.get(other, ()), strict=False)
        ratios = [self.measure.speed(a.value, b.value) for a, b in pairs if a.value and b.value]
        return median(ratios) if ratios else None


@dataclass(frozen=True, slots=True)
class Bound:
    """A promise: how fast p11host is beside another way. "cost": at most so many times its time."""

    measure: str
    other: str
    kind: Literal["cost", "speed"]
    limit: float

    def holds(self, value: float) -> bool:
        """Tell whether the promise is kept."""
        return value <= self.limit if self.kind == "cost" else value >= self.limit


BOUNDS = (
    Bound("session-info", PEER, "cost", 0.8),
    Bound("session-info", BARE, "cost", 1.5),
    Bound("session-info", UNCONFINED, "cost", 1.02),
    Bound("random-8", DIRECT, "speed", 0.9),
    Bound("digest", DIRECT, "speed", 0.85),
    Bound("encrypt", DIRECT, "speed", 0.85),
    Bound("sign-1", DIRECT, "speed", 0.7),
    Bound("sign-4", DIRECT, "speed", 0.85),
    Bound("start", PEER, "cost", 1.0),
)
MEMORY_KIB = 1024


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target, what was measured, and whether that meets it; None where it could not be measured."""

    text: str
    measured: float | None
    limit: float
    met: bool | None


@dataclass(frozen=True, slots=True)
class Memory:
    """Private memory of a helper in KiB; None: `why` says why it could not be read."""

    kib: int | None
    why: str = ""


def verdicts(rows: Sequence[Row], memory: Memory) -> Iterator[Verdict]:
    """Yield every target with what was measured."""
    by_name = {row.measure.name: row for row in rows}
    for bound in BOUNDS:
        row = by_name[bound.measure]
        speed = row.speed(bound.other)
        value = None if speed is None else speed if bound.kind == "speed" else 1 / speed
        relation = "at least" if bound.kind == "speed" else "at most"
        what = "speed" if bound.kind == "speed" else "time"
        text = f"{row.measure.title}: {relation} {bound.limit:g} × the {what} of {bound.other}"
        yield Verdict(text, value, bound.limit, None if value is None else bound.holds(value))
    met = None if memory.kib is None else memory.kib <= MEMORY_KIB
    text = f"helper and sleepy provider, private memory: at most {MEMORY_KIB} KiB"
    yield Verdict(text, memory.kib, MEMORY_KIB, met)


def as_json(rows: Sequence[Row], memory: Memory, rounds: int) -> dict[str, Any]:
    """Return all results as one JSON-able object: times in ns, rates in calls a second, memory in KiB."""
    return {
        "rounds": rounds,
        "machine": asdict(this_machine()),
        "measures": [_row_as_json(row) for row in rows],
        "helper_memory": asdict(memory),
        "targets": [asdict(verdict) for verdict in verdicts(rows, memory)],
    }


def show(console: Console, rows: Sequence[Row], memory: Memory, rounds: int) -> None:
    """Print the results as two tables."""
    console.print(_results(rows, rounds))
    console.print(targets(verdicts(rows, memory)))
    if memory.why:
        console.print(f"Private memory of a helper was not read: {memory.why}.")


def number(value: float | None, unit: Unit, why: str = "") -> str:
    """Return a value with three digits and a unit that suits it, or `why` there is none."""
    if value is None:
        return why or "—"
    size, name = next((s, n) for s, n in _UNITS[unit] if value >= s or s == 1)
    return f"{_digits(value / size)} {name}"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _row_as_json(row: Row) -> dict[str, Any]:
    return {
        "name": row.measure.name,
        "title": row.measure.title,
        "unit": row.measure.unit,
        "ways": {way: asdict(row.summary(way)) for way in WAYS},
        "speed": {other: row.speed(other) for other in (DIRECT, UNCONFINED, PEER, BARE)},
    }


def _results(rows: Iterable[Row], rounds: int) -> Table:
    shown = table(f"Medians of {rounds} interleaved rounds", "", *HEADS)
    shown.caption = (
        f"{this_machine()}. "
        "open: without sandbox. bare: as many bytes over a socketpair, there and back; "
        "of ECDSA, as much work handed over and back. "
        "The last two columns: how many times as fast p11host is."
    )
    for row in rows:
        ratios = [_ratio(row.speed(DIRECT)), _ratio(row.speed(PEER))]
        found = [row.summary(way) for way in WAYS]
        cells = [number(sample.value, row.measure.unit, sample.why) for sample in found]
        shown.add_row(row.measure.short, *cells, *ratios)
        if any(sample.p99 is not None for sample in found):
            tails = ["" if sample.p99 is None else number(sample.p99, row.measure.unit) for sample in found]
            shown.add_row("  99th percentile", *tails, style="dim")
    return shown


def table(title: str, first: str, *numbers: str) -> Table:
    """Return a table with a column of names and others of numbers."""
    made = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=0)
    made.add_column(first, no_wrap=True)
    for name in numbers:
        made.add_column(name, justify="right", min_width=8)
    return made


def _ratio(value: float | None) -> str:
    return "—" if value is None else f"{_digits(value)} ×"


def targets(found: Iterable[Verdict]) -> Table:
    """Return a table of targets, with whether each is met."""
    shown = table("Targets", "target", " measured", " ")
    shown.columns[0].no_wrap = False
    words = {True: "[green]met[/]", False: "[red]not met[/]", None: "not measured"}
    for verdict in found:
        measured = "—" if verdict.measured is None else _digits(verdict.measured)
        shown.add_row(verdict.text, measured, words[verdict.met])
    return shown
