"""What a module may do, in words.

Knows what each capability means for people. Must not know how it is enforced, nor how it is shown.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from p11host.sandbox.kernel import Support
from p11host.sandbox.resolve import Profile
from p11host.sandbox.settings import EVERY, RIGHTS, Right

_MAY: dict[Right, str] = {
    "read": "read",
    "write": "read and change",
    "execute": "run",
    "devices": "use as a device",
    "sockets": "talk to",
}
NEVER = (
    "start a program that is not named above",
    "see, stop or change other processes, the application's and the broker's included",
    "become another user, mount, make namespaces, load kernel modules, use bpf, keyrings or io_uring",
    "leave a core file",
)


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing that a module may do, or may not; who allows it; whether there is something at its path."""

    may: bool
    what: str
    detail: str
    source: str
    exists: bool | None = None


def explain(profile: Profile, *, exists: "dict[str, bool]") -> Iterator[Statement]:
    """Yield what a profile allows and denies; `exists` tells of each path whether anything is there."""
    if not profile.settings.on:
        yield Statement(
            may=True, what="do what its user may", detail="the sandbox is off", source="configuration"
        )
        return
    for right in RIGHTS:
        for allowed in profile.paths:
            if allowed.right == right:
                there = exists.get(allowed.path)
                yield Statement(
                    may=True, what=_MAY[right], detail=allowed.path, source=allowed.source, exists=there
                )
    yield from _capabilities(profile)
    yield from _limits(profile)
    yield from (Statement(may=False, what="", detail=never, source=EVERY) for never in NEVER)


def _capabilities(profile: Profile) -> Iterator[Statement]:
    ports = profile.network if isinstance(profile.network, tuple) else ()
    network = f"TCP to {', '.join(map(str, sorted(set(ports))))}, and UDP" if ports else "any address"
    named = {
        "use the network": (bool(profile.network), network if profile.network else "no address at all"),
        "start processes": (profile.processes, "those it may run" if profile.processes else "none at all"),
        "share memory and queues with others": (profile.ipc, "System V and POSIX"),
    }
    for what, (may, detail) in named.items():
        yield Statement(may, what, detail, "its profile")


def _limits(profile: Profile) -> Iterator[Statement]:
    settings = profile.settings
    most = {
        "memory": f"{settings.memory} MiB",
        "open files": str(settings.files) if settings.files else "as the broker was started with",
        "threads and processes of its user": str(settings.tasks)
        if settings.tasks
        else "as the system has it",
    }
    for what, detail in most.items():
        yield Statement(may=True, what=f"have {what}", detail=detail, source="limits")


def shortcomings(profile: Profile, kernel: Support) -> Iterator[str]:
    """Yield, in a sentence each, what is said above and not enforced on this kernel."""
    if not profile.settings.on:
        yield "The sandbox of this module is off: none of this is enforced."
        return
    for lacking in kernel.missing:
        what = "its files" if lacking == "Landlock" else "its system calls"
        yield f"This kernel has no {lacking}: {what} are not confined."
    for what in kernel.partial:
        yield f"Landlock of this kernel (version {kernel.landlock}) does not confine {what}."
    if any(allowed.right == "sockets" for allowed in profile.paths):
        yield "It may connect to any socket of this machine that its user may: the kernel cannot tell."
