"""What a module needs around it: a PIN's file, sockets and devices of its profile, a sandbox.

Looks at files and connects to sockets. Must not know a helper.
"""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from p11host.cards.codes import NoServiceError
from p11host.config import Module
from p11host.doctor.findings import Finding, problem
from p11host.errors import P11HostError
from p11host.paths import provider_environment
from p11host.pins import PinSource, read_file, wipe
from p11host.sandbox.kernel import support
from p11host.sandbox.resolve import Profile, resolve
from p11host.trust import group_name

_PCSCD = "pcscd.comm"
#: Seconds in which a daemon of this machine takes a connection.
_CONNECT = 2.0


def surroundings(module: Module) -> Iterator[Finding]:
    """Yield what is wrong around a module, as this user sees it."""
    profile = resolve(module, provider_environment(module.env, os.environ))
    yield from _sandbox(module, profile)
    if module.pin_source is not None:
        yield from _pin(module.pin_source)
    for allowed in profile.paths:
        if allowed.right == "sockets" and allowed.path.endswith(_PCSCD):
            yield from _pcscd(Path(allowed.path))
        elif allowed.right == "devices":
            yield from _device(module, Path(allowed.path))


def barred(module: Module) -> Iterator[Finding]:
    """Yield the places of its own that this user may not read: why a module may have failed."""
    profile = resolve(module, provider_environment(module.env, os.environ))
    if module.user is not None:
        return
    for allowed in profile.paths:
        if allowed.right in ("read", "write") and allowed.source == profile.title:
            yield from _place(module, Path(allowed.path))


def _place(module: Module, path: Path) -> Iterator[Finding]:
    try:
        found = path.stat()
    except OSError:
        return
    wanted = os.R_OK | (os.X_OK if stat.S_ISDIR(found.st_mode) else 0)
    if not os.access(path, wanted):
        own = f"give it files of this user's: module.{module.name}.env, see docs/providers.md"
        group = group_name(found.st_gid)
        do = own if group == "root" else f"{own}; or run: adduser USER {group}"
        yield Finding("warning", f"{path} is not for this user to read", do)


def _sandbox(module: Module, profile: Profile) -> Iterator[Finding]:
    if not profile.settings.on:
        do = f"remove module.{module.name}.sandbox, and see: p11host sandbox {module.name}"
        yield Finding("warning", "its sandbox is off: it may do what its user may", do)
    elif profile.settings.require and support().missing:
        lacking = " and no ".join(support().missing)
        do = f"use a kernel that has it, or remove require from module.{module.name}.sandbox"
        yield Finding("problem", f"it requires a sandbox and the kernel has no {lacking}", do)


def _pin(source: PinSource) -> Iterator[Finding]:
    """Yield what is wrong with the file of a PIN; the PIN itself is wiped at once."""
    if source.kind != "file":
        yield Finding("note", f"its PIN comes from {source.kind} {source.place}".rstrip())
        return
    path = Path(source.place)
    try:
        wipe(read_file(path))
    except P11HostError as error:
        if path.exists() and not os.access(path, os.R_OK):
            yield Finding("note", f"{path} is not for this user to read, so not looked at")
        else:
            yield problem(error)


def _pcscd(path: Path) -> Iterator[Finding]:
    """Try to reach the daemon that has the card readers."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(_CONNECT)
            probe.connect(str(path))
        yield Finding("ok", f"pcscd answers at {path}")
    except PermissionError as error:
        yield kept_from(path, error.strerror or str(error))
    except OSError as error:
        said = f"pcscd does not answer at {path}: {error.strerror or error}"
        yield Finding("warning", said, NoServiceError.do)


def kept_from(path: Path, why: str) -> Finding:
    """Return that pcscd's socket is not for this user."""
    do = f"let this user have it: ls -l {path}; or see polkit's rules for org.debian.pcsc-lite.access_pcsc"
    return Finding("problem", f"{path}: not for this user: {why}", do)


def _device(module: Module, path: Path) -> Iterator[Finding]:
    """Tell of a device that is there and that this user may not use."""
    try:
        found = path.stat()
    except OSError:
        return
    if stat.S_ISCHR(found.st_mode) and module.user is None and not os.access(path, os.R_OK | os.W_OK):
        group = group_name(found.st_gid)
        do = f"adduser USER {group}" if group != "root" else f"ls -l {path}"
        yield Finding("warning", f"{path} is not for this user", f"run: {do}")
