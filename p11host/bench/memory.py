"""Private memory of a helper, as the kernel counts it.

Knows the broker's `status` and smaps_rollup. Must not know what the number is compared with.
"""

import os
import subprocess
from pathlib import Path

from p11host.bench.measures import Target
from p11host.bench.report import Memory
from p11host.bench.ways import first_line
from p11host.client import Door
from p11host.errors import P11HostError


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
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except PermissionError:
        return Memory(None, "a helper is not dumpable, so only root may look")
    sizes = dict(line.split()[:2] for line in lines if line.startswith("Private_"))
    return Memory(int(sizes["Private_Clean:"]) + int(sizes["Private_Dirty:"]))
