"""What the tables know of a name or a number, gathered as text.

Knows the tables, and what p11host does by them. Must not know terminals, files or configurations.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from p11host.explain.codes import REASONS
from p11host.tables import CONTEXTS, Attribute, Choice, Constant, Field, Function, Mechanism, Struct, Tables
from p11host.text import nearest

Facts = Mapping[str, str | list[str]]

#: Bits of the widest CK_ULONG.
_BITS = 64

_ATTRIBUTES = {
    "bytes": "bytes, carried as they are",
    "bool": "one CK_BBOOL",
    "ulong": "one CK_ULONG, carried as a number",
    "ulongs": "an array of CK_ULONG, carried as numbers",
    "template": "an array of CK_ATTRIBUTE, carried attribute by attribute",
    "date": "a CK_DATE or nothing, carried as bytes",
    "version": "a CK_VERSION, carried as bytes",
    "vendor": "the first of the vendors' numbers",
}
_LENGTHS = {
    "field": "as long as {0} says",
    "bits": "{0} says its length in bits",
    "bytes|bits": "{0} says its length, in bytes up to 24, in bits from 64",
    "deref": "as long as the number behind {0} says",
    "parent bits": "{0} of the enclosing struct says its length in bits",
    "nul": "ends with a NUL",
    "unknown": "nothing says its length: only NULL is carried, unless its lengths are configured",
}


@dataclass(frozen=True)
class Entry:
    """One thing that a name or number stands for."""

    kind: str
    """function, mechanism, attribute, struct, type or the kind of a constant (ckr, ckf, …)."""
    name: str
    value: int | None
    """None if it has no number."""
    since: str
    """Version of the standard, or "vendor"."""
    facts: Facts = field(default_factory=dict)
    module: str = ""
    """The module whose rows say so, "" for the standard."""


def parse_number(word: str) -> int | None:
    """Return the number that a word is, in any notation of C; None if it is none."""
    try:
        value = int(word.rstrip("uUlL") or "x", 0)
    except ValueError:
        return None
    return -1 if value in (-1, (1 << _BITS) - 1, (1 << _BITS // 2) - 1) else value


def explain(tables: Tables, word: str) -> list[Entry]:
    """Return all that a name or number stands for, nothing if it is unknown."""
    number = parse_number(word)
    return list(_by_name(tables, word) if number is None else _by_number(tables, number))


def suggest(tables: Tables, word: str) -> str:
    """Return a question that names what an unknown word may have meant, or ""."""
    known = [*tables.functions, *tables.mechanisms, *tables.attributes, *tables.structs, *tables.constants]
    return nearest(word, known)


def _by_name(tables: Tables, name: str) -> Iterator[Entry]:
    if name in tables.functions:
        yield _function(tables, tables.functions[name])
    if name in tables.mechanisms:
        yield _mechanism(tables, tables.mechanisms[name])
    if name in tables.attributes:
        yield _attribute(tables, tables.attributes[name])
    if name in tables.structs:
        yield _struct(tables, tables.structs[name])
    if name in tables.types.base:
        base = tables.types.base[name]
        facts: Facts = {} if base == name else {"type": f"another name of {base}"}
        yield Entry("type", name, None, "", facts)
    if name in tables.constants:
        yield _constant(tables, tables.constants[name])


def _by_number(tables: Tables, number: int) -> Iterator[Entry]:
    yield from (_mechanism(tables, row) for row in tables.mechanisms.values() if row.value == number)
    rows = (row for row in tables.attributes.values() if number in (row.value, row.also))
    yield from (_attribute(tables, row) for row in rows)
    yield from (_constant(tables, row) for row in tables.constants.values() if row.value == number)


# ---- functions ----


def _function(tables: Tables, function: Function) -> Entry:
    facts: dict[str, str | list[str]] = {
        "arguments": [_argument(function, n) for n in range(len(function.args))]
    }
    if any(arg.kind in ("mechanism", "message") for arg in function.args):
        facts["parameters of mechanisms"] = function.context
    if function.local:
        facts["answered"] = "in the application's process: never sent to a helper"
    else:
        milliseconds = tables.limits.deadlines[function.patience]
        usual = f"{milliseconds / 1000:g} s unless configured" if milliseconds else "for ever"
        facts["patience"] = f"{function.patience}: {usual}"
        facts["helper dies during it"] = function.gone
        facts["no helper to ask"] = function.absent
        unknown = "CKR_GENERAL_ERROR" if function.gone == "CKR_GENERAL_ERROR" else "CKR_DEVICE_ERROR"
        facts["no answer in time"] = f"{unknown}: it may or may not have been executed"
    if function.secret:
        facts["secrets"] = "carries PINs, keys or plaintext: every buffer it used is wiped"
    returns = {*function.returns, "CKR_FUNCTION_NOT_SUPPORTED"}
    facts["may return"] = [name for name in tables.constants if name in returns]
    return Entry("function", function.name, None, function.since, facts)


def _argument(function: Function, place: int) -> str:
    arg = function.args[place]
    words = ", ".join(f"{ctype} {name}" for ctype, name in arg.words)
    extra = f" of {arg.size}" if arg.size else " (may be none)" if arg.optional else ""
    return f"{words}: {arg.kind}{extra}"


# ---- mechanisms ----


def _mechanism(tables: Tables, row: Mechanism) -> Entry:
    facts: dict[str, str | list[str]] = {"parameter": list(_parameters(tables, row))}
    facts["NULL"] = "always carried: the provider judges"
    facts["a wrong one"] = _wrong(row)
    pointers = sorted(set(untold(tables, row)))
    if pointers:
        facts["pointers without length"] = pointers
    if row.output:
        facts["signature"] = f"{row.output}, relocated into the caller's buffer"
    if row.note:
        facts["note"] = row.note
    others = [
        name for name, other in tables.mechanisms.items() if other.value == row.value and name != row.name
    ]
    if others:
        facts["also called"] = others
    return Entry("mechanism", row.name, row.value, row.since, facts)


def _parameters(tables: Tables, row: Mechanism) -> Iterator[str]:
    if not row.contextual:
        yield f"{_choices(tables, row.choices['plain'])}, with every function"
        return
    for context in CONTEXTS:
        users = [f.name for f in tables.functions.values() if _uses(f, context)]
        yield f"{_choices(tables, row.choices[context])}, with {', '.join(users)}"


def _uses(function: Function, context: str) -> bool:
    kinds = {arg.kind for arg in function.args}
    return function.context == context and bool(kinds & {"mechanism", "message"})


def _choices(tables: Tables, choices: tuple[Choice, ...]) -> str:
    return " or ".join(_choice(tables, choice) for choice in choices) or "none"


def _choice(tables: Tables, choice: Choice) -> str:
    condition = f" if {choice.probe} <= {choice.probe_max}" if choice.probe else ""
    if choice.kind == "struct":
        return f"{choice.struct} ({_size(tables, choice.struct)}{condition})"
    text = {
        "ulong": "one CK_ULONG",
        "handle": "one CK_OBJECT_HANDLE",
        "byte": "one CK_BYTE",
        "version": "one CK_VERSION",
    }.get(choice.kind) or (f"bytes, usually {choice.size}" if choice.size else "bytes")
    written = ", which the provider may write" if choice.output else ""
    return f"{text}{', or nothing' if choice.optional else ''}{written}"


def _size(tables: Tables, struct: str) -> str:
    wide, narrow = (tables.sizes[abi][struct].size for abi in ("lp64", "ilp32"))
    return f"{wide} bytes, {narrow} where CK_ULONG has 32 bits"


def _wrong(row: Mechanism) -> str:
    alternatives = [choices for choices in row.choices.values() if choices]
    if not alternatives:
        return "any parameter at all is refused with CKR_MECHANISM_PARAM_INVALID; the provider gets no call"
    if any(choice.kind not in ("struct", "version") for choices in alternatives for choice in choices):
        return "is carried as bytes: the provider judges"
    return "of any other length is refused with CKR_MECHANISM_PARAM_INVALID; the provider gets no call"


def untold(tables: Tables, row: Mechanism) -> Iterator[str]:
    """Yield the fields of a mechanism's parameters that are pointers of which nothing says the length."""
    for choices in row.choices.values():
        for choice in choices:
            fields = tables.structs[choice.struct].fields if choice.struct else ()
            yield from (f.name for f in fields if f.length and f.length.unit == "unknown")


