"""Where things are by rule: the broker's socket and the files of the configuration.

Knows environment variables, directories' names and links. Opens and creates nothing.
"""

import os
import stat
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from p11host.errors import BrokerError

SYSTEM_CONFIG = Path("/etc/p11host/p11host.toml")
SYSTEM_SOCKET = Path("/run/p11host/broker.sock")
#: What a provider keeps of the broker's environment, besides LC_*.
KEPT = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "XDG_RUNTIME_DIR")
#: sun_path of Linux, less the NUL.
SOCKET_PATH_BYTES = 107
#: Where p11-kit is configured for all users, and by packages.
P11KIT_SYSTEM = Path("/etc/pkcs11")
P11KIT_PACKAGES = Path("/usr/share/p11-kit/modules")


@dataclass(frozen=True, slots=True)
class P11KitPlaces:
    """Where p11-kit's own configuration is. The user's is None for root, as p11-kit has it."""

    system_conf: Path
    system_modules: Path
    package_modules: Path
    user_conf: Path | None = None
    user_modules: Path | None = None


def socket_path(environ: Mapping[str, str] | None = None, uid: int | None = None) -> Path:
    """Return where the broker of user `uid` listens. The shim follows the same rules, in this order.

    `$P11HOST_SOCKET`; `$XDG_RUNTIME_DIR/p11host/broker.sock`; `/run/user/UID/p11host/broker.sock` where
    `/run/user/UID` exists; for root `/run/p11host/broker.sock`; `/tmp/p11host-UID/broker.sock`. An empty or
    relative value counts as none.
    """
    environ = os.environ if environ is None else environ
    uid = os.geteuid() if uid is None else uid
    path = _by_environment(environ) or _by_user(uid)
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        raise BrokerError(
            f"{path}: longer than a socket's path may be ({SOCKET_PATH_BYTES} bytes); set P11HOST_SOCKET"
        )
    return path


def user_config(environ: Mapping[str, str]) -> Path:
    """Return where a user's own configuration is: below `$XDG_CONFIG_HOME`, by default `~/.config`."""
    return _user_base(environ) / "p11host" / "p11host.toml"


def drop_ins(file: Path) -> Path:
    """Return the directory whose *.toml count with `file`: p11host.d beside p11host.toml."""
    return file.with_suffix(".d")


def p11kit_places(environ: Mapping[str, str] | None = None, uid: int | None = None) -> P11KitPlaces:
    """Return where p11-kit looks for its configuration, for user `uid`."""
    environ = os.environ if environ is None else environ
    uid = os.geteuid() if uid is None else uid
    system = P11KIT_SYSTEM / "pkcs11.conf", P11KIT_SYSTEM / "modules", P11KIT_PACKAGES
    if uid == 0:
        return P11KitPlaces(*system)
    user = _user_base(environ) / "pkcs11"
    return P11KitPlaces(*system, user / "pkcs11.conf", user / "modules")


def provider_directories() -> Sequence[Path]:
    """Return where a provider may be that p11-kit's configuration names without a directory."""
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    usual = [Path("/usr/lib", multiarch, "pkcs11")] if multiarch else []
    return [*usual, *(Path(each, "pkcs11") for each in ("/usr/lib64", "/usr/lib", "/usr/local/lib"))]


def _user_base(environ: Mapping[str, str]) -> Path:
    base = environ.get("XDG_CONFIG_HOME", "")
    return Path(base if base.startswith("/") else f"{environ.get('HOME') or Path.home()}/.config")


def provider_environment(own: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return a provider's environment: what it needs of the broker's, and its module's `own` on top."""
    kept = {name: value for name, value in environ.items() if name in KEPT or name.startswith("LC_")}
    return kept | dict(own)


def config_candidates(environ: Mapping[str, str] | None = None, uid: int | None = None) -> Sequence[Path]:
    """Return the files that make up the configuration where none is named: the user's, then the system's.

    Root has no file of its own: what root loads is decided in /etc alone.
    """
    environ = os.environ if environ is None else environ
    uid = os.geteuid() if uid is None else uid
    return (SYSTEM_CONFIG,) if uid == 0 else (user_config(environ), SYSTEM_CONFIG)


def _by_environment(environ: Mapping[str, str]) -> Path | None:
    named = environ.get("P11HOST_SOCKET", "")
    if named.startswith("/"):
        return Path(named)
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    return Path(runtime) / "p11host" / "broker.sock" if runtime.startswith("/") else None


def _by_user(uid: int) -> Path:
    runtime = Path(f"/run/user/{uid}")
    if runtime.is_dir():
        return runtime / "p11host" / "broker.sock"
    return SYSTEM_SOCKET if uid == 0 else Path(f"/tmp/p11host-{uid}/broker.sock")  # noqa: S108 (owner is checked)


def real(path: Path) -> Path:
    """Return a path without links, as far as they can be followed. Path.resolve() fails in a circle."""
    return Path(os.path.realpath(path))


def is_there(path: Path) -> bool:
    """Tell whether there is anything at a path. Path.exists() fails where nobody can look."""
    return _mode(path) is not None


def is_directory(path: Path) -> bool:
    """Tell whether a directory is at a path."""
    mode = _mode(path)
    return mode is not None and stat.S_ISDIR(mode)


def is_file(path: Path) -> bool:
    """Tell whether a regular file is at a path."""
    mode = _mode(path)
    return mode is not None and stat.S_ISREG(mode)


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return None
