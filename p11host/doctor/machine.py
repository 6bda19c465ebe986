"""The machine itself: its kernel, and whether p11host is whole.

Knows the kernel's means of confining and where the C is. Must not know a module.
"""

import platform
from collections.abc import Iterator

from p11host import __version__, helper_path, narrow_helper_path, shim_path
from p11host.doctor.findings import Finding, Part, ok, problem
from p11host.errors import P11HostError
from p11host.sandbox.kernel import Support, support


def machine() -> Part:
    """Return what there is to say of this machine."""
    kernel = support()
    facts = {
        "p11host": __version__,
        "kernel": platform.release(),
        "machine": platform.machine(),
        "landlock": kernel.landlock,
        "seccomp": kernel.seccomp,
    }
    return Part("machine", (*_program(), *_kernel(kernel)), facts)


def _program() -> Iterator[Finding]:
    for find in (shim_path, helper_path):
        try:
            found = find()
        except P11HostError as error:
            yield problem(error)
        else:
            if find is shim_path:
                yield ok(f"p11host {__version__}, {found}")
    try:
        narrow_helper_path()
    except P11HostError:
        yield Finding("note", "no helper for providers of 32 bits: built without gcc-multilib")


def _kernel(kernel: Support) -> Iterator[Finding]:
    named = f"Linux {platform.release()}, {platform.machine()}"
    has = [f"Landlock (version {kernel.landlock})"] if kernel.landlock else []
    has += ["seccomp"] if kernel.seccomp else []
    yield ok(f"{named}: {' and '.join(has)}" if has else named)
    for lacking in kernel.missing:
        do = "use a kernel that has it, in lsm= of its command line if it is Landlock (docs/sandbox.md)"
        yield Finding("warning", f"the kernel has no {lacking}: providers are confined less", do)
    if kernel.partial:
        yield Finding("note", f"this Landlock does not confine {', '.join(kernel.partial)}")
