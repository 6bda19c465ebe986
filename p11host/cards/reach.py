"""Which modules can reach PC/SC, and where.

Knows profiles. Must not know whether anybody answers there.
"""

import os
from pathlib import Path

from p11host.config import Module
from p11host.paths import provider_environment
from p11host.sandbox.known import profiles
from p11host.sandbox.resolve import Profile, resolve
from p11host.sandbox.settings import STRICT

#: Where pcscd listens unless the environment says otherwise.
VARIABLE, DEFAULT = "PCSCLITE_CSOCK_NAME", Path("/run/pcscd/pcscd.comm")
_NAME = "pcscd.comm"


def service_of(module: Module) -> Path | None:
    """Return where a module reaches PC/SC, None if it cannot. It says its profile; unconfined all can."""
    profile = _profile_of(module)
    granted = _granted(module, profile)
    if granted is None and profile.name == STRICT and not profile.settings.on:
        return Path(module.env.get(VARIABLE) or os.environ.get(VARIABLE) or DEFAULT)
    return granted


def needs_check(module: Module) -> bool:
    """Tell whether a module is about cards, by its profile, and not known to notice that they move."""
    profile = _profile_of(module)
    known = profiles().providers.get(profile.name)
    return _granted(module, profile) is not None and not (known and known.notices)


def _profile_of(module: Module) -> Profile:
    return resolve(module, provider_environment(module.env, os.environ))


def _granted(module: Module, profile: Profile) -> Path | None:
    """Return PC/SC's socket, if a profile names it."""
    named = module.env.get(VARIABLE)
    for allowed in profile.paths:
        if allowed.right == "sockets" and (Path(allowed.path).name == _NAME or allowed.path == named):
            return Path(allowed.path)
    return None
