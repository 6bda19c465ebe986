"""`p11host bench --fork`: a server's workers by each way: how soon they sign, and what memory that takes.

Knows what p11host-bench says of processes that it forks, and which processes belong to a way. Must not know
how results are shown.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from p11host.bench import memory, ways
from p11host.bench.measures import Target, run_tool
from p11host.bench.report import DIRECT, PEER
from p11host.codes import ckr
from p11host.errors import P11HostError
from p11host.throwaway import make_token

REINIT, INHERIT = "reinit", "inherit"
FORK_WAYS = (DIRECT, PEER, REINIT, INHERIT)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: workers that are forked at once, children one after another, and rounds."""

    workers: int = 32
    children: int = 50
    rounds: int = 5


@dataclass(frozen=True, slots=True)
class Memory:
    """What the processes of a way take, in KiB: the server's, helpers or what serves for them, the daemon."""

    application: int
    helpers: int
    daemon: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of one way; times in ns.

    `refused` is how often a worker was refused by the provider and tried again. Where memory may not be read
    `why` says so.
    """

    all_signed: float
    refused: int
    first: float
    memory: Memory | None
    why: str = ""


def run(tool: Path, plan: Plan, directory: Path, progress: Progress) -> Mapping[str, list[Sample]]:
    """Return what each round gave by every way; a way that this machine does not have gives nothing."""
    token = make_token(directory, "bench")
    provider = ways.Provider("softhsm", token.provider, token.label, token.pin, token.env)
    found: dict[str, list[Sample]] = {way: [] for way in FORK_WAYS}
    steps = [way for _ in range(plan.rounds) for way in FORK_WAYS]
    for way in progress.track(steps, description="forking"):
        with _way(way, provider, directory) as target:
            if target is not None:
                found[way].append(_measure(tool, target, plan, INHERIT if way == INHERIT else "anew"))
    return found


def _way(way: str, provider: ways.Provider, directory: Path) -> AbstractContextManager[Target | None]:
    if way == DIRECT:
        return nullcontext(ways.direct(provider))
    if way == PEER:
        return ways.through_peer(provider, directory)
    return ways.through_p11host(provider, directory, fork=way)


def _measure(tool: Path, target: Target, plan: Plan, how: str) -> Sample:
    words = [str(target.module), target.label, target.pin, how]
    first = _understood(run_tool(tool, ["children", *words, str(plan.children)], target.env), target)[
        "median"
    ]
    server = subprocess.Popen(
        [str(tool), "prefork", *words, str(plan.workers)],
        env=os.environ | dict(target.env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with server:
        try:
            said = _understood(json.loads(ways.first_line(server, tool.name)), target)
            taken, why = _memory(server.pid)
        finally:
            # With its input ended its workers end, and then it does.
            server.communicate()
    return Sample(said["median"], said["refused"], first, taken, why)


def _understood(said: Mapping[str, Any], target: Target) -> Mapping[str, Any]:
    if "failed" in said:
        raise P11HostError(f"{target.module}: {said['failed']} returned {ckr(said['rv'])}")
    return said


def _memory(application: int) -> tuple[Memory | None, str]:
    """Return the memory of all that we have started: the application, a daemon, and what that has started."""
    own = memory.descendants(application) | {application}
    daemons = memory.children(os.getpid()) - own
    helpers = memory.descendants(os.getpid()) - own - daemons
    try:
        return Memory(*map(memory.proportional, (own, helpers, daemons))), ""
    except PermissionError:
        return None, memory.ONLY_ROOT
