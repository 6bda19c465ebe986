"""tables.c: the descriptor tables that shim/tables.h declares. Their words are those of that file."""

from __future__ import annotations

from collections.abc import Iterator

from p11host.tables import (
    PATIENCES,
    Arg,
    Attribute,
    Choice,
    Field,
    Function,
    Mechanism,
    Struct,
    Tables,
    parents,
)

from .header import carried
from .text import array, cells, source

_ARGS = {
    "ulong": "NUMBER",
    "flags": "NUMBER",
    "inout template": "TEMPLATE_IO",
    "out ulong": "OUT_NUMBER",
    "out ulongs": "OUT_NUMBERS",
}
_FIELDS = {"ulong": "NUMBER", "ulong*": "NUMBER_PTR", "object*": "OBJECT_PTR"}
_UNITS = {"bytes|bits": "BYTES_OR_BITS"}
_VALUES = {"ulong": "NUMBER", "ulongs": "NUMBERS", "handle": "OBJECT"}
_ATTRIBUTES = ("ulong", "bool", "ulongs", "template")
"""Attributes that are more than bytes to the walker."""


def _word(prefix: str, word: str, others: dict[str, str]) -> str:
    """Return the enumerator for a word of the tables."""
    return f"{prefix}_{others.get(word, word.upper().replace(' ', '_').replace('-', '_'))}"


def _arg(arg: Arg, pos: int) -> str:
    count = len(arg.words)
    return cells(
        kind=_word("ARG", arg.kind, _ARGS),
        pos=str(pos),
        len=count > 1 and str(pos + 1),
        count=count > 2 and str(pos + 2),
        optional=arg.optional and "1",
        type=f"LAYOUT_{arg.struct}" if arg.struct else arg.size,
    )


def _args(function: Function) -> list[str]:
    rows, pos = [], 0
    for arg in function.args:
        rows.append(_arg(arg, pos))
        pos += len(arg.words)
    return array(f"static const struct arg args_{function.name}[]", rows)


def _without(function: Function) -> list[str]:
    without = function.without
    if not without:
        return []
    row = cells(
        pos=without.pos,
        told=bool(without.field),
        offset=without.field and f"offsetof({without.struct}, {without.field})",
        flag=without.flag,
        refusal=without.refusal,
    )
    return [f"static const struct without without_{function.name} = {row};", ""]


def _function(function: Function) -> str:
    return cells(
        name=f'"{function.name}"',
        name_len=len(function.name),
        n_args=len(function.args),
        n_words=len(function.words),
        context=_word("CONTEXT", function.context, {}),
        patience=_word("PATIENCE", function.patience, {}),
        secret=function.secret,
        local=function.local,
        role=function.operation and _word("ROLE", function.operation.role, {}),
        operations=function.operation and " | ".join(function.operation.flags),
        effect=function.effect and _word("EFFECT", function.effect.name, {}),
        subject=function.effect and function.effect.pos,
        gone=function.gone,
        absent=function.absent,
        without=function.without and f"&without_{function.name}",
        args=f"args_{function.name}",
    )


def _functions(tables: Tables) -> Iterator[str]:
    functions = tables.functions.values()
    yield from (line for function in functions for line in [*_args(function), *_without(function)])
    yield from array("const struct function functions[FUNCTION_COUNT]", map(_function, functions))


def _extent(tables: Tables, struct: Struct, field: Field) -> str:
    """Return the ``length`` of a field: a number, or the offset of the field that says it."""
    if not field.length:
        return str(field.array or "")
    if not field.length.field:
        return str(field.length.count or "")
    owner = struct
    if field.length.unit == "parent bits":
        # layouts_check.c asserts that the offset is the same in all of them.
        owner = parents(tables.structs, struct.name)[0]
    return f"offsetof({owner.name}, {field.length.field})"


def _field(tables: Tables, struct: Struct, field: Field) -> str:
    base, target = tables.structs.get(field.base), ""
    if field.kind in ("struct", "structs") and base:
        target = f"LAYOUT_{base.alias or base.name}"
    return cells(
        offset=f"offsetof({struct.name}, {field.name})",
        kind=_word("FIELD", field.kind, _FIELDS),
        dir=_word("DIR", field.direction, {}),
        late=field.late,
        unit=field.length and _word("UNIT", field.length.unit, _UNITS),
        length=_extent(tables, struct, field),
        type=f"UNION_{struct.name}" if field.kind == "union" else target,
    )


def _layout(struct: Struct) -> str:
    return cells(
        name=f'"{struct.name}"',
        name_len=len(struct.name),
        size=f"sizeof({struct.name})",
        align=f"_Alignof({struct.name})",
        n_fields=len(struct.fields),
        signature=struct.kind == "signature",
        fields=f"fields_{struct.name}",
    )


