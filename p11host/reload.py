"""The configuration as it is now: read again when a file of it has changed, and never worse than it was.

Knows when files change. A change that is wrong is reported and does not count.
"""

from collections.abc import Iterable
from pathlib import Path

from p11host import log
from p11host.config import Choice, Config, load
from p11host.errors import ConfigError
from p11host.p11kit.files import Remark


class Configuration:
    """What the chosen files say. Raises ConfigError at first; later it keeps what was right."""

    def __init__(self, choice: Choice) -> None:
        self._choice = choice
        self._remarked: tuple[Remark, ...] = ()
        self._stamps = _stamps([*choice.paths, *choice.directories])
        self._config = self._load()

    def current(self) -> Config:
        """Return the configuration, after reading it again if a file has changed."""
        stamps = _stamps(self._stamps)
        if stamps != self._stamps:
            self._stamps = stamps
            self._reload()
        return self._config

    def read_anew(self) -> tuple[str, ...]:
        """Read the files whether or not one has changed; return what is wrong if they do not count."""
        self._stamps = _stamps(self._stamps)
        return self._reload()

    def _load(self) -> Config:
        """Read the chosen files, and know of those they refer to, however it ends."""
        referred: set[Path] = set()
        try:
            config = load(self._choice, referred)
        finally:
            watched = {*self._choice.paths, *self._choice.directories, *referred}
            # Stamped before they were read: what changed meanwhile is read again.
            self._stamps = {path: self._stamps.get(path, _stamp(path)) for path in watched}
        self._log_remarks(config)
        return config

    def _log_remarks(self, config: Config) -> None:
        """Log once what there is to say of p11-kit's files."""
        for remark in config.remarks:
            if remark not in self._remarked:
                level = log.warning if remark.refused else log.info
                level("config.remark", about=remark)
        self._remarked = config.remarks

    def _reload(self) -> tuple[str, ...]:
        try:
            self._config = self._load()
        except ConfigError as error:
            for problem in error.problems:
                log.error("config.refused", problem=problem)
            return error.problems
        log.info("config.read", modules=",".join(module.name for module in self._config.enabled))
        return ()


def _stamps(paths: Iterable[Path]) -> dict[Path, tuple[int, ...]]:
    return {path: _stamp(path) for path in paths}


def _stamp(path: Path) -> tuple[int, ...]:
    """Return what changes when a file does, () where there is none."""
    try:
        now = path.stat()
    except OSError:
        return ()
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_mode
