"""Makes the arguments of a call, by their kinds in the tables.

Every kind knows what alternatives there are: NULL, nothing, exact, short, long; every pointer and length of a
struct; every variant of a union. What the shim must refuse is said with the argument that makes it so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cryptoki import constant
from mirror_case import Case
from mirror_choices import Choices
from mirror_memory import At, Handle, Image, Value
from mirror_structs_make import NOBODY, StructMaker

from p11host.tables import Arg, Function, Mechanism, tables

ALL_ONES = (1 << 64) - 1
NUMBERS = (7, 0, ALL_ONES, 1 << 40)
ATTRIBUTE = 24
"""sizeof(CK_ATTRIBUTE)"""
TEXT = bytes(range(1, 12))
LONG = bytes(i % 255 for i in range(9000))
OTP_HEAD = 2 * 8 + 3 * 24 + 8
"""What the mirror's one-time password needs besides its value: info, three parameters, a number."""
MOST_NESTED = tables().limits.limits["nesting"]

Row = tuple[int, Any]


def word(*values: int) -> bytes:
    """Return the bytes of CK_ULONGs."""
    return b"".join(value.to_bytes(8, "little") for value in values)


def nested(depth: int) -> list[Row]:
    """Return a template with templates within, so many deep."""
    row: Row = (constant("CKA_TOKEN"), b"\1")
    for _ in range(depth - 1):
        row = (constant("CKA_WRAP_TEMPLATE"), [row])
    return [row]


def templates() -> dict[str, Any]:
    """Return templates by what is special about them: rows, or the count of a NULL one."""
    cka = constant
    usual = [
        (cka("CKA_CLASS"), word(4)),
        (cka("CKA_TOKEN"), b"\1"),
        (cka("CKA_LABEL"), b"label"),
        (cka("CKA_ALLOWED_MECHANISMS"), word(1, 2, ALL_ONES)),
        (0x80001234, b"vendor"),
    ]
    odd = [
        (cka("CKA_CLASS"), b"abc"),
        (cka("CKA_CLASS"), 8),
        (cka("CKA_TOKEN"), b"\7"),
        (cka("CKA_TOKEN"), b"\1\1"),
        (cka("CKA_LABEL"), b""),
        (cka("CKA_LABEL"), 0),
        (cka("CKA_LABEL"), 9),
        (cka("CKA_ALLOWED_MECHANISMS"), b"eleven byte"),
        (cka("CKA_ALLOWED_MECHANISMS"), b""),
        (cka("CKA_WRAP_TEMPLATE"), []),
        (cka("CKA_WRAP_TEMPLATE"), 0),
    ]
    return {
        "usual": usual,
        "empty": [],
        "NULL": 0,
        "NULL with a count": 3,
        "nested": [(cka("CKA_WRAP_TEMPLATE"), usual), (cka("CKA_DERIVE_TEMPLATE"), nested(2))],
        "odd": odd,
        "deep": nested(MOST_NESTED - 2),
        "too deep": nested(MOST_NESTED + 1),
        "long": [(cka("CKA_VALUE"), LONG)],
        "list at NULL": [*usual, (cka("CKA_ALLOWED_MECHANISMS"), 8)],
        "template at NULL": [(cka("CKA_WRAP_TEMPLATE"), ATTRIBUTE)],
        "no whole template": [(cka("CKA_WRAP_TEMPLATE"), b"x" * (ATTRIBUTE - 1))],
    }


def queries() -> dict[str, Any]:
    """Return queries: a row's value is the room, None and a length for no buffer, or a query within."""
    cka = constant
    kinds = [cka(f"CKA_{name}") for name in ("CLASS", "TOKEN", "LABEL", "ALLOWED_MECHANISMS", "ID", "VALUE")]
    whole = cka("CKA_WRAP_TEMPLATE")
    inner = [(cka("CKA_LABEL"), 40), (cka("CKA_CLASS"), (None, 0))]
    return {
        "long": [(kind, 100) for kind in kinds],
        "lengths": [(kind, (None, 0)) for kind in kinds],
        "lengths with a length": [(kind, (None, 50)) for kind in kinds],
        "exact": [(kinds[0], 8), (kinds[1], 1), (kinds[2], 23), (kinds[3], 24), (kinds[4], 23)],
        "short": [(kinds[0], 7), (kinds[2], 22), (kinds[3], 23), (kinds[4], 1)],
        "zero": [(kind, 0) for kind in kinds],
        "NULL": 0,
        "NULL with a count": 4,
        "empty": [],
        "nested": [(whole, inner), (kinds[2], 30), (whole, [(0, 40), (0, 40)])],
        "nested lengths": [(whole, (None, 0))],
        "nested short": [(whole, inner[:1])],
        "nested long": [(whole, [*inner, *inner])],
        "nested twice": [(whole, [(whole, inner), (0, 40)])],
    }


