"""What every table of a configuration file has in common."""

from pydantic import BaseModel, ConfigDict


class SaidError(ValueError):
    """A fault that says itself what is wrong, better than by what was expected."""


class Table(BaseModel):
    """A table of the file: keys it does not know are faults, and no type is turned into another."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