def _layouts(tables: Tables) -> Iterator[str]:
    structs = carried(tables)
    for struct in structs:
        rows = (_field(tables, struct, field) for field in struct.fields)
        yield from array(f"static const struct field fields_{struct.name}[]", rows)
    yield from array("const struct layout layouts[]", map(_layout, structs))
    yield f"const unsigned layout_count = {len(structs)};\n"


def _variant(tables: Tables, tag: str, value: str) -> str:
    struct = value in tables.structs
    kind = "struct" if struct else value
    return cells(tag=tag, kind=_word("VALUE", kind, _VALUES), type=struct and f"LAYOUT_{value}")


def _unions(tables: Tables) -> Iterator[str]:
    unions = [tables.unions[name] for name in sorted(tables.unions)]
    rows = []
    for union in unions:
        variants = [_variant(tables, tag, value) for tag, value in union.variants.items()]
        yield from array(f"static const struct variant variants_{union.struct}[]", variants)
        offset = f"offsetof({union.struct}, {union.tag})"
        rows.append(cells(tag=offset, n_variants=len(variants), variants=f"variants_{union.struct}"))
    yield from array("const struct tagged_union unions[]", rows)


def _choice(context: str, choice: Choice) -> str:
    struct = "CK_VERSION" if choice.kind == "version" else choice.struct
    return cells(
        context=_word("CONTEXT", context, {}),
        kind=_word("VALUE", "struct" if struct else choice.kind, _VALUES),
        output=choice.output,
        type=f"LAYOUT_{struct}" if struct else choice.size,
        probe=choice.probe and f"offsetof({struct}, {choice.probe})",
        probe_max=choice.probe_max,
    )


def _choices(mechanism: Mechanism) -> tuple[str, ...]:
    """Return the choices of a mechanism, those of each context together."""
    if not mechanism.contextual:
        return tuple(_choice("any", choice) for choice in mechanism.choices["plain"])
    contexts = mechanism.choices.items()
    return tuple(_choice(context, choice) for context, choices in contexts for choice in choices)


def _mechanisms(tables: Tables) -> Iterator[str]:
    """Return the mechanisms by number. Those with the same parameter share its choices."""
    places: dict[tuple[str, ...], int] = {(): 0}
    choices: list[str] = []
    rows: dict[int, str] = {}
    for mechanism in sorted(tables.mechanisms.values(), key=lambda row: row.value):
        wanted = _choices(mechanism)
        if wanted not in places:
            places[wanted] = len(choices)
            choices += wanted
        output = mechanism.output and f"LAYOUT_{mechanism.output} + 1"
        row = cells(value=mechanism.name, choices=places[wanted], output=output, n_choices=len(wanted))
        rows.setdefault(mechanism.value, row)
    yield from array("const struct choice choices[]", choices)
    yield from array("const struct mechanism mechanisms[]", rows.values())
    yield f"const unsigned mechanism_count = {len(rows)};\n"


def _attribute(value: int, row: Attribute) -> str:
    kind = _word("VALUE", row.kind if row.kind in _ATTRIBUTES else "bytes", _VALUES)
    return f"{{0x{value:08x}UL, {kind}, {str(row.shown).lower()}}}"


def _attributes(tables: Tables) -> Iterator[str]:
    """Return the attributes by number, both numbers of those that have two."""
    found = [row for row in tables.attributes.values() if row.kind in _ATTRIBUTES or row.shown]
    listed = {value: row for row in found for value in (row.value, row.also) if value is not None}
    rows = [_attribute(value, listed[value]) for value in sorted(listed)]
    yield from array("const struct attribute attributes[]", rows)
    yield f"const unsigned attribute_count = {len(rows)};\n"


def _codes(tables: Tables) -> Iterator[str]:
    """Return the return values by number."""
    found = sorted(row.value for row in tables.constants.values() if row.kind == "ckr")
    names = [row.name for value in found if (row := tables.constant("ckr", value))]
    yield from array("const struct code codes[]", (f'{{{name}, "{name}"}}' for name in names))
    yield f"const unsigned code_count = {len(names)};\n"


def _standard() -> Iterator[str]:
    """Return the five tables that a module's own rows may be laid over, as one."""
    names = ("layouts", "unions", "choices", "mechanisms", "attributes")
    rows = [f".{name} = {name}" for name in names]
    rows += [f".{name[:-1]}_count = sizeof {name} / sizeof *{name}" for name in names]
    yield from array("const struct tables standard_tables", rows)


def tables_c(tables: Tables) -> str:
    """Return every descriptor table, the digest and the default deadlines."""
    return source(
        ['"tables.h"', '"layouts.h"'],
        [
            *_functions(tables),
            *_layouts(tables),
            *_unions(tables),
            *_mechanisms(tables),
            *_attributes(tables),
            *_codes(tables),
            *_standard(),
            f"const uint64_t tables_digest = 0x{tables.digest:016x};\n",
            *array("const uint32_t patience_ms[3]", (f"DEADLINE_{name.upper()}" for name in PATIENCES)),
        ],
    )
