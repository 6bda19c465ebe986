"""C for the mirror provider: what says and what fills each struct, and which mechanism takes which.

It is C as somebody would write it who has only the header: a function for each struct that reads its fields
by name. Nothing of shim/ or of its tables is in it.
"""

from __future__ import annotations

from collections.abc import Iterator

from p11host.tables import Choice, Field, Struct, Tables

USES = {
    "plain": "USE_PLAIN",
    "wrap": "USE_WRAP",
    "message-init": "USE_MESSAGE_INIT",
    "message": "USE_MESSAGE",
}

# ---- structs ----


def wanted(known: Tables) -> list[Struct]:
    """Return the structs that a call can hold."""
    return [struct for struct in known.structs.values() if struct.layout]


def outer(struct: Struct) -> list[str]:
    """Return the fields of the enclosing struct that say lengths in this one."""
    lengths = [field.length for field in struct.fields if field.length]
    return list(dict.fromkeys(each.field for each in lengths if each.unit == "parent bits"))


def extent(field: Field) -> str:
    """Return the C expression for how much a pointer points to."""
    assert field.length
    of = f"p->{field.length.field}"
    return {
        "fixed": str(field.length.count),
        "field": of,
        "bits": f"({of} / 8 + ({of} % 8 != 0))",
        "bytes|bits": f"({of} <= 24 ? {of} : {of} / 8 + ({of} % 8 != 0))",
        "deref": f"({of} ? *{of} : 0)",
        "parent bits": f"({field.length.field} / 8 + ({field.length.field} % 8 != 0))",
    }.get(field.length.unit, "0")


def handed(known: Tables, field: Field) -> str:
    """Return the further arguments for the function of a struct within."""
    return "".join(f", p->{name}" for name in outer(known.structs[field.base]))


def has_pointers(known: Tables, name: str) -> bool:
    """Tell whether a struct leads further."""
    return any(field.pointer for field in known.structs[name].fields)


def signature(verb: str, const: str, struct: Struct) -> str:
    """Return the head of a struct's function."""
    more = "".join(f", CK_ULONG {name}" for name in outer(struct))
    return f"static inline void {verb}_{struct.name}({const}{struct.name} *p{more})"


def see_field(known: Tables, struct: Struct, field: Field) -> list[str]:
    """Return the statements that say a field. What a call only fills is said by its room."""
    if field.pointer:
        return see_pointer(known, struct, field)
    told = any(
        each.kind == "union" and each.length and each.length.field == field.name for each in struct.fields
    )
    return [] if field.direction == "out" or told else see_inline(known, field)


def see_inline(known: Tables, field: Field) -> list[str]:
    """Return the statements that say a field that is no pointer."""
    name, at = f'"{field.name}"', f"p->{field.name}"
    if field.kind == "fixed":
        return [f"see_bytes({name}, {at}, sizeof {at});"]
    if field.kind == "struct":
        inner = f"see_{field.base}(&{at}{handed(known, field)});"
        return [f"see({name}), said.depth++;", inner, "said.depth--;"]
    return [f"see_{'number' if field.kind == 'ulong' else field.kind}({name}, {at});"]


def see_pointer(known: Tables, struct: Struct, field: Field) -> list[str]:
    """Return the statements that say a pointer and what it leads to."""
    assert field.length
    name, at = f'"{field.name}"', f"p->{field.name}"
    verbs = {"nul": "string", "unknown": "untold", "ulong*": "number_at", "mechanism": "mechanism"}
    verb = verbs.get(field.length.unit) or verbs.get(field.kind)
    unwritten = field.direction == "out"
    if field.kind == "structs" and (not unwritten or has_pointers(known, field.base)):
        return see_structs(known, field)
    if unwritten and field.kind != "bytes":
        return [f"see_cell({name}, {at});"]
    if field.kind == "union":
        return see_union(known, struct, field)
    if verb:
        return [f"see_{verb}({name}, {at});"]
    return [f"see_{'room' if unwritten else field.kind}({name}, {at}, {extent(field)});"]


def see_structs(known: Tables, field: Field) -> list[str]:
    """Return the statements that say an array of structs."""
    at = f"p->{field.name}"
    return [
        f'see_room("{field.name}", {at}, {extent(field)}), said.depth++;',
        f"for (CK_ULONG i = 0; {at} && i < {extent(field)}; i++)",
        f'    see_number("at", i), see_{field.base}(&{at}[i]{handed(known, field)});',
        "said.depth--;",
    ]


def see_union(known: Tables, struct: Struct, field: Field) -> list[str]:
    """Return the statements that say what a tagged pointer points to, its length only if that is odd."""
    at, size = f"p->{field.name}", extent(field)
    lines = [f"switch ({at} ? p->{field.tag} : CK_UNAVAILABLE_INFORMATION) {{"]
    for tag, value in known.unions[struct.name].variants.items():
        kind = {"ulong": "CK_ULONG", "handle": "CK_OBJECT_HANDLE"}.get(value, value)
        verb = {"ulong": "see_number_at", "handle": "see_object_at"}.get(value)
        if value == "bytes":
            continue
        said = f'{verb}("{field.name}", {at})' if verb else f"see_{value}({at})"
        lines += [f"case {tag}:", f"    if ({size} == sizeof({kind})) {{", f"        {said};"]
        name = f"odd {field.name}" if verb else field.name
        lines += ["        break;", "    }", f'    see_bytes("{name}", {at}, {size});', "    break;"]
    return [*lines, f'default: see_bytes("{field.name}", {at}, {size});', "}"]


