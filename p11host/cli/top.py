"""`p11host top`: calls per second, errors and times, function by function."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from p11host.cli.options import json_option
from p11host.text import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from p11host.census import Census, Counted
    from p11host.client import Channel
    from p11host.counts import Count

#: Lines of the screen that are not the table's rows.
_FRAME_LINES = 4
_PERCENTS = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class Lap:
    """What has been counted between two looks, by function, in so many seconds."""

    seconds: float
    helpers: int
    applications: int
    functions: Mapping[str, "Count"]


@dataclass(frozen=True, slots=True)
class Filter:
    """Whom to look at: None is all."""

    pid: int | None
    module: str | None

    def fits(self, helper: "Counted") -> bool:
        """Tell whether a helper is meant: by its own pid, its application's, or its module."""
        by_pid = self.pid in (None, helper.pid, helper.application)
        return by_pid and self.module in (None, helper.module)


@click.command(short_help="Show what is called, how often, and how long it takes.")
@click.option("-p", "--pid", type=int, help="Only this application's, or this helper's, calls.")
@click.option("-m", "--module", metavar="NAME", help="Only calls to this module.")
@click.option(
    "-n",
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option("--once", is_flag=True, help="Print one interval and end.")
@json_option
def top(pid: int | None, module: str | None, interval: float, *, once: bool, as_json: bool) -> None:
    """Show the calls that providers answer, function by function, until interrupted.

    The times are those in the provider. All slow calls are timed and some of the quick ones, which stand
    for the others. With --json there is a line for each interval.
    """
    from rich.console import Console  # noqa: PLC0415

    from p11host.start import open_door  # noqa: PLC0415

    with (
        open_door(start=False) as door,
        door.open("p11host top") as channel,
        contextlib.suppress(KeyboardInterrupt),
    ):
        laps = _laps(channel, Filter(pid, module), interval)
        console = Console(highlight=False)
        if as_json:
            _print(laps, once=once)
        elif once or not console.is_terminal:
            _list(console, laps, once=once)
        else:
            _watch(console, laps)


def _print(laps: Iterator[Lap], *, once: bool) -> None:
    for lap in laps:
        click.echo(json.dumps(_described(lap)))
        if once:
            return


def _list(console: "Console", laps: Iterator[Lap], *, once: bool) -> None:
    for lap in laps:
        console.print(_screen(lap))
        if once:
            return


def _watch(console: "Console", laps: Iterator[Lap]) -> None:
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    with Live(Text("looking …"), console=console, screen=True, auto_refresh=False) as live:
        for lap in laps:
            live.update(_screen(lap, console.height - _FRAME_LINES), refresh=True)


def _laps(channel: "Channel", wanted: Filter, interval: float) -> Iterator[Lap]:
    before = _look(channel)
    while True:
        time.sleep(interval)
        now = _look(channel)
        yield _between(before, now, wanted)
        before = now


def _look(channel: "Channel") -> "Census":
    from p11host.census import Census  # noqa: PLC0415

    return Census.of(channel.call("counts", [{}]))


def _between(before: "Census", now: "Census", wanted: Filter) -> Lap:
    """Return what the helpers that live have counted in between."""
    from p11host.counts import since, total  # noqa: PLC0415

    known = {helper.pid: helper.functions for helper in before.helpers}
    helpers = [helper for helper in now.helpers if wanted.fits(helper)]
    functions = total(since(helper.functions, known.get(helper.pid, {})) for helper in helpers)
    applications = len({helper.application for helper in helpers})
    return Lap(max(now.at - before.at, 1e-3), len(helpers), applications, functions)


def _busiest(lap: Lap) -> "list[tuple[str, Count]]":
    """Return the functions that were called, or are being called, the busiest first."""
    active = [(name, count) for name, count in lap.functions.items() if count.calls or count.inside]
    return sorted(active, key=lambda each: (-each[1].calls, each[0]))


def _described(lap: Lap) -> dict[str, Any]:
    """Return a lap for JSON; times in microseconds."""
    functions = {name: _described_count(count, lap.seconds) for name, count in _busiest(lap)}
    return {
        "seconds": round(lap.seconds, 3),
        "applications": lap.applications,
        "helpers": lap.helpers,
        "functions": functions,
    }


def _described_count(count: "Count", seconds: float) -> dict[str, float | None]:
    rates = {"calls": round(count.calls / seconds, 1), "errors": round(count.errors / seconds, 1)}
    times = {f"p{percent}": _microseconds(count.percentile(percent)) for percent in _PERCENTS}
    return rates | {"inside": count.inside} | times


def _microseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e6, 2)


def _screen(lap: Lap, lines: int | None = None) -> "RenderableType":
    from rich.console import Group  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    rows = _busiest(lap)
    calls = sum(count.calls for _, count in rows) / lap.seconds
    errors = sum(count.errors for _, count in rows) / lap.seconds
    head = Text.assemble(
        (f"{_rate(calls)} calls/s", "bold"),
        f"  {_rate(errors)} errors/s  applications {lap.applications}  helpers {lap.helpers}",
    )
    shown = rows if lines is None else rows[: max(1, lines)]
    return Group(head, _table(lap, shown)) if rows else head


def _table(lap: Lap, rows: "list[tuple[str, Count]]") -> "Table":
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("function", no_wrap=True)
    for title in ("calls/s", "errors/s", "inside", *(f"p{percent}" for percent in _PERCENTS)):
        table.add_column(title, justify="right", no_wrap=True)
    for name, count in rows:
        errors = Text(_rate(count.errors / lap.seconds), style="red" if count.errors else "dim")
        times = [_duration(count.percentile(percent)) for percent in _PERCENTS]
        table.add_row(printable(name), _rate(count.calls / lap.seconds), errors, str(count.inside), *times)
    return table


def _rate(per_second: float) -> str:
    return f"{per_second:.1f}" if 0 < per_second < 10 else f"{per_second:,.0f}"


def _duration(seconds: float | None) -> str:
    """Return a time with three digits and its unit."""
    if seconds is None:
        return "-"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"
