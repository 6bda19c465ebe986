"""A process that makes calls: caller.py, from its other end."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
from reach import Reach

CALLER = Path(__file__).resolve().parent / "caller.py"
Call = list[Any]


@dataclass
class Way:
    """A process that makes calls by one way to the provider. Started again if the provider took it along."""

    reach: Reach
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        """Start the process."""
        self.start()

    def start(self) -> None:
        """Start the process, or another after it ended."""
        command = [sys.executable, str(CALLER), str(self.reach.module), self.reach.token.label]
        self.process = subprocess.Popen(
            command, env=self.reach.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )

    def ask(self, calls: Sequence[Call]) -> None:
        """Have the calls made."""
        assert self.process.stdin is not None
        self.process.stdin.write(msgpack.packb(calls))

    def answers(self, calls: Sequence[Call]) -> list[Any]:
        """Return what came of each call; fewer answers than calls if the process did not survive them."""
        outcomes = msgpack.Unpacker(self.process.stdout)
        return [outcome for _, outcome in zip(calls, outcomes, strict=False)]

    def call(self, *calls: Call) -> list[Any]:
        """Have the calls made and return what came of each."""
        self.ask(calls)
        return self.answers(calls)

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()