def give_field(known: Tables, field: Field, *, whole: bool) -> tuple[int, list[str]]:
    """Return the statements that fill a field, and when: behind pointers before any length changes."""
    if field.kind == "struct" and not whole:
        inner = f"give_{field.base}(&p->{field.name}{handed(known, field)});"
        return 0, [inner] if writes(known, field.base) else []
    if not whole and field.direction == "in":
        return 0, []
    if field.pointer and field.kind != "ulong*":
        return 0, give_pointed(known, field)
    at = f"p->{field.name}"
    statement = {
        "ulong": f"give_less(&{at});" if field.direction == "inout" else f"{at} = any_number();",
        "object": f"give_object(&{at});",
        "slot": f"give_slot(&{at});",
        "ulong*": f"give_less({at});",
    }
    return 1, [statement.get(field.kind, f"give_random(&{at}, sizeof {at});")]


def give_pointed(known: Tables, field: Field) -> list[str]:
    """Return the statements that fill what a pointer leads to."""
    at = f"p->{field.name}"
    if field.kind == "object*":
        return [f"give_object({at});"]
    if field.kind == "structs" and has_pointers(known, field.base):
        each = f"    give_{field.base}(&{at}[i]{handed(known, field)});"
        return [f"for (CK_ULONG i = 0; {at} && i < {extent(field)}; i++)", each]
    size = f"{extent(field)} * sizeof *{at}" if field.kind == "structs" else extent(field)
    return [f"give_random({at}, {size});"]


def writes(known: Tables, name: str) -> bool:
    """Tell whether a provider writes into a struct."""
    return any(
        field.direction != "in" or (field.kind == "struct" and writes(known, field.base))
        for field in known.structs[name].fields
    )


def indented(lines: list[str], by: int = 4) -> Iterator[str]:
    """Return lines with spaces before them."""
    return (" " * by + line for line in lines)


def writes_late(known: Tables, struct: Struct) -> bool:
    """Tell whether a struct leads to bytes that a later call may write."""
    return any(late_field(known, field) for field in struct.fields)


def late_field(known: Tables, field: Field) -> list[str]:
    """Return the statements with which a later call of an operation fills a field."""
    if field.kind == "bytes" and (field.late or field.direction != "in"):
        return give_pointed(known, field)
    if field.kind != "structs" or field.direction == "in" or not has_pointers(known, field.base):
        return []
    each = f"    late_{field.base}(&p->{field.name}[i]{handed(known, field)});"
    return [f"for (CK_ULONG i = 0; p->{field.name} && i < {extent(field)}; i++)", each]


def late_functions(known: Tables) -> Iterator[str]:
    """Return for every struct the function that fills it late, and which one is a mechanism's."""
    for struct in wanted(known):
        yield signature("late", "", struct) + "\n{"
        yield from indented([f"(void){name};" for name in ("p", *outer(struct))])
        yield from indented([line for field in struct.fields for line in late_field(known, field)])
        yield "}\n"
    yield "static void late_parameter(CK_MECHANISM_TYPE type, void *parameter, CK_ULONG len)\n{"
    yield "    switch (shape_of(type, parameter, len)) {"
    yield "    case SHAPE_WRITTEN: give_random(parameter, len); break;"
    for struct in wanted(known):
        if not outer(struct) and writes_late(known, struct):
            yield f"    case SHAPE_{struct.name}: late_{struct.name}(parameter); break;"
    yield "    default: break;\n    }\n}"


def struct_functions(known: Tables) -> Iterator[str]:
    """Return the functions of every struct."""
    for struct in wanted(known):
        yield signature("see", "const ", struct) + ";"
        yield signature("give", "", struct) + ";"
    for struct in wanted(known):
        unused = [f"(void){name};" for name in ("p", *outer(struct))]
        yield "\n" + signature("see", "const ", struct) + "\n{"
        yield from indented(unused)
        for field in struct.fields:
            yield from indented(see_field(known, struct, field))
        yield "}\n\n" + signature("give", "", struct) + "\n{"
        yield from indented(unused)
        whole = struct.kind == "info"
        parts = sorted((give_field(known, field, whole=whole) for field in struct.fields), key=lambda x: x[0])
        for _, lines in parts:
            yield from indented(lines)
        yield "}"


# ---- mechanisms and attributes ----


def conditions(choice: Choice) -> str:
    """Return the C expression that tells whether a parameter is of that shape."""
    if choice.kind in ("ulong", "handle"):
        return "len == sizeof(CK_ULONG)"
    if choice.kind != "struct":
        return "1"
    tested = f"len == sizeof({choice.struct})"
    if choice.probe:
        tested += f" && ((const {choice.struct} *)parameter)->{choice.probe} <= {choice.probe_max}"
    return tested


