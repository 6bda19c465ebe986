"""Which modules can reach PC/SC, and where.

Knows profiles. Must not know whether anybody answers there.
"""

import os
from pathlib import Path

from p11host.config import Module
from p11host.paths import provider_environment
from p11host.sandbox.resolve import resolve
from p11host.sandbox.settings import STRICT

#: Where pcscd listens unless the environment says otherwise.
VARIABLE, DEFAULT = "PCSCLITE_CSOCK_NAME", Path("/run/pcscd/pcscd.comm")
_NAME = "pcscd.comm"


def service_of(module: Module) -> Path | None:
    """Return where a module reaches PC/SC, None if it cannot. It says its profile; unconfined all can."""
    profile = resolve(module, provider_environment(module.env, os.environ))
    named = module.env.get(VARIABLE)
    for allowed in profile.paths:
        if allowed.right == "sockets" and (Path(allowed.path).name == _NAME or allowed.path == named):
            return Path(allowed.path)
    if profile.name == STRICT and not profile.settings.on:
        return Path(named or os.environ.get(VARIABLE) or DEFAULT)
    return None
