"""Whatever an application calls, however wrong: the shim returns the CK_RV, the lengths and the bytes the provider does."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import pytest
from calls import Call, beginning, runs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reach import Reach, reached

from p11host.throwaway import make_token

CALLER = Path(__file__).resolve().parent / "caller.py"
BEGINNING = beginning()
EXAMPLES = 300


@dataclass
class Way:
    """A process that makes calls, by one way to the provider."""

    process: subprocess.Popen[bytes]
    outcomes: Iterator[Any]

    @classmethod
    def start(cls, reach: Reach) -> "Way":
        """Start the process."""
        command = [sys.executable, str(CALLER), str(reach.module), reach.token.label]
        process = subprocess.Popen(command, env=reach.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        return cls(process, iter(msgpack.Unpacker(process.stdout)))

    def ask(self, calls: Sequence[Call]) -> None:
        """Have the calls made."""
        assert self.process.stdin is not None
        self.process.stdin.write(msgpack.packb(calls))

    def answers(self, calls: Sequence[Call]) -> Iterator[Any]:
        """Return what came of each of them."""
        found: list[Any] = next(self.outcomes)
        return found

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[Way]]:
    """Return two processes that call SoftHSM directly and one that calls it through p11host, each on its own token."""
    with ExitStack() as stack:
        found = []
        for name in ("direct", "direct", "p11host"):
            directory = tmp_path_factory.mktemp("token")
            directory.chmod(0o700)
            reach = stack.enter_context(reached(name, make_token(directory)))
            found.append(Way.start(reach))
            stack.callback(found[-1].stop)
        yield found


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
@given(calls=runs)
def test_every_call_has_the_same_outcome(ways: Sequence[Way], calls: list[Call]) -> None:
    """Random calls in random order: what two direct runs agree upon, the run through p11host agrees with."""
    for way in ways:
        way.ask(BEGINNING + calls)
    first, second, ours = (way.answer() for way in ways)

    for call, one, other, found in zip(BEGINNING + calls, first, second, ours, strict=True):
        assert agreed(one, other) == agreed(one, other, found), call


def agreed(one: Any, other: Any, shown: Any = ...) -> Any:
    """Return `shown` (by default `one`) less all in which `one` and `other` differ: what is random by nature.

    Of random bytes of one length the length is left.
    """
    shown = one if shown is ... else shown
    if isinstance(one, list) and isinstance(other, list) and isinstance(shown, list):
        if len(one) == len(other) == len(shown):
            return [agreed(a, b, c) for a, b, c in zip(one, other, shown, strict=True)]
        return shown
    if isinstance(one, dict) and isinstance(other, dict) and isinstance(shown, dict):
        return {key: agreed(one.get(key), other.get(key), shown[key]) for key in shown}
    if one == other:
        return shown
    if isinstance(one, bytes) and isinstance(other, bytes) and isinstance(shown, bytes) and len(one) == len(other):
        return len(shown)
    return "random"
