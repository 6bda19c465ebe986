"""`p11host bench --fork` runs and says what it measured. How fast anything is, no test asks."""

import io
import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from rich.console import Console

from p11host.bench import fork_report
from p11host.bench.prefork import FORK_WAYS, INHERIT, REINIT, Memory, Plan, Sample
from p11host.bench.report import DIRECT, PEER

BENCH = [sys.executable, "-P", "-m", "p11host", "bench", "--fork", "--quick", "--json"]


@pytest.fixture(scope="module")
def forked() -> Mapping[str, Any]:
    """Return what one quick run measured of workers."""
    done = subprocess.run(BENCH, capture_output=True, text=True, timeout=100, check=False)
    assert 0 == done.returncode, done.stderr
    found: Mapping[str, Any] = json.loads(done.stdout)
    return found


def test_workers_sign_by_every_way(forked: Mapping[str, Any]) -> None:
    """Every way has the times in which workers came to their first signatures."""
    assert list(FORK_WAYS) == list(forked["ways"])
    for way in forked["ways"].values():
        assert way["all_signed"] > 0
        assert way["first"] > 0


def test_memory_is_of_all_that_a_way_takes(forked: Mapping[str, Any]) -> None:
    """Directly there are workers only, else others too; or there is a reason why it was not read."""
    for name, way in forked["ways"].items():
        if way["memory"] is None:
            assert way["why"]
            continue
        assert way["memory"]["application"] > 0
        assert (name != DIRECT) == (way["memory"]["helpers"] > 0)
        assert (name != DIRECT) == (way["memory"]["daemon"] > 0)


def test_workers_that_inherit_are_never_refused(forked: Mapping[str, Any]) -> None:
    """They do not log in, so there is nothing that the provider could refuse them."""
    assert 0 == forked["ways"][INHERIT]["refused"]


def test_workers_are_shown() -> None:
    """Each number stands in the table with its unit; memory with why there is none, where there is none."""
    direct = Sample(2e6, 3, 1500.0, Memory(1024, 2048, 512))
    reinit = Sample(5e6, 0, 9000.0, None, "secret")
    found = {DIRECT: [direct], PEER: [], REINIT: [reinit], INHERIT: []}
    console = Console(record=True, width=120, file=io.StringIO())

    fork_report.show(console, Plan(7, 1, 1), found)
    lines = [" ".join(line.split()) for line in console.export_text().split("\n")]

    assert "7 workers have signed after 2.00 ms — 5.00 ms —" in lines
    assert "refused, and tried again 3 — 0 —" in lines
    assert "a child's first call to first signature 1.50 µs — 9.00 µs —" in lines
    assert "of helpers, or of p11-kit's 2.0 MiB — — —" in lines
    assert "Memory was not read: secret." in lines
