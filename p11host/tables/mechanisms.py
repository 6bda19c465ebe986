"""Mechanisms and what their parameters are: specs/mechanisms.toml.

Knows the grammar of a parameter. A vendor's row in a configuration file is in the same one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .functions import CONTEXTS
from .source import Source
from .structs import Struct

SCALARS = ("ulong", "handle", "byte", "version")
"""Parameters of one value."""

_CHOICE = re.compile(
    r"(?P<word>\w+)(?: (?P<size>\d+))?(?P<optional>\?)?(?P<output> out)?"
    r"(?: if (?P<probe>\w+) <= (?P<most>\d+))?"
)


@dataclass(frozen=True)
class Choice:
    """One way a parameter may look. Of several, the first that fits the parameter's length is taken."""

    kind: str
    """bytes, struct or one of SCALARS."""
    struct: str
    size: int
    """Usual length of ``bytes``, 0 if there is none."""
    optional: bool
    """May be left out, says the standard. NULL is carried for every mechanism."""
    output: bool
    """Bytes that the provider may write."""
    probe: str
    """If not "", a struct is taken only if this field is at most ``probe_max``."""
    probe_max: int


@dataclass(frozen=True)
class Mechanism:
    """One CKM name."""

    name: str
    value: int
    since: str
    param: str
    """As written in the table."""
    note: str
    output: str
    """The struct that a signature with it is; "" for plain bytes."""
    choices: Mapping[str, tuple[Choice, ...]]
    """By the context of the function, one of CONTEXTS. Empty where only no parameter can be carried."""

    @property
    def contextual(self) -> bool:
        """Whether the parameter depends on what the mechanism is used for."""
        return self.param.startswith("@")


def _choice(source: Source, path: tuple[str, ...], structs: Mapping[str, Struct], text: str) -> Choice:
    """Read one alternative of a parameter."""
    found = _CHOICE.fullmatch(text)
    if not found:
        source.fail(path, f"param {text!r}: expected KIND [LENGTH][?] [out] [if FIELD <= N]")
    word, probe = found["word"], found["probe"] or ""
    struct = structs.get(word)
    if not (struct and struct.layout) and word not in ("bytes", *SCALARS):
        near = source.near(word, ["bytes", *SCALARS, *structs])
        source.fail(path, f"param {text!r}: unknown kind or struct {word!r}{near}")
    if (found["size"] or found["output"]) and word != "bytes":
        source.fail(path, f"param {text!r}: only bytes have a length or 'out'")
    probed = struct.field(probe) if struct and probe else None
    if probe and (not probed or probed.kind != "ulong"):
        source.fail(path, f"param {text!r}: expected a struct with a ulong field {probe!r}")
    return Choice(
        kind="struct" if struct else word,
        struct=word if struct else "",
        size=int(found["size"] or 0),
        optional=bool(found["optional"]),
        output=bool(found["output"]),
        probe=probe,
        probe_max=int(found["most"] or 0),
    )


def parse_param(
    source: Source, path: tuple[str, ...], structs: Mapping[str, Struct], param: object
) -> tuple[Choice, ...]:
    """Return the choices of one ``param`` (not ``@name``); TableError at the row ``path`` of ``source``."""
    if not isinstance(param, str):
        source.fail(path, f"param: expected a string, not {param!r}")
    if param in ("none", "undefined"):
        return ()
    return tuple(_choice(source, path, structs, text) for text in param.split(" | "))


Contexts = Mapping[str, Mapping[str, tuple[Choice, ...]]]
"""The choices of each context, by ``@name``."""


def _contexts(source: Source, structs: Mapping[str, Struct]) -> Contexts:
    """Read [contexts]: the choices by context, by ``@name``."""
    contexts = {}
    for name, values in source.table("contexts").items():
        row = source.row(("contexts", name), values, " ".join(CONTEXTS))
        paths = {context: ("contexts", name, context) for context in CONTEXTS}
        contexts[f"@{name}"] = {
            context: parse_param(source, path, structs, row[context]) for context, path in paths.items()
        }
    return contexts


def _output(source: Source, path: tuple[str, ...], structs: Mapping[str, Struct], name: str) -> str:
    """Read ``output``."""
    if name and (name not in structs or structs[name].kind != "signature"):
        source.fail(path, f"output: expected a struct of class signature, not {name!r}")
    return name


def _mechanisms(source: Source, structs: Mapping[str, Struct], contexts: Contexts) -> dict[str, Mechanism]:
    """Read [mechanisms]. Two with one number have one parameter."""
    mechanisms: dict[str, Mechanism] = {}
    numbers: dict[int, Mechanism] = {}
    for name, values in source.table("mechanisms").items():
        path = ("mechanisms", name)
        row = source.row(path, values, "value since param", "note output")
        param = row["param"]
        if isinstance(param, str) and param.startswith("@"):
            if param not in contexts:
                source.fail(path, f"param: expected a table [contexts.{param[1:]}]")
            choices = contexts[param]
        else:
            choices = dict.fromkeys(CONTEXTS, parse_param(source, path, structs, param))
        value, since = source.number(path, row["value"]), source.since(path, row)
        output = _output(source, path, structs, row.get("output", ""))
        mechanism = Mechanism(name, value, since, param, row.get("note", ""), output, choices)
        first = numbers.setdefault(value, mechanism)
        if (first.param, first.output) != (param, output):
            source.fail(path, f"has the value of {numbers[value].name}, but another parameter")
        mechanisms[name] = mechanism
    return mechanisms


def load_mechanisms(source: Source, structs: Mapping[str, Struct]) -> Mapping[str, Mechanism]:
    """Return every mechanism by name."""
    return _mechanisms(source, structs, _contexts(source, structs))


def add_mechanisms(
    source: Source, structs: Mapping[str, Struct], known: Mapping[str, Mechanism]
) -> Mapping[str, Mechanism]:
    """Return the known mechanisms with those of a vendor: [mechanisms] and [contexts].

    A row may give a known mechanism another parameter, by its own name and number.
    """
    theirs = {row.param: row.choices for row in known.values() if row.contextual}
    found = _mechanisms(source, structs, {**theirs, **_contexts(source, structs)})
    names = {row.value: name for name, row in list(known.items())[::-1]}
    for name, row in found.items():
        path = ("mechanisms", name)
        if name in known and known[name].value != row.value:
            source.fail(path, f"the value of {name} is {known[name].value:#x}")
        if name not in known and row.value in names:
            source.fail(
                path, f"{row.value:#x} is {names[row.value]}: give it that name to change its parameter"
            )
    return {**known, **found}