def shape(choice: Choice) -> str:
    """Return the name of a shape."""
    if choice.kind == "struct":
        return f"SHAPE_{choice.struct}"
    named = {"ulong": "SHAPE_NUMBER", "handle": "SHAPE_OBJECT"}.get(choice.kind, "SHAPE_BYTES")
    return "SHAPE_WRITTEN" if choice.output else named


def shape_function(known: Tables) -> Iterator[str]:
    """Return which shape a parameter has by mechanism, use and length."""
    yield "enum shape {"
    yield from indented(["SHAPE_BYTES,", "SHAPE_WRITTEN,", "SHAPE_NUMBER,", "SHAPE_OBJECT,", "SHAPE_ODD,"])
    yield from indented([f"SHAPE_{struct.name}," for struct in wanted(known)])
    yield "};\n"
    yield "static enum shape shape_of(CK_MECHANISM_TYPE type, const void *parameter, CK_ULONG len)\n{"
    yield "    (void)parameter;\n    switch (type) {"
    groups: dict[str, dict[int, None]] = {}
    for row in known.mechanisms.values():
        groups.setdefault(row.param, {})[row.value] = None
    rows = {row.param: row for row in known.mechanisms.values()}
    for param, values in groups.items():
        row = rows[param]
        cases = " ".join(f"case 0x{value:x}UL:" for value in values)
        yield f"    /* {param} */\n    {cases}"
        for use, name in USES.items():
            if not row.contextual and use != "plain":
                continue
            asked = f"said.use == {name} && " if row.contextual else ""
            for choice in row.choices[use]:
                yield f"        if ({asked}{conditions(choice)})"
                yield f"            return {shape(choice)};"
                if choice.kind in ("ulong", "handle"):
                    yield f"        if ({asked}1)\n            return SHAPE_ODD;"
        yield "        break;"
    yield "    default: break;\n    }\n    return SHAPE_BYTES;\n}"


def parameter_functions(known: Tables) -> Iterator[str]:
    """Return what says and what fills a mechanism's parameter."""
    head = "(CK_MECHANISM_TYPE type, {}void *parameter, CK_ULONG len)\n{{"
    yield "\nstatic void see_parameter" + head.format("const ")
    yield '    if (!parameter) {\n        see_room("pParameter", NULL, len);\n        return;\n    }'
    yield "    switch (shape_of(type, parameter, len)) {"
    yield '    case SHAPE_NUMBER: see_number("pParameter", number_at(parameter)); break;'
    yield '    case SHAPE_OBJECT: see_object("pParameter", number_at(parameter)); break;'
    yield '    case SHAPE_ODD: see_bytes("odd pParameter", parameter, len); break;'
    for struct in wanted(known):
        if not outer(struct):
            yield f"    case SHAPE_{struct.name}:"
            yield f'        see("{struct.name}"), said.depth++;'
            yield f"        see_{struct.name}(parameter);"
            yield "        said.depth--;\n        break;"
    yield '    default: see_bytes("pParameter", parameter, len);\n    }\n}'
    yield "\nstatic void give_parameter" + head.format("")
    yield "    switch (shape_of(type, parameter, len)) {"
    yield "    case SHAPE_WRITTEN: give_random(parameter, len); break;"
    for struct in wanted(known):
        if not outer(struct) and writes(known, struct.name):
            yield f"    case SHAPE_{struct.name}: give_{struct.name}(parameter); break;"
    yield "    default: break;\n    }\n}"


def signature_function(known: Tables) -> Iterator[str]:
    """Return which mechanisms make signatures that are structs."""
    values = {row.value for row in known.mechanisms.values() if row.output == "CK_OTP_SIGNATURE_INFO"}
    yield "\nstatic int signs_with_struct(CK_MECHANISM_TYPE type)\n{\n    switch (type) {"
    yield from (f"    case 0x{value:x}UL: return 1;" for value in sorted(values))
    yield "    default: return 0;\n    }\n}"


def attribute_function(known: Tables) -> Iterator[str]:
    """Return the kinds of attributes."""
    yield "\nstatic const char *kind_of_attribute(CK_ATTRIBUTE_TYPE type)\n{\n    switch (type) {"
    kinds: dict[int, str] = {}
    for row in known.attributes.values():
        kinds.setdefault(row.value, row.kind)
        if row.also is not None:
            kinds.setdefault(row.also, row.kind)
    yield from (f'    case 0x{value:x}UL: return "{kind}";' for value, kind in kinds.items())
    yield '    default: return "bytes";\n    }\n}'


def structs_h(known: Tables) -> str:
    """Return the functions of structs, mechanisms and attributes."""
    parts = (
        struct_functions(known),
        shape_function(known),
        parameter_functions(known),
        late_functions(known),
        attribute_function(known),
        signature_function(known),
    )
    return "\n".join([*(line for part in parts for line in part), ""])
