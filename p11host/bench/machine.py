"""What of this machine decides how quick handing over is.

Knows where Linux says it. Must not know what is measured.
"""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

_AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")


@dataclass(frozen=True, slots=True)
class Machine:
    """Linux's release, the processors we may use, and whether each session has its own share of them.

    With `autogroup` (sched(7)) a thread that lets others go first lets only those of its session: no helper.
    """

    release: str
    processors: int
    autogroup: bool

    def __str__(self) -> str:
        grouped = "on" if self.autogroup else "off"
        return f"Linux {self.release}, {self.processors} processors, autogroup {grouped}"


def this_machine() -> Machine:
    """Return what this machine is."""
    try:
        autogroup = _AUTOGROUP.read_text().strip() == "1"
    except OSError:
        autogroup = False
    return Machine(platform.release(), len(os.sched_getaffinity(0)), autogroup)
