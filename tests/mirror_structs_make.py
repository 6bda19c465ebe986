"""Makes mechanisms, their parameters and structs: the part of a call's arguments that leads further."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cryptoki import constant
from mirror_case import Case
from mirror_choices import Choices
from mirror_memory import At, Handle, Value

from p11host.tables import Choice, Field, Mechanism, Struct, tables

ALL_ONES = (1 << 64) - 1
WORD = 8
ATTRIBUTE = MECHANISM = 24
INVALID = "CKR_MECHANISM_PARAM_INVALID"
NESTED_MOST = tables().limits.limits["nesting"]
NUMBERS = (7, 0, ALL_ONES, 1 << 40)
BYTES_LONG = (11, 0, 1, 300)
BITS_LONG = (96, 0, 1, 64, 13)
BYTES_OR_BITS = (12, 96, 24, 64, 8, 0)
COUNTS = (2, 0, 1)
CELLS = (20, 0, 5, 100)
NOBODY = (1 << 64) - 2
"""A handle that nobody has."""
UNLISTED_TAG = 99
SHOWN = (
    *("CKM_AES_CBC", "CKM_SHA256", "CKM_RSA_PKCS_PSS", "CKM_SHA256_HMAC_GENERAL", "CKM_SKIPJACK_CBC64"),
    *("CKM_CONCATENATE_BASE_AND_KEY", "CKM_AES_GCM", "NULL"),
)
"""Mechanisms that show each kind of parameter."""

Row = tuple[int, Any]


def fits(choice: Choice, length: int) -> bool:
    """Tell whether a parameter of that length may be of that shape."""
    if choice.kind == "version":
        return length == tables().sizes["lp64"]["CK_VERSION"].size
    return choice.kind != "struct" or length == tables().sizes["lp64"][choice.struct].size


def in_bytes(unit: str, value: int) -> int:
    """Return how many bytes a length is."""
    bits = unit in ("bits", "parent bits") or (unit == "bytes|bits" and value > BYTES_OR_BITS[2])
    return -(-value // 8) if bits else value


class StructMaker:
    """Makes what mechanisms and templates lead to."""

    def __init__(self, case: Case, choices: Choices) -> None:
        self.case, self.choices, self.image = case, choices, case.image
        self.context = "plain"
        self.depth = 0

    def refuse(self, rv: str, reason: str) -> None:
        """Say that the shim must refuse this."""
        self.case.refuse(rv, reason)

    # ---- templates ----

    def attribute(self, at: int, kind: int, value: Value, length: int) -> None:
        """Set a CK_ATTRIBUTE."""
        self.image.number(at, kind)
        self.image.set(at + WORD, value)
        self.image.number(at + 2 * WORD, length)

    def template(self, rows: Any) -> tuple[Value, int]:
        """Make a template: of rows, or NULL with a count."""
        if isinstance(rows, int):
            return None, rows
        self.depth += 1
        if self.depth > NESTED_MOST:
            self.refuse("CKR_ARGUMENTS_BAD", "nested deeper than limits.nesting")
        start = self.image.room(ATTRIBUTE * len(rows))
        for i, row in enumerate(rows):
            self.attribute(start + ATTRIBUTE * i, row[0], *self.attribute_value(*row))
        self.depth -= 1
        return At(start), len(rows)

    def attribute_value(self, kind: int, value: Any) -> tuple[Value, int]:
        """Make the value of an attribute: bytes, a template, or NULL with a length."""
        row = tables().attribute(kind)
        of = row.kind if row else "bytes"
        if isinstance(value, list):
            pointer, count = self.template(value)
            return pointer, ATTRIBUTE * count
        if isinstance(value, int):
            if value and of in ("ulongs", "template"):
                self.refuse("CKR_ATTRIBUTE_VALUE_INVALID", "NULL with a length for a list")
            return None, value
        if of == "template" and len(value) % ATTRIBUTE:
            self.refuse("CKR_ATTRIBUTE_VALUE_INVALID", "a template of no whole number of attributes")
        return At(self.image.copy(value)), len(value)

    # ---- mechanisms ----

    def any_mechanism(self, path: str) -> Value:
        """Make one of some mechanisms that show each kind of parameter."""
        name = self.choices.choose(path, SHOWN)
        return None if name == "NULL" else At(self.mechanism(tables().mechanisms[name], path))

    def mechanism(self, row: Mechanism | int, path: str) -> int:
        """Make a CK_MECHANISM, of a row or of a number that the tables lack."""
        self.depth += 1
        if self.depth > NESTED_MOST:
            self.refuse(INVALID, "nested deeper than limits.nesting")
        start = self.image.room(MECHANISM)
        pointer, length = self.parameter(row, path)
        self.image.number(start, row if isinstance(row, int) else row.value)
        self.image.set(start + WORD, pointer)
        self.image.number(start + 2 * WORD, length)
        self.depth -= 1
        return start

    def parameter(self, row: Mechanism | int, path: str) -> tuple[Value, int]:
        """Make a parameter: of each shape that the tables give, none, and of other lengths."""
        options: list[Any] = [*self.known(row), "NULL", "NULL 20", "empty", "short", "long", "much"]
        taken = self.choices.choose(f"{path}.pParameter", options)
        if isinstance(taken, Choice):
            self.shape(path, taken.struct or taken.kind)
            return self.described(taken, f"{path}.{taken.struct}")
        if taken in ("NULL", "NULL 20"):
            self.shape(path, "NULL")
            return None, 20 if taken == "NULL 20" else 0
        if taken == "empty":
            self.shape(path, "no bytes")
            return At(self.image.room(0)), 0
        return self.other_length(row, path, taken)

    def known(self, row: Mechanism | int) -> Sequence[Choice]:
        """Return the shapes that the tables give a mechanism's parameter here."""
        return () if isinstance(row, int) else row.choices[self.context]

    def shape(self, path: str, shape: str) -> None:
        """Note what the parameter of the mechanism that the case is about was."""
        if self.depth <= 1 and not self.case.shape and "." not in path:
            self.case.shape = shape

    def other_length(self, row: Mechanism | int, path: str, taken: str) -> tuple[Value, int]:
        """Make a parameter of a length that is not the right one."""
        known = self.known(row)
        usual = self.usual_length(known[0]) if known else 2 * WORD
        length = {"short": max(usual - 1, 1), "long": usual + 1, "much": 5000}[taken]
        if not known:
            use = f" ({self.context})" if isinstance(row, Mechanism) and row.contextual else ""
            self.refuse(INVALID, f"a parameter where the tables know of none{use}")
        elif not any(fits(choice, length) for choice in known):
            self.refuse(INVALID, "a length that is not that of its struct")
        else:
            self.shape(path, "bytes")
        return At(self.image.room(length)), length

    def usual_length(self, choice: Choice) -> int:
        """Return the length of a parameter of that shape."""
        if choice.kind == "struct":
            return tables().sizes["lp64"][choice.struct].size
        return {"ulong": WORD, "handle": WORD, "byte": 1, "version": 2}.get(choice.kind, choice.size or 16)

    def described(self, choice: Choice, path: str) -> tuple[Value, int]:
        """Make a parameter as the tables describe it."""
        length = self.usual_length(choice)
        if choice.kind == "struct":
            return At(self.struct(choice.struct, path)), length
        start = self.image.room(length)
        if choice.kind == "ulong":
            self.image.number(start, self.choices.choose(path, NUMBERS))
        if choice.kind == "handle":
            self.image.set(start, self.object(path))
        return At(start), length

    # ---- structs ----

    def object(self, path: str) -> Value:
        """Make a handle: a small number, none, a large one, one that nobody has."""
        options: tuple[Value, ...] = (Handle("object", 3), 0, Handle("object", 14), NOBODY)
        taken = self.choices.choose(path, options)
        if taken == NOBODY:
            self.refuse(INVALID, "a handle that is nobody's")
        return taken

    def struct(self, name: str, path: str) -> int:
        """Make a struct, and all it leads to."""
        start = self.image.room(tables().sizes["lp64"][name].size)
        self.fill(tables().structs[name], start, path, {}, out=False)
        return start

    def fill(self, struct: Struct, start: int, path: str, outer: Mapping[str, int], *, out: bool) -> None:
        """Set the fields of a struct. `outer`: lengths that stand in the one around it."""
        self.case.structs.add(struct.name)
        offsets = tables().sizes["lp64"][struct.name].offsets
        at = {row.name: start + offset for row, offset in zip(struct.fields, offsets, strict=True)}
        own = self.lengths(struct, path, at)
        lengths = dict(outer) | own
        for row in struct.fields:
            where = f"{path}.{row.name}"
            unwritten = out or row.direction == "out"
            if row.pointer and row.kind != "ulong*":
                self.image.set(at[row.name], self.pointed(struct, row, where, lengths, out=unwritten))
            elif not unwritten and row.name not in own:
                self.inline(row, at[row.name], where, lengths)
            elif row.kind in ("object", "slot"):
                self.image.named.append((at[row.name], row.kind))
        for row in struct.fields:
            if row.kind == "ulong" and row.name in own:
                self.image.number(at[row.name], lengths[row.name])

    def lengths(self, struct: Struct, path: str, at: Mapping[str, int]) -> dict[str, int]:
        """Choose the lengths that stand in a struct, and those behind its pointers."""
        found: dict[str, int] = {}
        for row in struct.fields:
            users = [user for user in struct.fields if user.length and user.length.field == row.name]
            where = f"{path}.{row.name}"
            if row.kind == "ulong*":
                found[row.name] = self.length_cell(where, at[row.name])
            elif any(user.kind in ("template", "union") for user in users) or self.is_tag(struct, row):
                found[row.name] = 0  # set with what the pointer leads to
            elif users or self.is_for_inner(struct, row):
                found[row.name] = self.choices.choose(where, self.lengths_for(users))
        return found

    def is_tag(self, struct: Struct, row: Field) -> bool:
        """Tell whether a field says what a pointer leads to."""
        return any(each.tag == row.name for each in struct.fields)

    def is_for_inner(self, struct: Struct, row: Field) -> bool:
        """Tell whether a length in a struct within stands here."""
        inner = [tables().structs[each.base] for each in struct.fields if each.kind == "structs"]
        return any(each.length and each.length.field == row.name for one in inner for each in one.fields)

    def lengths_for(self, users: Sequence[Field]) -> Sequence[int]:
        """Return what a length may be, by what it counts."""
        units = {user.length.unit for user in users if user.length}
        if "bytes|bits" in units:
            return BYTES_OR_BITS
        if "bits" in units or not users:
            return BITS_LONG
        return COUNTS if users[0].kind == "structs" else BYTES_LONG

    def length_cell(self, path: str, at: int) -> int:
        """Make a length behind a pointer; without the pointer it is 0."""
        if not self.choices.flag(path):
            self.image.set(at, None)
            return 0
        value = self.choices.choose(f"*{path}", CELLS)
        cell = self.image.room(WORD)
        self.image.number(cell, value)
        self.image.set(at, At(cell))
        return value

    def inline(self, row: Field, at: int, path: str, lengths: Mapping[str, int]) -> None:
        """Set a field that is no pointer and no length."""
        if row.kind == "byte":
            self.image.data[at] = self.choices.choose(path, (1, 0, 255))
        elif row.kind == "ulong":
            self.image.number(at, self.choices.choose(path, NUMBERS))
        elif row.kind == "object":
            self.image.set(at, self.object(path))
        elif row.kind == "struct":
            self.fill(tables().structs[row.base], at, path, lengths, out=False)

    def pointed(self, struct: Struct, row: Field, path: str, lengths: dict[str, int], *, out: bool) -> Value:
        """Make what a pointer leads to, or NULL."""
        assert row.length
        if row.kind == "template":
            return self.template_field(row, path, lengths)
        if row.kind == "union":
            return self.tagged(struct, row, path, lengths)
        if row.length.unit == "unknown":
            return self.untold(row, path)
        if not self.choices.flag(path):
            return None
        return At(self.target(row, path, lengths, out=out))

    def target(self, row: Field, path: str, lengths: Mapping[str, int], *, out: bool) -> int:
        """Make what a pointer leads to that is neither template nor union."""
        assert row.length
        if row.kind == "mechanism":
            name = self.choices.choose(f"*{path}", ("CKM_RSA_PKCS_PSS", "CKM_SHA256", "CKM_AES_CBC"))
            return self.mechanism(tables().mechanisms[name], f"*{path}")
        if row.kind == "object*":
            cell = self.image.room(WORD)
            self.image.named.append((cell, "object"))
            return cell
        if row.length.unit == "nul":
            return self.image.copy(self.choices.choose(f"*{path}", (b"1.2.840\0", b"\0")))
        count = row.length.count or in_bytes(row.length.unit, lengths.get(row.length.field, 0))
        return self.array_of(row, path, count, lengths, out=out)

    def array_of(self, row: Field, path: str, count: int, lengths: Mapping[str, int], *, out: bool) -> int:
        """Make bytes, or structs."""
        if row.kind != "structs":
            return self.image.room(count)
        size = tables().sizes["lp64"][row.base].size
        start = self.image.room(count * size)
        for i in range(count):
            inner = tables().structs[row.base]
            self.fill(inner, start + i * size, f"{path}[{i}]", lengths, out=out)
        return start

    def template_field(self, row: Field, path: str, lengths: dict[str, int]) -> Value:
        """Make the template of a key within a parameter, and set its count."""
        assert row.length
        cka = constant
        options: dict[str, Any] = {
            "some": [(cka("CKA_CLASS"), (4).to_bytes(WORD, "little")), (cka("CKA_LABEL"), b"more")],
            "nested": [(cka("CKA_WRAP_TEMPLATE"), [(cka("CKA_TOKEN"), b"\1")])],
            "empty": [],
            "NULL": 0,
            "NULL with a count": 2,
            "list at NULL": [(cka("CKA_ALLOWED_MECHANISMS"), 8)],
        }
        pointer, count = self.template(options[self.choices.choose(path, list(options))])
        lengths[row.length.field] = count
        return pointer

    def untold(self, row: Field, path: str) -> Value:
        """Make a pointer whose length the standard leaves out: only NULL can be carried."""
        if not self.choices.choose(path, (False, True)):
            return None
        self.refuse(INVALID, f"the length of {row.name} is said nowhere")
        return At(self.image.room(64))

    def tagged(self, struct: Struct, row: Field, path: str, lengths: dict[str, int]) -> Value:
        """Make what a tagged pointer leads to, and set tag and length."""
        assert row.length
        variants = tables().unions[struct.name].variants
        tag = self.choices.choose(f"{path}.{row.tag}", [*variants, ""])
        kind = variants.get(tag, "bytes")
        lengths[row.tag] = constant(tag) if tag else UNLISTED_TAG
        sizes = {"ulong": WORD, "handle": WORD, "bool": 1, "byte": 1, "bytes": 11}
        right = sizes.get(kind) or tables().sizes["lp64"][kind].size
        lengths[row.length.field] = length = self.choices.choose(f"{path} length", (right, right + 1, 0))
        if not self.choices.flag(path):
            return None
        start = self.image.room(length)
        if kind in tables().structs and length != right:
            self.refuse(INVALID, f"{row.name} is not as long as its struct")
        elif kind in tables().structs:
            self.fill(tables().structs[kind], start, path, {}, out=False)
        elif kind == "ulong" and length == right:
            self.image.number(start, self.choices.choose(f"*{path}", NUMBERS))
        elif kind == "handle" and length == right:
            self.image.set(start, self.object(f"*{path}"))
        return At(start)
