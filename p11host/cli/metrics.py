"""`p11host metrics`."""

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

from p11host.cli.options import json_option

if TYPE_CHECKING:
    from prometheus_client import Metric

    from p11host.census import Census
    from p11host.counts import Count, Counts

#: Every so many buckets one is told: each tells four times as long as the one before.
_COARSE = 4


@click.command(short_help="Print the numbers of `p11host top` for Prometheus.")
@json_option
def metrics(*, as_json: bool) -> None:
    """Print the numbers of `p11host top` since the broker began, in the text format of Prometheus.

    For the text file collector of node_exporter, or whatever serves a file. Helpers that have ended are
    counted too. With --json each sample is an object with its name, labels and value.
    """
    from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415

    from p11host.census import Census  # noqa: PLC0415
    from p11host.start import open_door  # noqa: PLC0415

    with open_door(start=False) as door, door.open("p11host metrics") as channel:
        census = Census.of(channel.call("counts", [{}]))
        state = channel.call("status", [{}])
    registry = CollectorRegistry()
    registry.register(
        Numbers(census, {each["name"]: (each["started"], each["died"]) for each in state["modules"]})
    )
    if as_json:
        samples = [sample for family in registry.collect() for sample in family.samples]
        said = [{"name": each.name, "labels": each.labels, "value": each.value} for each in samples]
        click.echo(json.dumps(said, indent=2))
        return
    click.echo(generate_latest(registry).decode(), nl=False)


class Numbers:
    """What Prometheus is told."""

    def __init__(self, census: "Census", turnover: dict[str, tuple[int, int]]) -> None:
        self._census = census
        self._turnover = turnover

    def collect(self) -> Iterator["Metric"]:
        """Yield each family of numbers."""
        yield from self._of_calls()
        yield from self._of_helpers()

    def _of_calls(self) -> Iterator["Metric"]:
        from prometheus_client.core import (  # noqa: PLC0415
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        labels = ["module", "function"]
        calls = CounterMetricFamily("p11host_calls", "Calls that providers have answered.", labels=labels)
        errors = CounterMetricFamily("p11host_call_errors", "Of these, not with CKR_OK.", labels=labels)
        inside = GaugeMetricFamily("p11host_calls_in_progress", "Calls that providers are in.", labels=labels)
        times = HistogramMetricFamily(
            "p11host_call_seconds",
            "Time in the provider, of all calls that are slow and of some of those that are quick for all.",
            labels=labels,
        )
        for module, functions in sorted(_by_module(self._census).items()):
            for name, count in functions.items():
                calls.add_metric([module, name], count.calls)
                errors.add_metric([module, name], count.errors)
                inside.add_metric([module, name], count.inside)
                times.add_metric([module, name], list(_steps(count)), sum_value=count.nanoseconds / 1e9)
        yield from (calls, errors, inside, times)

    def _of_helpers(self) -> Iterator["Metric"]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415

        alive = GaugeMetricFamily("p11host_helpers", "Helpers that applications have.", labels=["module"])
        started = CounterMetricFamily(
            "p11host_helpers_started", "Helpers that they have had.", labels=["module"]
        )
        died = CounterMetricFamily("p11host_helpers_died", "Of these, ended out of order.", labels=["module"])
        for module, (begun, dead) in self._turnover.items():
            alive.add_metric([module], sum(each.module == module for each in self._census.helpers))
            started.add_metric([module], begun)
            died.add_metric([module], dead)
        yield from (alive, started, died)


def _by_module(census: "Census") -> dict[str, "Counts"]:
    from p11host.counts import total  # noqa: PLC0415

    parts: dict[str, list[Counts]] = {module: [counts] for module, counts in census.ended.items()}
    for helper in census.helpers:
        parts.setdefault(helper.module, []).append(helper.functions)
    return {module: total(counts) for module, counts in parts.items()}


def _steps(count: "Count") -> Iterator[tuple[str, float]]:
    """Yield the upper bounds in seconds and how many calls took no longer."""
    from p11host.counts import BOUNDS  # noqa: PLC0415

    for at in range(0, len(BOUNDS), _COARSE):
        yield f"{BOUNDS[at] / 1e9:.10g}", _sum(count.buckets[: at + 1])
    yield "+Inf", _sum(count.buckets)


def _sum(weights: Iterable[int]) -> float:
    return float(sum(weights))
