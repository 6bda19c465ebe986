"""The table of docs/fork.md that shows specs/life.toml.

Knows what the page looks like. Must not know what a row means.
"""

from collections.abc import Iterator

from p11host.tables import Life, Step

FIRST = "| call | what the process is | reinit | inherit | strict |"
_CALLS = {"call": "any other"}
NONE = "\N{EN DASH}"


def life_table(life: Life) -> str:
    """Return the table: states with the same row stand together."""
    assert [*life.modes] == FIRST.strip("| ").split(" | ")[2:]
    lines = [FIRST, "|" + "---|" * (2 + len(life.modes))]
    for event in life.events:
        lines += (
            f"| {_name(event)} | {', '.join(states)} | {' | '.join(cells)} |"
            for states, cells in _groups(life, event)
        )
    return "\n".join(lines) + "\n"


def shown(page: str) -> str:
    """Return the table as a page shows it."""
    found = page[page.index(FIRST) :]
    return found[: found.index("\n\n") + 1] if "\n\n" in found else found


def _name(event: str) -> str:
    handle, _, origin = event.partition(".")
    return f"{handle}: {origin}" if origin else _CALLS.get(event, event)


def _groups(life: Life, event: str) -> Iterator[tuple[list[str], list[str]]]:
    """Return states in which an event does the same, or cannot happen, with what it does by mode."""
    groups: list[tuple[list[str], list[str]]] = []
    for state in life.states:
        cells = [_cell(life.step(mode, state, event), state) for mode in life.modes]
        if {*cells} == {NONE}:
            continue
        fitting = (
            group
            for group in groups
            if all(NONE in pair or len({*pair}) == 1 for pair in zip(group[1], cells, strict=True))
        )
        same = next(fitting, None)
        if same:
            same[0].append(state)
            same[1][:] = [other if cell == NONE else cell for other, cell in zip(same[1], cells, strict=True)]
        else:
            groups.append(([state], cells))
    yield from groups


def _cell(step: Step | None, state: str) -> str:
    if step is None:
        return NONE
    return step.rv if step.state == state else f"{step.rv}, then {step.state}"
