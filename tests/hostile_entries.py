"""C for the hostile provider: a row of data for each function, its entry points, and the lists of them.

Knows kinds of arguments. Must not know what any function does, nor what the provider does to whom.
"""

from __future__ import annotations

from collections.abc import Iterator

from mirror_entries import LISTS, parameters

from p11host.tables import Arg, Function, Tables

#: Answered by the provider's own hand: how a program comes to all others.
FINDING = ("C_GetFunctionList", "C_GetInterfaceList", "C_GetInterface")
KINDS = ("out bytes", "out exact", "out ulongs", "out slots", "out objects", "out ulong", "out slot")
HANDLES = ("out session", "out object")
REST = ("out struct", "inout template", "in")


def word(kind: str) -> str:
    """Return the name of a kind in C."""
    return "KIND_" + kind.upper().replace(" ", "_")


def row(function: Function) -> str:
    """Return what the provider knows of a function: its outputs and where its C arguments are."""
    places, at = [], 0
    for arg in function.args:
        places.append(place(arg, at))
        at += len(arg.words)
    outputs = [each for each in places if each]
    return f'    {{"{function.name}", {len(outputs)}, {{{", ".join(outputs)}}}}},'


def place(arg: Arg, at: int) -> str:
    """Return an output's row, "" for an input."""
    if arg.kind not in (*KINDS, *HANDLES, *REST):
        return ""
    size, texts = (f"sizeof({arg.struct})", f"texts_{arg.struct}") if arg.struct else ("0", "no_texts")
    return f"{{{word(arg.kind)}, {at}, {size}, {texts}}}"


def texts(known: Tables) -> Iterator[str]:
    """Return where the text of each struct lies that a call fills."""
    for name in sorted({arg.struct for each in known.functions.values() for arg in each.args if arg.struct}):
        fields = [field for field in known.structs[name].fields if field.array and field.kind == "fixed"]
        cells = [f"{{offsetof({name}, {each.name}), {each.array}}}" for each in fields]
        yield f"static const struct text texts_{name}[] = {{{', '.join([*cells, '{0, 0}'])}}};"


def entry(number: int, function: Function) -> str:
    """Return one entry point."""
    words = ", ".join(f"(uintptr_t){name}" for _, name in function.words)
    return (
        f"static CK_RV hostile_{function.name}({parameters(function)})\n{{\n"
        f"    uintptr_t words[] = {{{words}}};\n    return called(&rows[{number}], words);\n}}\n"
    )


def lists(known: Tables) -> Iterator[str]:
    """Return the function lists."""
    for name, version in LISTS.items():
        major, minor = version.split(".")
        functions = [each for each in known.functions.values() if float(each.since) <= float(version)]
        names = [each.name if each.name in FINDING else f"hostile_{each.name}" for each in functions]
        yield f"static {name} list_{major}_{minor} = {{{{{major}, {minor}}}, {', '.join(names)}}};"


def hostile_h(known: Tables) -> str:
    """Return the rows, the entry points and the lists."""
    made = [each for each in known.functions.values() if each.name not in FINDING]
    kinds = ", ".join(map(word, (*KINDS, *HANDLES, *REST)))
    return "\n".join(
        [
            f"enum kind {{{kinds}}};",
            "struct text { size_t at, size; };",
            "struct output { enum kind kind; unsigned at; size_t size; const struct text *texts; };",
            "struct row { const char *name; unsigned count; struct output outputs[4]; };",
            "static const struct text no_texts[] = {{0, 0}};",
            *texts(known),
            "static const struct row rows[] = {",
            *map(row, made),
            "};",
            "static CK_RV called(const struct row *row, uintptr_t *words);",
            *(entry(number, each) for number, each in enumerate(made)),
            *lists(known),
            "",
        ]
    )