class Maker(StructMaker):
    """Makes one call's arguments in its case."""

    def __init__(self, case: Case, choices: Choices) -> None:
        super().__init__(case, choices)
        self.image: Image = case.image
        self.message: Mechanism | None = None
        self.given: Mapping[str, Any] = {}

    def call(self, function: Function, **given: Any) -> Case:
        """Make every argument. `given`: by the argument's name, what is not for the choices to say."""
        self.given, self.context = given, function.context
        for arg in function.args:
            self.case.words += self.arg(arg)
        self.withhold(function)
        self.case.picks = dict(self.choices.picks)
        return self.case

    def withhold(self, function: Function) -> None:
        """Heed the flag that a function is without: never shown, and refused where it is asked for."""
        without = function.without
        if not without:
            return
        given, flag = self.case.words[without.pos], constant(without.flag)
        if without.struct and isinstance(given, At):
            row = tables().structs[without.struct]
            place = [each.name for each in row.fields].index(without.field)
            offset = tables().sizes["lp64"][without.struct].offsets[place]
            self.image.withheld.append((given.offset + offset, flag))
        elif without.refusal and isinstance(given, int) and given & flag:
            self.refuse(without.refusal, without.flag)

    def arg(self, arg: Arg) -> list[Value]:
        """Make one argument: its C arguments."""
        make: Callable[[Maker, Arg], list[Value]] = getattr(Maker, "arg_" + arg.kind.replace(" ", "_"))
        return make(self, arg)

    # ---- inputs ----

    def arg_session(self, arg: Arg) -> list[Value]:
        """Make a session."""
        return [Handle("session", self.given.get(arg.name, self.choices.choose(arg.name, (0, 6, 2))))]

    def arg_slot(self, arg: Arg) -> list[Value]:
        """Make a slot."""
        return [Handle("slot", self.choices.choose(arg.name, (0, 1, 2)))]

    def arg_object(self, arg: Arg) -> list[Value]:
        """Make an object: a small number, a large one, none."""
        options: list[Value] = [Handle("object", 4), Handle("object", 13), 0]
        if arg.optional:
            options.append(NOBODY)
        taken = self.choices.choose(arg.name, options)
        if taken == NOBODY:
            self.refuse("CKR_KEY_HANDLE_INVALID", "a handle that is nobody's where 0 is none")
        return [taken]

    def arg_ulong(self, arg: Arg) -> list[Value]:
        """Make a number."""
        return [self.choices.choose(arg.name, NUMBERS)]

    arg_flags = arg_ulong

    def arg_bool(self, arg: Arg) -> list[Value]:
        """Make a CK_BBOOL."""
        return [self.choices.choose(arg.name, (1, 0, 2, 255))]

    def arg_bytes(self, arg: Arg) -> list[Value]:
        """Make bytes and their length."""
        options = (TEXT, None, (None, 9), b"", b"x", LONG)
        return list(self.bytes(self.choices.choose(arg.name, options)))

    def bytes(self, value: Any) -> tuple[Value, int]:
        """Make a pointer and a length: of bytes, of NULL, of NULL and a length."""
        if value is None or isinstance(value, tuple):
            return None, value[1] if value else 0
        return At(self.image.copy(value)), len(value)

    def arg_fixed(self, arg: Arg) -> list[Value]:
        """Make so many bytes."""
        options = (b"L" * arg.size, None)
        return [self.bytes(self.choices.choose(arg.name, options))[0]]

    def arg_string(self, arg: Arg) -> list[Value]:
        """Make bytes that end with a NUL."""
        return [self.bytes(self.choices.choose(arg.name, (b"C_Sign\0", b"\0", None)))[0]]

    def arg_reserved(self, arg: Arg) -> list[Value]:
        """Make NULL, which it must be, and what it must not be."""
        return [self.choices.choose(arg.name, (None, At(self.image.room(8))))]

    def arg_local(self, _arg: Arg) -> list[Value]:
        """Make NULL: it is never sent."""
        return [None]

    def arg_template(self, arg: Arg) -> list[Value]:
        """Make a template and its count."""
        if arg.name in self.given:
            return list(self.template(self.given[arg.name]))
        named = templates()
        return list(self.template(named[self.choices.choose(arg.name, list(named))]))

    def arg_mechanism(self, arg: Arg) -> list[Value]:
        """Make a mechanism: of the case, or of some that show each kind of parameter."""
        if arg.name in self.given:
            return [At(self.mechanism(self.given[arg.name], arg.name))]
        return [self.any_mechanism(arg.name)]

    def arg_message(self, arg: Arg) -> list[Value]:
        """Make the parameter of one message."""
        assert self.message
        return list(self.parameter(self.message, arg.name))

    # ---- outputs ----

    def arg_out_bytes(self, arg: Arg) -> list[Value]:
        """Make a buffer and a pointer to its length."""
        return self.sized(arg, 1, self.case.wish.need + (OTP_HEAD if self.case.otp else 0))

    def arg_out_ulongs(self, arg: Arg) -> list[Value]:
        """Make an array of numbers and a pointer to its length."""
        return self.sized(arg, 8, self.case.wish.need % 32)

    def arg_out_slots(self, arg: Arg) -> list[Value]:
        """Make an array of slots and a pointer to its length."""
        return self.sized(arg, 8, 3, "slot")

    def sized(self, arg: Arg, size: int, need: int, pool: str = "") -> list[Value]:
        """Make a buffer for so many elements, and a pointer to its length."""
        rooms = (need, need - 1, 0, need + 30, 9000)
        options: list[tuple[int | None, int | None]] = [(room, room) for room in rooms]
        options += [(None, 0), (None, 99), (need, None), (None, None)]
        capacity, length = self.choices.choose(arg.name, options)
        cell = None if length is None else At(self.image.copy(word(length)))
        buffer = self.array(capacity, size, pool)
        if isinstance(buffer, At) and self.case.otp:
            self.image.signature = buffer.offset
        return [buffer, cell]

    def array(self, capacity: int | None, size: int, pool: str = "") -> Value:
        """Make room for so many elements, perhaps handles of a pool."""
        if capacity is None:
            return None
        start = self.image.room(capacity * size)
        if pool:
            self.image.named += [(start + 8 * i, pool) for i in range(capacity)]
        return At(start)

    def arg_out_exact(self, arg: Arg) -> list[Value]:
        """Make a buffer and its length."""
        capacity, length = self.choices.choose(
            arg.name, ((20, 20), (None, 20), (None, 0), (0, 0), (1, 1), (9000, 9000))
        )
        return [self.array(capacity, 1), length]

    def arg_out_objects(self, arg: Arg) -> list[Value]:
        """Make an array of handles, its size and a cell for their number."""
        capacity, length, cell = self.choices.choose(
            arg.name, ((20, 20, 1), (16, 16, 1), (3, 3, 1), (0, 0, 1), (None, 5, 1), (None, 0, 1), (5, 5, 0))
        )
        return [self.array(capacity, 8, "object"), length, At(self.image.room(8)) if cell else None]

    def cell(self, arg: Arg, pool: str = "") -> list[Value]:
        """Make a cell for one number or handle."""
        return [self.array(1, 8, pool) if self.choices.flag(arg.name) else None]

    def arg_out_ulong(self, arg: Arg) -> list[Value]:
        """Make a cell for a number."""
        return self.cell(arg)

    def arg_out_object(self, arg: Arg) -> list[Value]:
        """Make a cell for an object."""
        return self.cell(arg, "object")

    def arg_out_session(self, arg: Arg) -> list[Value]:
        """Make a cell for a session."""
        return self.cell(arg, "session")

    def arg_out_slot(self, arg: Arg) -> list[Value]:
        """Make a cell for a slot."""
        return self.cell(arg, "slot")

    def arg_out_struct(self, arg: Arg) -> list[Value]:
        """Make room for a struct."""
        if not self.choices.flag(arg.name):
            return [None]
        size = tables().sizes["lp64"][arg.struct]
        start = self.image.room(size.size)
        for row, offset in zip(tables().structs[arg.struct].fields, size.offsets, strict=True):
            if row.kind == "slot":
                self.image.named.append((start + offset, "slot"))
        return [At(start)]

    def arg_inout_template(self, arg: Arg) -> list[Value]:
        """Make a query and its count."""
        if arg.name in self.given:
            return list(self.query(self.given[arg.name]))
        named = queries()
        return list(self.query(named[self.choices.choose(arg.name, list(named))]))

    def query(self, rows: Any) -> tuple[Value, int]:
        """Make attributes with rooms."""
        if isinstance(rows, int):
            return None, rows
        start = self.image.room(ATTRIBUTE * len(rows))
        for i, (kind, value) in enumerate(rows):
            room: Value = None
            if isinstance(value, list):
                room, count = self.query(value)
                length = ATTRIBUTE * count
            elif isinstance(value, tuple):
                length = value[1]
            else:
                length, room = value, At(self.image.room(value))
            self.attribute(start + ATTRIBUTE * i, kind, room, length)
        return At(start), len(rows)
