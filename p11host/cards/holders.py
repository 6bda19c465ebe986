"""Who may have a card: PC/SC says that programs have it, or one for itself, and not which.

Knows the broker's `status` and /proc: of other users' programs it sees what this user may see.
"""

import os
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

#: What every program has loaded that uses PC/SC, and what those are called that do it for applications.
_LIBRARY, _HELPER = b"/libpcsclite", "p11host-helper"


def applications(status: Mapping[str, Any], modules: Container[str], own: str) -> Iterator[str]:
    """Yield the applications that have a helper of one of these modules, but for our `own` programs."""
    for application in status["applications"]:
        for helper in application["helpers"]:
            if helper["module"] in modules and application["program"] != own:
                program, pid = application["program"] or "?", application["pid"]
                yield f"{program}[{pid}] by {helper['module']}, helper {helper['pid']}"


def programs(broker: int) -> Iterator[str]:
    """Yield the programs that reach PC/SC without p11host. `broker` is the broker's pid."""
    for place in sorted(Path("/proc").iterdir()):
        if not place.name.isdecimal() or int(place.name) in (broker, os.getpid()):
            continue
        try:
            name = (place / "comm").read_text(errors="replace").rstrip("\n")
            if not name.startswith(_HELPER) and _LIBRARY in (place / "maps").read_bytes():
                yield f"{name}[{place.name}]"
        except OSError:  # it has ended, or is not for us to look at
            continue