# ---- attributes, structs, constants ----


def _attribute(tables: Tables, row: Attribute) -> Entry:
    facts: dict[str, str | list[str]] = {"value": _ATTRIBUTES[row.kind]}
    if row.type:
        facts["type"] = row.type
    if row.also is not None:
        facts["also numbered"] = f"{row.also:#x}"
    others = [
        name for name, other in tables.attributes.items() if other.value == row.value and name != row.name
    ]
    if others:
        facts["also called"] = others
    return Entry("attribute", row.name, row.value, row.since, facts)


def _struct(tables: Tables, struct: Struct) -> Entry:
    facts: dict[str, str | list[str]] = {}
    if struct.alias:
        facts["alias"] = f"another name of {struct.alias}"
    facts["length"] = _size(tables, struct.name)
    facts["fields"] = [_field(each) for each in struct.fields]
    if not struct.layout and not struct.alias:
        facts["carried"] = "never as a struct"
    users = [row.name for row in tables.mechanisms.values() if _takes(row, struct.name)]
    if users:
        facts["parameter of"] = users
    return Entry("struct", struct.name, None, struct.since, facts)


def _takes(row: Mechanism, struct: str) -> bool:
    return any(choice.struct == struct for choices in row.choices.values() for choice in choices)


def _field(field: Field) -> str:
    text = f"{field.name} {field.type}"
    if field.length:
        said = _LENGTHS.get(field.length.unit, f"always {field.length.count}").format(field.length.field)
        text += f": {said}"
    if field.direction != "in":
        text += f" ({field.direction})"
    return text + (" (late: a later call may write it)" if field.late else "")


def _constant(tables: Tables, row: Constant) -> Entry:
    facts: dict[str, str | list[str]] = {"of": row.domain} if row.domain else {}
    if row.kind == "ckr":
        facts |= _code(tables, row.name)
    return Entry(row.kind, row.name, row.value, row.since, facts)


def _code(tables: Tables, name: str) -> dict[str, str | list[str]]:
    facts: dict[str, str | list[str]] = {}
    sent = [f for f in tables.functions.values() if not f.local]
    made = list(REASONS.get(name, ()))
    if gone := _these([f for f in sent if f.gone == name], sent):
        made.append(f"the helper died during the call: {gone}")
    if absent := _these([f for f in sent if f.absent == name], sent):
        made.append(f"there is no helper to ask: {absent}")
    facts["made by p11host itself"] = made or "never: it comes from the provider, unchanged"
    functions = list(tables.functions.values())
    if allowed := _these([f for f in functions if name in f.returns], functions):
        facts["the standard allows it for"] = allowed
    return facts


def _these(some: list[Function], of: list[Function]) -> str:
    """Return the names of some functions, or of the others where they are fewer."""
    others = [function.name for function in of if function not in some]
    if len(others) >= len(some):
        return ", ".join(function.name for function in some)
    what = "every function" if any(function.local for function in of) else "every function that is sent"
    return f"{what} but {', '.join(others)}" if others else what
