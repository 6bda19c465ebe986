"""What the benchmark measures, and how one measurement is made.

Knows p11host-bench, its loads and what it prints. Must not know how a way reaches its provider.
"""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgpack

from p11host.codes import ckr
from p11host.errors import P11HostError

Unit = Literal["ns", "calls/s"]
Provider = Literal["softhsm", "sleepy"]
CKR_MECHANISM_INVALID = 0x70
_PATIENCE_S = 120
_MEGABYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Target:
    """A library as p11host-bench is pointed at it: path, environment, and the token it is to use."""

    module: Path
    env: Mapping[str, str]
    label: str
    pin: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: the median of a time, or a rate; of a time the 99th percentile too. Or `why` none."""

    value: float | None
    p99: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Measure:
    """A row of the benchmark: `short` in the table, `title` elsewhere.

    `bare` are the bytes of its request and of its response on the wire, where it is one call. `turns` is how
    many calls it takes to make what is counted, where that keeps a processor busy.
    """

    name: str
    short: str
    title: str
    provider: Provider
    unit: Unit
    command: Literal["call", "rate", "start"]
    arguments: tuple[str, ...] = ()
    amount: int = 0
    bare: tuple[int, int] | None = None
    turns: int = 0

    def speed(self, own: float, other: float) -> float:
        """Return how many times as fast as `other` `own` is."""
        return own / other if self.unit == "calls/s" else other / own


def wire_bytes(method: str, params: Sequence[object], out: Sequence[object]) -> tuple[int, int]:
    """Return the length of a call's request and of its response, in bytes, as PROTOCOL.md writes them."""
    msgid = 1000
    request = msgpack.packb([0, msgid, method, list(params)])
    response = msgpack.packb([1, msgid, None, [0, *out]])
    return len(request), len(response)


def _call(load: str, short: str, title: str, count: int, bare: tuple[int, int]) -> Measure:
    """Return a row that times each of `count` calls."""
    return Measure(load, short, title, "softhsm", "ns", "call", (load,), count, bare)


def _rate(name: str, title: str, provider: Provider, load: str, threads: int) -> Measure:
    """Return a row that counts the calls of several threads in half a second."""
    short = f"{name}, {threads} thread{'s' * (threads > 1)}"
    title = title + short.removeprefix(name)
    name, arguments, turns = f"{load}-{threads}", (load, str(threads)), _TURNS.get(load, 0)
    return Measure(name, short, title, provider, "calls/s", "rate", arguments, 500, turns=turns)


_MEGA = bytes(_MEGABYTE)
_INFO = wire_bytes("C_GetSessionInfo", [1], [[1 << 30, 3, 6, 0]])
_RANDOM = wire_bytes("C_GenerateRandom", [1, [True, 16]], [bytes(16)])
_DIGEST = wire_bytes("C_Digest", [1, _MEGA, [True, 32]], [[32, bytes(32)]])
_ENCRYPT = wire_bytes("C_Encrypt", [1, _MEGA, [True, _MEGABYTE + 16]], [[_MEGABYTE + 16, _MEGA + bytes(16)]])
#: C_SignInit and C_Sign.
_TURNS = {"sign": 2}
_START = "dlopen + C_Initialize + C_GetSlotList"

MEASURES = (
    _call("session-info", "C_GetSessionInfo", "C_GetSessionInfo", 10_000, _INFO),
    _call("random", "C_GenerateRandom", "C_GenerateRandom of 16 bytes", 10_000, _RANDOM),
    _rate("1 ms", "operation of 1 ms", "sleepy", "random", 1),
    _rate("1 ms", "operation of 1 ms", "sleepy", "random", 8),
    _call("digest", "SHA-256, 1 MiB", "SHA-256 of 1 MiB", 100, _DIGEST),
    _call("encrypt", "AES-CBC, 1 MiB", "AES-CBC-PAD of 1 MiB", 50, _ENCRYPT),
    _rate("ECDSA", "ECDSA P-256", "softhsm", "sign", 1),
    _rate("ECDSA", "ECDSA P-256", "softhsm", "sign", 4),
    Measure("start", "start to slots", _START, "softhsm", "ns", "start"),
)


def measure(tool: Path, row: Measure, target: Target, share: float = 1.0) -> Sample:
    """Run one measurement in a process of its own, with `share` of its usual amount."""
    command = [row.command, str(target.module)]
    if row.command != "start":
        command += [target.label, target.pin, *row.arguments, _amount(row, share)]
    return _sample(run_tool(tool, command, target.env), row.title)


def measure_bare(tool: Path, row: Measure, share: float = 1.0) -> Sample:
    """Time round trips of as many bytes as the row's call sends and receives, over a bare socketpair."""
    if row.bare is None:
        return Sample(None, why="")
    return _sample(run_tool(tool, ["bare", *map(str, row.bare), _amount(row, share)], {}), row.title)


def measure_pairs(tool: Path, row: Measure, direct: float, share: float = 1.0) -> Sample:
    """Count how often work like the row's, of which there are `direct` a second, is handed over and back.

    To threads of another process, so many times as it takes calls: who leaves the process cannot do without.
    """
    threads = int(row.arguments[1])
    processors = min(threads, len(os.sched_getaffinity(0)))
    nanoseconds = round(1e9 * processors / direct / row.turns)
    said = run_tool(tool, ["pairs", str(threads), str(nanoseconds), _amount(row, share)], {})
    return Sample(said["rate"] / row.turns)


def run_tool(tool: Path, command: Sequence[str], env: Mapping[str, str]) -> Mapping[str, Any]:
    """Run p11host-bench and return what it printed; P11HostError if it printed nothing that is understood."""
    done = subprocess.run(
        [str(tool), *command],
        env=os.environ | dict(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        check=False,
    )
    try:
        said: Mapping[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        text = done.stderr.strip() or f"status {done.returncode}"
        raise P11HostError(f"{tool.name} {command[0]} {command[1]}: {text}") from error
    return said


def _amount(row: Measure, share: float) -> str:
    return str(max(1, round(row.amount * share)))


def _sample(said: Mapping[str, Any], title: str) -> Sample:
    if said.get("rv") == CKR_MECHANISM_INVALID:
        return Sample(None, why="not carried")
    if "failed" in said:
        raise P11HostError(f"{title}: {said['failed']} returned {ckr(said['rv'])}")
    return Sample(said.get("median", said.get("rate")), said.get("p99"))
