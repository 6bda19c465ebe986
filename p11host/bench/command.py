"""`p11host bench`: the ways side by side, in interleaved rounds, so that drift of the machine hits all alike.

Knows the order of the rounds. Must not know how a way works, nor what is done with the results.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from p11host.bench import fork_report, memory, merged, merged_report, prefork, report, ways
from p11host.bench.measures import MEASURES, Measure, Sample, Target, measure, measure_bare, measure_pairs
from p11host.bench.report import BARE, DIRECT, OURS, PEER, UNCONFINED, Memory, Row
from p11host.cli.options import json_option
from p11host.throwaway import make_token

_PACKAGE = Path(__file__).resolve().parent.parent
TOOL = _PACKAGE / "p11host-bench"
SLEEPY = _PACKAGE / "p11host-sleepy.so"
#: Where a filter of system calls and checks of paths can be seen.
_CONFINEMENT_SHOWS = ("session-info", "random", "start")
_ROUNDS, _QUICK_SHARE = 5, 0.02


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: the number of rounds, and the share of each measure's usual amount."""

    rounds: int = _ROUNDS
    share: float = 1.0


@click.command(short_help="Measure direct, p11host and p11-kit side by side.")
@json_option
@click.option("--quick", is_flag=True, help="One short round: shows that it works, and no more.")
@click.option("--fork", is_flag=True, help="Measure a server's workers, instead of calls.")
@click.option("--slots", is_flag=True, help="Measure many slots of many modules, instead of calls.")
@click.option("--cards", is_flag=True, help="Measure how soon a card's move is heard of, instead.")
def bench(*, as_json: bool, quick: bool, fork: bool, slots: bool, cards: bool) -> None:
    """Measure direct, p11host, p11-kit and a bare socketpair side by side on a throw-away SoftHSM token."""
    if fork + slots + cards > 1:
        raise click.UsageError("--fork, --slots and --cards are runs of their own; leave one")
    if fork:
        _bench_fork(prefork.Plan(4, 4, 1) if quick else prefork.Plan(), as_json=as_json)
        return
    if slots:
        _bench_slots(merged.Plan(3, 4, 3, 20, 1) if quick else merged.Plan(), as_json=as_json)
        return
    if cards:
        _bench_cards(quick=quick, as_json=as_json)
        return
    plan = Plan(1, _QUICK_SHARE) if quick else Plan()
    with tempfile.TemporaryDirectory(prefix="p11host-bench-") as directory:
        rows, private = run(plan, Path(directory), Console(stderr=True))
    if as_json:
        click.echo(json.dumps(report.as_json(rows, private, plan.rounds), indent=2))
    else:
        report.show(Console(), rows, private, plan.rounds)


def _bench_fork(plan: prefork.Plan, *, as_json: bool) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="p11host-bench-") as directory,
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        found = prefork.run(TOOL, plan, Path(directory), progress)
    if as_json:
        click.echo(json.dumps(fork_report.as_json(plan, found), indent=2))
    else:
        fork_report.show(Console(), plan, found)


def _bench_slots(plan: merged.Plan, *, as_json: bool) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="p11host-bench-") as directory,
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        found = merged.run(TOOL, SLEEPY, plan, Path(directory), progress)
    if as_json:
        click.echo(json.dumps(merged_report.as_json(plan, found), indent=2))
    else:
        merged_report.show(Console(), plan, found)


def _bench_cards(*, quick: bool, as_json: bool) -> None:
    from p11host.bench import cards  # noqa: PLC0415 (PC/SC is not everywhere)

    ways = cards.run(quick=quick, console=Console(stderr=True))
    if as_json:
        click.echo(json.dumps(cards.as_json(ways), indent=2))
    else:
        cards.show(Console(), ways)


def run(plan: Plan, directory: Path, console: Console) -> tuple[list[Row], Memory]:
    """Return what every measure gave by every way, and a helper's memory. Progress goes to `console`."""
    with open_ways(directory) as targets:
        samples: dict[str, dict[str, list[Sample]]] = {row.name: {} for row in MEASURES}
        steps = [(row, way) for _ in range(plan.rounds) for row in MEASURES for way in targets[row.provider]]
        with Progress(console=console, transient=True) as progress:
            for row, way in progress.track(steps, description="measuring"):
                found = samples[row.name]
                sample = (
                    _sample_bare(row, found[DIRECT][-1], plan.share)
                    if way == BARE
                    else _sample(row, targets[row.provider][way], way, plan.share)
                )
                found.setdefault(way, []).append(sample)
        ours = targets["sleepy"][OURS]
        private = memory.of_helper(TOOL, ours) if ours else Memory(None)
    return [Row(row, samples[row.name]) for row in MEASURES], private


@contextmanager
def open_ways(directory: Path) -> Iterator[Mapping[str, Mapping[str, Target | None]]]:
    """Yield for each provider its ways by name; a way that this machine does not have is None."""
    with ExitStack() as stack:
        found: dict[str, dict[str, Target | None]] = {}
        for provider in _providers(directory):
            found[provider.name] = {
                DIRECT: ways.direct(provider),
                OURS: stack.enter_context(ways.through_p11host(provider, directory)),
                UNCONFINED: stack.enter_context(ways.through_p11host(provider, directory, sandbox="off")),
                PEER: stack.enter_context(ways.through_peer(provider, directory)),
                BARE: None,
            }
        yield found


def _providers(directory: Path) -> list[ways.Provider]:
    token = make_token(directory, "bench")
    return [
        ways.Provider("softhsm", token.provider, token.label, token.pin, token.env),
        ways.Provider("sleepy", SLEEPY, "sleepy", "none", {}),
    ]


def _sample_bare(row: Measure, direct: Sample, share: float) -> Sample:
    if row.turns and direct.value:
        return measure_pairs(TOOL, row, direct.value, share)
    return measure_bare(TOOL, row, share)


def _sample(row: Measure, target: Target | None, way: str, share: float) -> Sample:
    if way == UNCONFINED and row.name not in _CONFINEMENT_SHOWS:
        return Sample(None, why="—")
    return Sample(None, why="not installed") if target is None else measure(TOOL, row, target, share)
