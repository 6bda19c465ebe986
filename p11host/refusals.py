"""What a helper says on its standard error of calls that were refused, or whose answers nobody believes.

Knows the one line of shim/refusal.c, and what the tables call its numbers. Must not trust it: the provider
can write to the same place.
"""

import re
from dataclasses import dataclass

from p11host.codes import ckr
from p11host.limits import limits
from p11host.tables import tables

_LINE = re.compile(
    r"p11host: (?P<event>call\.(?:refused|disbelieved)) function=(?P<function>C_\w+)"
    r"(?: mechanism=0x(?P<mechanism>[0-9a-f]{1,16}) length=(?P<length>\d{1,20}))?"
    r" rv=0x(?P<rv>[0-9a-f]{1,16}) count=(?P<count>\d{1,20}) reason=\"(?P<reason>[^\"]*)\""
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A line that was understood: an event, and its keys and values in order."""

    event: str
    fields: dict[str, object]


def read(line: str) -> Refusal | None:
    """Return the refusal that a line tells of, its numbers by their names; None if it is none.

    The first of a process reads the tables, about a tenth of a second.
    """
    found = _LINE.fullmatch(line)
    if found is None or len(found["reason"]) > limits().reason or len(found["function"]) > limits().name:
        return None
    said: dict[str, object] = {"function": found["function"]}
    if found["mechanism"] is not None:
        said["mechanism"] = _mechanism(int(found["mechanism"], 16))
        said["length"] = int(found["length"])
    said |= {"rv": ckr(int(found["rv"], 16)), "count": int(found["count"]), "reason": found["reason"]}
    return Refusal(found["event"], said)


def _mechanism(value: int) -> str:
    known = tables().mechanism(value)
    return known.name if known else hex(value)
