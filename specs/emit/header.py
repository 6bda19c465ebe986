"""cryptoki.h, limits.h and layouts.h: what the standard's own header would say, and our numbers.

Structs have the natural alignment of Unix. The packing that the standard asks for exists on Windows alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from p11host.tables import SINCE, Constant, Function, Struct, Tables

from .text import declare, enum, header

LISTS = {"CK_FUNCTION_LIST": "2.40", "CK_FUNCTION_LIST_3_0": "3.0", "CK_FUNCTION_LIST_3_2": "3.2"}
"""Function lists, and the version of the newest functions in them."""

_BASIC = """\
typedef unsigned char CK_BYTE;
typedef unsigned long CK_ULONG;
typedef long CK_LONG;
typedef void *CK_VOID_PTR;
typedef CK_VOID_PTR *CK_VOID_PTR_PTR;
#define CK_PTR *
#ifndef NULL_PTR
#define NULL_PTR 0
#endif"""

_CALLBACKS = """\
typedef CK_RV (*CK_NOTIFY)(CK_SESSION_HANDLE hSession, CK_NOTIFICATION event, void *pApplication);
typedef CK_RV (*CK_CREATEMUTEX)(void **ppMutex);
typedef CK_RV (*CK_DESTROYMUTEX)(void *pMutex);
typedef CK_RV (*CK_LOCKMUTEX)(void *pMutex);
typedef CK_RV (*CK_UNLOCKMUTEX)(void *pMutex);"""

_SYSTEM_LIMITS = """\
/* Our directory is searched before the system's: who asks for <limits.h> gets both. */
#include_next <limits.h>

"""


def in_list(tables: Tables, name: str) -> list[Function]:
    """Return the functions of a function list, in order."""
    newest = SINCE.index(LISTS[name])
    return [function for function in tables.functions.values() if SINCE.index(function.since) <= newest]


def parameters(function: Function) -> str:
    """Return the parameter list of a prototype."""
    return ", ".join(declare(kind, name) for kind, name in function.words)


def _types(tables: Tables) -> Iterator[str]:
    yield _BASIC
    yield from (f"typedef {base} {name};" for name, base in tables.types.base.items() if name != base)
    yield from (f"typedef {name} *{name}_PTR;" for name in tables.types.base)
    yield _CALLBACKS


def _literal(constant: Constant) -> str:
    if constant.value < 0:
        return "(~0UL)"
    if constant.name in ("CK_TRUE", "CK_FALSE") or constant.kind == "version":
        return str(constant.value)
    return f"0x{constant.value:08x}UL"


def _constants(tables: Tables) -> Iterator[str]:
    yield from (f"#define {constant.name} {_literal(constant)}" for constant in tables.constants.values())
    yield from (f"#define {row.name} 0x{row.value:08x}UL" for row in tables.mechanisms.values())
    yield from (f"#define {row.name} 0x{row.value:08x}UL" for row in tables.attributes.values())


def _struct(struct: Struct) -> Iterator[str]:
    if struct.alias:
        yield f"typedef {struct.alias} {struct.name};"
    else:
        yield f"typedef struct {struct.name} {{"
        yield from (f"    {declare(field.type, field.name)};" for field in struct.fields)
        yield f"}} {struct.name};"
    yield f"typedef {struct.name} *{struct.name}_PTR;"
    yield ""


def _functions(tables: Tables) -> Iterator[str]:
    for name in LISTS:
        yield f"typedef struct {name} {name};"
        yield f"typedef {name} *{name}_PTR;"
        yield f"typedef {name}_PTR *{name}_PTR_PTR;"
    yield "typedef CK_INTERFACE_PTR *CK_INTERFACE_PTR_PTR;"
    for function in tables.functions.values():
        yield ""
        yield f"typedef CK_RV (*CK_{function.name})({parameters(function)});"
        yield f"CK_RV {function.name}({parameters(function)});"


def _list(tables: Tables, name: str) -> Iterator[str]:
    yield ""
    yield f"struct {name} {{"
    yield "    CK_VERSION version;"
    yield from (f"    CK_{function.name} {function.name};" for function in in_list(tables, name))
    yield "};"


def cryptoki_h(tables: Tables) -> str:
    """Return all of Cryptoki: types, constants, structs, prototypes, function lists, indexes of functions."""
    return header(
        "cryptoki.h",
        [
            '#ifdef __cplusplus\nextern "C" {\n#endif\n',
            *_types(tables),
            "",
            *_constants(tables),
            "",
            *(line for struct in tables.structs.values() for line in _struct(struct)),
            *_functions(tables),
            *(line for name in LISTS for line in _list(tables, name)),
            "",
            "/* Place of each function in CK_FUNCTION_LIST_3_2. */",
            *enum(f"FN_{function.name} = {function.index}" for function in tables.functions.values()),
            f"#define FUNCTION_COUNT {len(tables.functions)}",
            "\n#ifdef __cplusplus\n}\n#endif",
        ],
    )


def limits_h(tables: Tables) -> str:
    """Return every limit and every default deadline (milliseconds)."""
    limits = [f"#define LIMIT_{name.upper()} {value}" for name, value in tables.limits.limits.items()]
    deadlines = [
        f"#define DEADLINE_{name.upper()} {value}" for name, value in tables.limits.deadlines.items()
    ]
    return _SYSTEM_LIMITS + header("limits.h", [*limits, "", *deadlines])


def carried(tables: Tables) -> list[Struct]:
    """Return the structs that have a layout, by name."""
    return [tables.structs[name] for name in sorted(tables.structs) if tables.structs[name].layout]


def layouts_h(tables: Tables) -> str:
    """Return the indexes into the descriptor tables of structs and unions."""
    layouts = enum(f"LAYOUT_{struct.name} = {index}" for index, struct in enumerate(carried(tables)))
    unions = enum(f"UNION_{name} = {index}" for index, name in enumerate(sorted(tables.unions)))
    return header("layouts.h", [*layouts, "", *unions])
