"""Who may change a file: what decides what runs must be in nobody's hands but root's and ours.

Knows owners, modes and groups. Must not know what a file is for.
"""

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

_ROOT = 0


def distrust(path: Path) -> str | None:
    """Return why others than root and this user may change what is at `path`, and what to do; None if not.

    Looked at are the file and the directories above it, by the path as it is written and as it is without
    links. OSError where one of them cannot be looked at.
    """
    for place in _places(path):
        fault = _fault(place)
        if fault is not None:
            return fault
    return None


def owner_name(uid: int) -> str:
    """Return a user's name, or the number of one that has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """Return a group's name, or the number of one that has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _places(path: Path) -> Iterator[Path]:
    absolute, real = path.absolute(), path.resolve()
    yield from dict.fromkeys([real, *real.parents, absolute, *absolute.parents])


def _fault(place: Path) -> str | None:
    found = place.lstat()
    if found.st_uid not in (_ROOT, os.geteuid()):
        return f"{place} belongs to {owner_name(found.st_uid)}; run: chown root {place}"
    if stat.S_ISLNK(found.st_mode) or _is_shared(place, found):
        return None
    if found.st_mode & stat.S_IWOTH:
        return f"everybody may write {place}; run: chmod o-w {place}"
    if found.st_mode & stat.S_IWGRP and not _is_ours(found.st_gid):
        return f"the group {group_name(found.st_gid)} may write {place}; run: chmod g-w {place}"
    return None


def _is_shared(place: Path, found: os.stat_result) -> bool:
    """Tell whether it is a directory like /tmp, in which nobody can touch what is another's."""
    return place.is_dir() and bool(found.st_mode & stat.S_ISVTX)


def _is_ours(gid: int) -> bool:
    """Tell whether a group has nobody in it but root and this user."""
    try:
        members = {pwd.getpwnam(name).pw_uid for name in grp.getgrgid(gid).gr_mem}
    except KeyError:
        return False
    primary = {entry.pw_uid for entry in pwd.getpwall() if entry.pw_gid == gid}
    return members | primary <= {_ROOT, os.geteuid()}
