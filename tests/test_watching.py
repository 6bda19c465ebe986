"""`top`, `metrics` and `status` of a real application on SoftHSM."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families
from reach import Reach, reached

from p11host.throwaway import Token

#: An application that makes as many calls as it is told by a number in a line, and says so.
APPLICATION = """
import sys, p11host
token = next(iter(p11host.lib().get_tokens()))
with token.open() as session:
    for line in sys.stdin:
        for _ in range(int(line)):
            session.generate_random(64)
        print("done", flush=True)
"""


class Application:
    """A process that makes calls when it is told to."""

    def __init__(self, reach: Reach) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", APPLICATION],
            env=reach.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def call(self, times: int) -> None:
        """Return when it has made so many calls."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{times}\n")
        self.process.stdin.flush()
        assert "done\n" == self.process.stdout.readline()


@contextmanager
def application(reach: Reach) -> Iterator[Application]:
    """Run an application, which must end well."""
    running = Application(reach)
    try:
        yield running
    finally:
        running.process.communicate(timeout=30)
    assert 0 == running.process.returncode


@pytest.fixture
def through(token: Token) -> Iterator[Reach]:
    """Return a token as reached through p11host."""
    with reached("p11host", token) as reach:
        yield reach


def p11host(reach: Reach, *words: str) -> str:
    """Run a command of p11host and return what it printed."""
    return reach.run(
        sys.executable, "-P", "-m", "p11host", *words, env={"COLUMNS": "80", "TERM": "xterm"}
    ).stdout


def random_calls(reach: Reach) -> dict[str, float]:
    """Return what `p11host metrics` has of C_GenerateRandom."""
    return calls_of(reach, "C_GenerateRandom")


def calls_of(reach: Reach, function: str) -> dict[str, float]:
    """Return the samples that `p11host metrics` has of a function, by name, and the last bucket's."""
    families = text_string_to_metric_families(p11host(reach, "metrics"))
    samples = [sample for family in families for sample in family.samples]
    return {sample.name: sample.value for sample in samples if sample.labels.get("function") == function}


def test_metrics_count_every_call_once(through: Reach) -> None:
    """What is counted stays counted when the helper has ended, and the next one's calls are added."""
    with application(through) as first:
        first.call(300)
        living = random_calls(through)
    with application(through) as second:
        second.call(40)
        both = random_calls(through)

    assert (300, 0) == (living["p11host_calls_total"], living["p11host_call_errors_total"])
    assert 300 >= living["p11host_call_seconds_count"] > 300 - 64
    assert living["p11host_call_seconds_count"] == living["p11host_call_seconds_bucket"]
    assert 340 == both["p11host_calls_total"]


#: An application whose every C_Login fails.
LOCKED_OUT = """
import p11host, pkcs11
token = next(iter(p11host.lib().get_tokens()))
for _ in range(3):
    try:
        token.open(user_pin="0000")
    except pkcs11.exceptions.PinIncorrect:
        print("refused")
"""


def test_errors_are_counted(through: Reach) -> None:
    """A call that is not answered with CKR_OK is an error of that function, for good."""
    assert "refused\n" * 3 == through.run(sys.executable, "-P", "-c", LOCKED_OUT).stdout
    samples = calls_of(through, "C_Login")

    assert (3, 3) == (samples["p11host_calls_total"], samples["p11host_call_errors_total"])


def test_status_tells_lives(through: Reach) -> None:
    """`status` says how many helpers there were, which generation lives and what it has answered."""
    with application(through) as one:
        one.call(25)
        state = json.loads(p11host(through, "status", "--json"))
        shown = p11host(through, "status")
    (helper,) = state["applications"][0]["helpers"]

    assert 1 == helper["generation"]
    assert 25 <= helper["answered"] < 60
    assert [(1, 0)] == [(each["started"], each["died"]) for each in state["modules"]]
    assert re.search(rf"  generation 1, for \d+ s, {helper['answered']} calls\n", shown)


@contextmanager
def watching(reach: Reach, *words: str) -> Iterator[Iterator[str]]:
    """Run `p11host top`; the lines that it prints."""
    command = [sys.executable, "-P", "-m", "p11host", "top", "--interval", "0.2", *words]
    environ = reach.environ | {"COLUMNS": "80", "TERM": "xterm", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as top:
        assert top.stdout is not None
        try:
            yield iter(top.stdout)
        finally:
            top.terminate()


def test_top_shows_what_is_called(through: Reach) -> None:
    """Calls between two looks are shown, by function; lines are at most 80 columns, plain where piped."""
    with application(through) as one, watching(through, "-p", str(one.process.pid)) as lines:
        for line in lines:
            assert len(line.rstrip("\n")) <= 80
            assert "\x1b" not in line
            if line.startswith("C_GenerateRandom "):
                return
            one.call(50)
    pytest.fail("top ended")


def test_top_json(through: Reach) -> None:
    """Each interval is a line of JSON; a filter that fits nobody shows nothing."""
    with application(through) as one, watching(through, "--json", "-m", "softhsm") as lines:
        while not (count := json.loads(next(lines))["functions"].get("C_GenerateRandom")):
            one.call(50)
        nobody = p11host(through, "top", "--once", "--json", "-n", "0.1", "-p", str(os.getpid()))

    assert count["calls"] > 0
    assert (0, 0) == (count["errors"], count["inside"])
    assert 0 < count["p50"] <= count["p95"] <= count["p99"]
    assert {"helpers": 0, "applications": 0, "functions": {}}.items() <= json.loads(nobody).items()
