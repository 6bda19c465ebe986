"""`p11host bench --slots` runs and says what it measured. How fast anything is, no test asks."""

import io
import json
import os
import subprocess
import sys

from rich.console import Console

from p11host.bench import merged_report
from p11host.bench.measures import Sample
from p11host.bench.merged import ALONE, CASES, MERGED_WAYS, Found, Plan
from p11host.bench.report import DIRECT, OURS, PEER

BENCH = [sys.executable, "-P", "-m", "p11host", "bench", "--slots"]


def test_every_case_has_every_way() -> None:
    """Each case holds a time for each way, or says why there is none; each target is judged."""
    done = subprocess.run(
        [*BENCH, "--quick", "--json"], capture_output=True, text=True, timeout=100, check=False
    )
    assert 0 == done.returncode, done.stderr
    found = json.loads(done.stdout)

    assert [case.name for case in CASES] == list(found["cases"])
    for case in found["cases"].values():
        assert list(MERGED_WAYS) == list(case)
        assert all(case[way]["value"] > 0 for way in (DIRECT, ALONE, OURS))
        assert case[PEER]["value"] or case[PEER]["why"] in ("not installed", "root only")
    assert all(target["met"] in (True, False) for target in found["targets"])
    assert found["cases"]["slow"][DIRECT]["value"] >= 1e6


def test_two_runs_are_not_one() -> None:
    """Of two things to measure one is refused, in a line."""
    done = subprocess.run([*BENCH, "--fork"], capture_output=True, text=True, timeout=100, check=False)

    assert 2 == done.returncode
    assert "leave one;" in done.stderr


def rounds(*values: float) -> list[Sample]:
    """Return samples of these times."""
    return [Sample(value) for value in values]


def made(ours: tuple[float, ...], alone: tuple[float, ...]) -> Found:
    """Return the same rounds of every case, none of p11-kit's."""
    none = [Sample(None, why="not installed")] * len(ours)
    ways = {DIRECT: rounds(*alone), ALONE: rounds(*alone), OURS: rounds(*ours), PEER: none}
    return {case.name: ways for case in CASES}


def test_targets() -> None:
    """A list is judged by the rounds' own ratios, what a call costs by the quickest rounds."""
    good = list(merged_report.verdicts(made((1100, 9000, 2200), (1000, 8000, 2000))))
    bad = list(merged_report.verdicts(made((1300, 9000, 2600), (1000, 8000, 2000))))

    assert [(1.1, True), (1.1, True), (100, True)] == [(each.measured, each.met) for each in good]
    assert [False] * 3 == [each.met for each in bad]


def test_shown() -> None:
    """The table fits 80 columns and has each number with its unit, or why there is none."""
    console = Console(record=True, width=80, file=io.StringIO())
    merged_report.show(console, Plan(10, 20, 1, 1, 3), made((1100, 9000, 2200), (1000, 8000, 2000)))
    text = console.export_text()

    assert "200 slots of 10 modules" in text
    assert all(word in text for word in ("2.20 µs", "1.10 ×", "installed", "met"))
    assert max(map(len, text.splitlines())) <= 80
    assert os.linesep in text
