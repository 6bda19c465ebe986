"""Who is at the other end, as the kernel tells it, and what of a module is for him.

Knows /proc and pidfds. What a process says of itself counts for names alone, which are no protection.
"""

import contextlib
import os
import select
from collections.abc import Sequence
from pathlib import Path

from p11host.selectors import Selection
from p11host.view import MERGED, Identity, Peer, Rule, View


def identify(pid: int, uid: int, groups: frozenset[int], program: str) -> Peer:
    """Return who the process `pid` is, whose `uid` and `groups` the kernel has told already."""
    path, exe = _executable(pid)
    names = (*([os.path.basename(path)] if path else []), program)  # noqa: PTH119 (of what may be no path)
    return Peer(uid, groups, tuple(name for name in names if name), exe)


def hidden(view: View, peer: Peer, *, chosen: bool) -> str | None:
    """Return why a module is not for `peer`, None if it is. `chosen`: it has asked for that one by name."""
    if any(not rule.tokens and _fits(rule, peer, unknown=True) for rule in view.deny):
        return "deny has a rule for this process"
    if view.allow and not any(_fits(rule, peer, unknown=False) for rule in view.allow):
        return "allow has no rule for this process"
    if view.enable_in is not None:
        listed = MERGED in view.enable_in or _lists(view.enable_in, peer)
        return None if listed else "enable-in does not name this program"
    if view.disable_in is not None and _lists(view.disable_in, peer):
        return "disable-in names this program"
    if view.disable_in is not None and MERGED in view.disable_in and not chosen:
        return f"disable-in names {MERGED}"
    return None


def selection(view: View, peer: Peer) -> Selection:
    """Return which slots of a module that is for `peer` are: what all rules together leave."""
    allowed = [rule.tokens for rule in view.allow if _fits(rule, peer, unknown=False)]
    some = tuple(uri for tokens in allowed for uri in tokens) if all(allowed) else ()
    denied = [rule.tokens for rule in view.deny if _fits(rule, peer, unknown=True)]
    return Selection(
        shown=tuple(each for each in (view.tokens, some) if each),
        hidden=tuple(uri for tokens in denied for uri in tokens),
    )


def _lists(names: Sequence[str], peer: Peer) -> bool:
    return any(name in names for name in peer.names)


def _fits(rule: Rule, peer: Peer, *, unknown: bool) -> bool:
    """Tell whether a rule fits; `unknown`, as far as that depends on an executable nobody may look at."""
    if rule.uid is not None and rule.uid != peer.uid:
        return False
    if rule.gid is not None and rule.gid not in peer.groups:
        return False
    if rule.exe is None:
        return True
    return unknown if peer.exe is None else peer.exe == _identity(rule.exe)


def _executable(pid: int) -> tuple[str, Identity | None]:
    """Return a process's executable as it is called and which file it is, if it has not ended meanwhile."""
    with contextlib.suppress(OSError, ValueError):
        pidfd = os.pidfd_open(pid)
        try:
            link = Path(f"/proc/{pid}/exe")
            # The file itself: a process may have a view of its own of what is at a path.
            found = str(link.readlink()), _identity(str(link))
            if not select.select([pidfd], [], [], 0)[0]:
                return found
        finally:
            os.close(pidfd)
    return "", None


def _identity(path: str) -> Identity | None:
    try:
        found = os.stat(path)  # noqa: PTH116 (follows the link of /proc, whatever it reads)
    except OSError:
        return None
    return found.st_dev, found.st_ino
