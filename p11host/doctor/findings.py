"""A finding: how bad it is, what it is about, and what to do.

Knows words only. What is looked at is the other files' here.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

#: ok and note need nothing done; a warning may hurt; a problem is something that does not work.
Level = Literal["ok", "note", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `do` is what helps, "" where nothing need be done."""

    level: Level
    text: str
    do: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """What was found of a part of the machine, and the same as data."""

    name: str
    findings: tuple[Finding, ...]
    facts: object = None


def ok(text: str) -> Finding:
    """Return a finding that all is well."""
    return Finding("ok", text)


def problem(error: object) -> Finding:
    """Return an error as a finding: after the last semicolon it says what to do."""
    said, _, do = str(error).rpartition("; ")
    return Finding("problem", said, do) if said else Finding("problem", do)


def is_well(parts: Iterable[Part]) -> bool:
    """Tell whether there is no problem."""
    return all(finding.level != "problem" for part in parts for finding in part.findings)


def remedies(parts: Iterable[Part]) -> Iterator[str]:
    """Yield what to do and for which parts, each thing once, first what helps against problems."""
    found = [(part.name, finding) for part in parts for finding in part.findings if finding.do]
    names: dict[str, dict[str, None]] = {}
    for name, finding in found:
        names.setdefault(finding.do, {})[name] = None
    urgent = [finding.do for _, finding in found if finding.level == "problem"]
    yield from (f"{', '.join(names[do])}: {do}" for do in dict.fromkeys([*urgent, *names]))
