"""A rack: the slots of tests/providers/rack.c, which change while it runs."""

from dataclasses import dataclass
from pathlib import Path

from brokers import module


@dataclass(frozen=True)
class Rack:
    """A module whose slots are what `fill` says last."""

    provider: Path
    file: Path

    @property
    def name(self) -> str:
        """The module's name."""
        return self.file.stem

    def fill(self, *lines: str) -> "Rack":
        """Say what its slots are from now on, at once for whoever looks."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text("".join(f"{line}\n" for line in lines))
        fresh.rename(self.file)
        return self

    def table(self, **keys: object) -> str:
        """Return the module's table, with these keys besides."""
        return module(self.name, self.provider, env={"RACK": str(self.file)}, sandbox="off", **keys)


@dataclass(frozen=True)
class Racks:
    """Makes racks in a directory."""

    provider: Path
    directory: Path

    def make(self, name: str, *lines: str) -> Rack:
        """Return a new one with these slots."""
        return Rack(self.provider, self.directory / f"{name}.rack").fill(*lines)
