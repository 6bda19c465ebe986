"""What this kernel has to confine a helper with.

Asks the kernel. Must not change anything of this process.
"""

import ctypes
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

_LANDLOCK_CREATE_RULESET = 444
_VERSION = 1
#: The number of seccomp(2), and what it is asked: whether a filter may make calls fail.
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_GET_ACTION_AVAIL = 2
_ERRNO = 0x00050000
#: What each version of Landlock brought that is used here.
_SINCE = {2: "moving files between directories", 3: "truncation", 4: "TCP", 5: "device ioctl", 6: "signals"}


@dataclass(frozen=True, slots=True)
class Support:
    """`landlock` is its version, 0 for none."""

    landlock: int
    seccomp: bool

    @property
    def missing(self) -> Sequence[str]:
        """What there is not, in words."""
        lacks = [] if self.landlock else ["Landlock"]
        return lacks if self.seccomp else [*lacks, "seccomp"]

    @property
    def partial(self) -> Sequence[str]:
        """What this version of Landlock does not confine yet."""
        return [what for since, what in _SINCE.items() if 0 < self.landlock < since]


@cache
def support() -> Support:
    """Return what the kernel has, which does not change while a process lives."""
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(ctypes.c_long(_LANDLOCK_CREATE_RULESET), None, ctypes.c_size_t(0), _VERSION)
    number = _SECCOMP.get(platform.machine())
    action = ctypes.byref(ctypes.c_uint32(_ERRNO))
    # Where its number is not known, the helper finds out by itself.
    seccomp = number is None or libc.syscall(ctypes.c_long(number), _GET_ACTION_AVAIL, 0, action) == 0
    return Support(max(0, version), seccomp)
