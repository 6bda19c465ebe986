"""Cryptoki for ctypes, made from the tables: structs, and a library whose functions are called by name.

Knows pointers and layouts. Must not know what any function does.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from p11host.tables import Field, Function, tables

ULONG = ctypes.c_ulong
POINTER_SIZE = ctypes.sizeof(ctypes.c_void_p)
FIRST_LIST = 68  # functions of CK_FUNCTION_LIST


@cache
def struct(name: str) -> type[ctypes.Structure]:
    """Return the ctypes struct of that name."""
    row = tables().structs[name]
    fields = [(field.name, _field_type(field)) for field in row.fields]
    return type(name, (ctypes.Structure,), {"_fields_": fields})


def _field_type(field: Field) -> Any:
    if field.pointer or field.kind == "local":
        return ctypes.c_void_p
    base = struct(field.base) if field.base in tables().structs else _scalar(field.base)
    return base * field.array if field.array else base


def _scalar(name: str) -> Any:
    return ctypes.c_ubyte if tables().types.base[name] == "CK_BYTE" else ULONG


class Library:
    """A PKCS#11 library, by the functions of its CK_FUNCTION_LIST."""

    def __init__(self, path: str | Path) -> None:
        self._dll = ctypes.CDLL(str(path))
        address = ctypes.c_void_p()
        rv = self._dll.C_GetFunctionList(ctypes.byref(address))
        assert rv == 0, f"C_GetFunctionList returned {rv:#x}"
        # CK_VERSION, padded to a pointer's size, then the functions.
        self._entries = ctypes.cast(address, ctypes.POINTER(ctypes.c_void_p))

    def call(self, name: str, *words: Any) -> int:
        """Call a function with its C arguments: integers, ctypes pointers, None for NULL."""
        function = tables().functions[name]
        assert function.index < FIRST_LIST, f"{name} is not in CK_FUNCTION_LIST"
        prototype = ctypes.CFUNCTYPE(ULONG, *(word_type(ctype) for ctype, _ in function.words))
        rv: int = prototype(self._entries[1 + function.index])(*words)
        return rv


def word_type(ctype: str) -> Any:
    """Return the ctypes type of one C argument."""
    return ctypes.c_void_p if ctype.endswith("*") or ctype not in tables().types.base else _scalar(ctype)


def functions() -> Sequence[Function]:
    """Return the functions that a CK_FUNCTION_LIST holds."""
    return [function for function in tables().functions.values() if function.index < FIRST_LIST]


def constant(name: str) -> int:
    """Return the number of a constant, mechanism or attribute."""
    known = tables()
    found = known.constants.get(name) or known.mechanisms.get(name) or known.attributes[name]
    return found.value
