"""`p11host bench` runs and says what it measured. How fast anything is, no test asks."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from p11host.bench.cards import BROKER, PCSC, QUICK_MOVES, SHIM
from p11host.bench.measures import MEASURES, Sample, wire_bytes
from p11host.bench.report import BARE, BOUNDS, DIRECT, OURS, PEER, WAYS, Memory, Row, number, verdicts

BENCH = [sys.executable, "-P", "-m", "p11host", "bench", "--quick"]


@pytest.fixture(scope="module")
def results() -> Mapping[str, Any]:
    """Return what one quick run measured."""
    done = subprocess.run([*BENCH, "--json"], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    found: Mapping[str, Any] = json.loads(done.stdout)
    return found


def test_every_measure_has_every_way(results: Mapping[str, Any]) -> None:
    """Each row holds a number for each way, or says why there is none."""
    assert [row.name for row in MEASURES] == [row["name"] for row in results["measures"]]
    for row in results["measures"]:
        assert set(WAYS) == set(row["ways"])
        assert row["ways"][DIRECT]["value"] > 0
        assert row["ways"][OURS]["value"] > 0
        assert row["ways"][PEER]["value"] or row["ways"][PEER]["why"] in ("not installed", "not carried")


def test_the_machine_is_named(results: Mapping[str, Any]) -> None:
    """Results say of what machine they are, and how it shares out its processors."""
    machine = results["machine"]

    assert len(os.sched_getaffinity(0)) == machine["processors"]
    assert isinstance(machine["autogroup"], bool)


def test_work_is_handed_over_bare(results: Mapping[str, Any]) -> None:
    """Beside operations that keep a processor busy stands what handing over as much work gives, alone."""
    bare = {row["name"]: row["ways"][BARE]["value"] for row in results["measures"]}

    assert bare["sign-1"] > 0
    assert bare["sign-4"] > 0


def test_peer_is_measured_and_its_gaps_are_named(results: Mapping[str, Any]) -> None:
    """p11-kit is measured where it carries the call; AES-CBC-PAD it does not."""
    peer = {row["name"]: row["ways"][PEER] for row in results["measures"]}

    assert peer["session-info"]["value"] > 0
    assert "not carried" == peer["encrypt"]["why"]


def test_every_target_is_judged(results: Mapping[str, Any]) -> None:
    """Each target of the project stands in the results with what was measured and whether that meets it."""
    assert len(BOUNDS) + 1 == len(results["targets"])
    for target in results["targets"]:
        assert target["met"] in (True, False) if target["measured"] is not None else target["met"] is None


def test_memory_of_a_helper_is_read_or_said_not_to_be(results: Mapping[str, Any]) -> None:
    """Private memory is a number of KiB, or there is a reason."""
    memory = results["helper_memory"]

    assert (memory["kib"] is None) == bool(memory["why"])


def test_tables_are_printed() -> None:
    """Without --json the same is printed as tables, with units and verdicts."""
    env = os.environ | {"COLUMNS": "120"}
    done = subprocess.run(BENCH, capture_output=True, text=True, timeout=100, check=False, env=env)

    assert 0 == done.returncode, done.stderr
    assert "C_GetSessionInfo" in done.stdout
    assert "at least 0.9 × the speed of direct" in done.stdout


def test_ratios_are_taken_round_by_round() -> None:
    """The ratio is the median of the rounds' own ratios: drift of the machine between rounds is no matter."""
    row = next(row for row in MEASURES if row.unit == "ns")
    direct, ours = [Sample(100), Sample(1000), Sample(100)], [Sample(200), Sample(2000), Sample(210)]

    assert 0.5 == Row(row, {DIRECT: direct, OURS: ours}).speed(DIRECT)


def test_a_rate_is_better_when_it_is_higher() -> None:
    """Speed is other time over own time, and own rate over other rate."""
    times = next(row for row in MEASURES if row.unit == "ns")
    rates = next(row for row in MEASURES if row.unit == "calls/s")

    assert 2 == times.speed(own=50, other=100)
    assert 2 == rates.speed(own=100, other=50)


def test_missing_way_leaves_its_targets_open() -> None:
    """A target beside a way that was not measured is neither met nor missed."""
    rows = [
        Row(row, {OURS: [Sample(1.0)], DIRECT: [Sample(1.0)], PEER: [Sample(None, why="-")]})
        for row in MEASURES
    ]

    found = {verdict.text: verdict.met for verdict in verdicts(rows, Memory(None, "why"))}

    assert {True, None} == set(found.values())
    assert all(met is None for text, met in found.items() if PEER in text)


def test_wire_sizes_are_those_of_real_messages() -> None:
    """The bare round trip is compared at the sizes that the protocol gives these calls."""
    assert (24, 13) == wire_bytes("C_GetSessionInfo", [1], [[0, 3, 6, 0]])


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (812.0, "ns", "812 ns"),
        (1500.0, "ns", "1.50 µs"),
        (2.5e7, "ns", "25.0 ms"),
        (7404.0, "calls/s", "7.40 k/s"),
    ],
)
def test_numbers_have_three_digits_and_a_unit(value: float, unit: Any, expected: str) -> None:
    """A number is shown in the unit that suits its size."""
    assert expected == number(value, unit)


def test_cards() -> None:
    """Each way by which one hears of a card has heard of every move, and is compared to PC/SC's own."""
    done = subprocess.run(
        [*BENCH, "--cards", "--json"], cwd="/", capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)

    assert QUICK_MOVES == found["moves"]
    assert [PCSC, BROKER, SHIM] == list(found["ways"])
    assert 1.0 == found["ways"][PCSC]["ratio"]
    assert all(0 < way["median"] <= way["worst"] for way in found["ways"].values())
