"""What of the standard is carried, as the run of all cases has shown it: docs/coverage.md.

A row says what reached the provider exactly as it was given, and what the shim refuses and why. Knows tables
and text; what was carried is told by the run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mirror_case import Case

from p11host.tables import tables

HEAD = """\
# What is carried

Written by `tests/test_mirror.py`, which makes every call below directly and through p11host and compares what
the provider was given, all memory of the caller and the CK_RV. It fails when the run shows anything else than
this file says; `P11HOST_COVERAGE=write .venv/bin/pytest tests/test_mirror.py` writes it anew.

"""
REFUSALS = """\
A call that is refused never reaches the provider, and nothing of the caller's memory is written.
[not-promised.md](not-promised.md) has the reasons that no table has.

"""


@dataclass
class Found:
    """What a run has shown of one row of the tables."""

    carried: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)


@dataclass
class Coverage:
    """What a run has shown of all rows."""

    rows: dict[tuple[str, str], Found] = field(default_factory=lambda: defaultdict(Found))

    def note(self, case: Case) -> None:
        """Note a case that had the outcome it must have."""
        if case.refusal:
            self.rows[case.subject].refused.add(f"{case.reason}: {case.refusal}")
            return
        for subject in (case.subject, *(("struct", name) for name in case.structs)):
            self.rows[subject].carried.add(case.shape or "yes")

    def data(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            f"{kind} {name}": [sorted(found.carried), sorted(found.refused)]
            for (kind, name), found in self.rows.items()
        }


Data = Mapping[str, Sequence[Sequence[str]]]


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> Iterator[str]:
    """Return a table of Markdown."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def found(data: Data, kind: str, name: str) -> tuple[Sequence[str], Sequence[str]]:
    """Return what was carried of a row, and what was refused."""
    carried, refused = data.get(f"{kind} {name}", ((), ()))
    return carried, refused


def functions(data: Data) -> Iterator[Sequence[str]]:
    """Return the rows of the functions."""
    for function in tables().functions.values():
        carried, refused = found(data, "function", function.name)
        how = "answered by the shim" if function.local else "yes" if carried else "no"
        how = "from looks at the slots" if function.patience == "forever" else how
        without = function.without
        if without and without.struct:
            how += f", without {without.flag}"
        yield f"`{function.name}`", function.since, how, "; ".join(refused)


def mechanisms(data: Data) -> Iterator[Sequence[str]]:
    """Return the rows of the mechanisms."""
    seen = set()
    for row in tables().mechanisms.values():
        if row.value not in seen:
            seen.add(row.value)
            carried, refused = found(data, "mechanism", row.name)
            yield f"`{row.name}`", f"0x{row.value:x}", ", ".join(carried) or "no", "; ".join(refused)


def structs(data: Data) -> Iterator[Sequence[str]]:
    """Return the rows of the structs that a parameter may be or hold."""
    for struct in tables().structs.values():
        if struct.kind in ("param", "nested", "signature", "deprecated"):
            carried, refused = found(data, "struct", struct.name)
            written = ", ".join(row.name for row in struct.fields if row.direction != "in")
            yield f"`{struct.name}`", struct.kind, "yes" if carried else "no", written, "; ".join(refused)


def attributes(data: Data) -> Iterator[Sequence[str]]:
    """Return the rows of the attributes."""
    for row in tables().attributes.values():
        carried, refused = found(data, "attribute", row.name)
        numbers = f"0x{row.value:x}" + ("" if row.also is None else f", 0x{row.also:x}")
        yield f"`{row.name}`", numbers, row.kind, "yes" if carried else "no", "; ".join(refused)


def text(data: Data) -> str:
    """Return the whole file."""
    lines = [
        *["## Functions", "", *table(("function", "since", "carried", "refused"), functions(data))],
        *[
            "## Mechanisms",
            "",
            "NULL is carried for each of them with any length, and so is a pointer to no bytes.",
            "",
        ],
        *table(("mechanism", "number", "parameters carried", "refused"), mechanisms(data)),
        *["## Parameters", ""],
        *table(("struct", "kind", "carried", "outputs", "refused"), structs(data)),
        *["## Attributes", "", "Given and asked for. One that no table knows is bytes.", ""],
        *table(("attribute", "number", "kind", "carried", "refused"), attributes(data)),
    ]
    return HEAD + REFUSALS + "\n".join(lines)
