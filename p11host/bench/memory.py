"""Memory of processes, as the kernel counts it.

Knows the broker's `status` and smaps_rollup. Must not know what the number is compared with.
"""

import os
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from p11host.bench.measures import Target
from p11host.bench.report import Memory
from p11host.bench.ways import first_line
from p11host.client import Door
from p11host.errors import P11HostError

ONLY_ROOT = "a helper is not dumpable, so only root may look"


def of_helper(tool: Path, target: Target) -> Memory:
    """Return the memory of the helper that serves a process which only initialised and listed the slots."""
    application = subprocess.Popen(
        [str(tool), "hold", str(target.module)],
        env=os.environ | dict(target.env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with application:
        try:
            first_line(application, tool.name)
            return _private(_helper_of(application.pid, Path(target.env["P11HOST_SOCKET"])))
        finally:
            application.kill()


def descendants(pid: int) -> set[int]:
    """Return the pids of all processes that this one has started, and those have."""
    found: set[int] = set()
    for child in children(pid):
        found |= {child} | descendants(child)
    return found


def children(pid: int) -> set[int]:
    """Return the pids of the processes that this one has started itself."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found |= set(map(int, task.read_text().split()))
    return found


def proportional(pids: Iterable[int]) -> int:
    """Return the memory of processes in KiB: what they share is divided among all that share it.

    Raises PermissionError where only root may look.
    """
    return sum(_sizes(pid).get("Pss:", 0) for pid in pids)


def _sizes(pid: int) -> Mapping[str, int]:
    """Return what a process takes, by the kernel's names; nothing of one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name: int(size) for name, size, _ in map(str.split, lines)}


def _helper_of(application: int, listens_at: Path) -> int:
    with Door.of_broker(listens_at) as door, door.open(program="p11host-bench") as channel:
        status = channel.call("status", [{}])
    pids = [
        helper["pid"]
        for known in status["applications"]
        if known["pid"] == application
        for helper in known["helpers"]
    ]
    if len(pids) != 1:
        raise P11HostError(f"the broker names {len(pids)} helpers of process {application}, expected 1")
    return int(pids[0])


def _private(pid: int) -> Memory:
    try:
        sizes = _sizes(pid)
    except PermissionError:
        return Memory(None, ONLY_ROOT)
    return Memory(sizes["Private_Clean:"] + sizes["Private_Dirty:"])
