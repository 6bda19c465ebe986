"""All cases: what a call may be given, from the tables.

A subject is a row of a table: ("function", "C_Sign"), ("mechanism", …), ("struct", …), ("attribute", …).
Cases come in groups: the first may prepare a session for those after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from cryptoki import constant
from mirror_case import Case, Wish
from mirror_choices import Choices, variants
from mirror_make import Maker

from p11host.tables import Attribute, Function, Mechanism, tables

ALL_ONES = (1 << 64) - 1
VENDOR_RV = 0x80000123
FLAG_LATE, FLAG_NOTHING, FLAG_LIES = 1, 16, 32
NEED = 23
MOST_LIES = 60
WISHES = ("CKR_OK", "CKR_GENERAL_ERROR", "CKR_BUFFER_TOO_SMALL", "CKR_ATTRIBUTE_SENSITIVE", "vendor")
#: For each use of a mechanism a function that has it.
USERS = {
    "plain": "C_EncryptInit",
    "wrap": "C_WrapKey",
    "message-init": "C_MessageEncryptInit",
    "message": "C_WrapKeyAuthenticated",
}
MESSAGE_MECHANISMS = ("CKM_AES_GCM", "CKM_AES_CCM", "CKM_CHACHA20_POLY1305", "CKM_AES_CBC")
VERBS = ("Encrypt", "Decrypt", "Sign", "Verify")

Groups = Iterator[list[Case]]


def carried_functions() -> list[Function]:
    """Return the functions that reach a provider, each by one call of it: a wait for events is many looks."""
    return [each for each in tables().functions.values() if not each.local and each.patience != "forever"]


def wish(choices: Choices) -> Wish:
    """Choose how the mirror answers."""
    name = choices.choose("rv", WISHES)
    rv = VENDOR_RV if name == "vendor" else constant(name)
    return Wish(rv, NEED, choices.choose("flags", (0, FLAG_NOTHING)))


def make(
    function: Function,
    subject: tuple[str, str],
    choices: Choices,
    message: Mechanism | None = None,
    **given: Any,
) -> Case:
    """Make one case."""
    case = Case(function.name, subject, wish=wish(choices))
    maker = Maker(case, choices)
    maker.message = message
    return maker.call(function, **given)


def of_signatures() -> Groups:
    """Signatures that are structs with pointers into their own buffer."""
    for row in tables().mechanisms.values():
        for name in ("C_Sign", "C_SignFinal") if row.output else ():
            begin = make(tables().functions["C_SignInit"], ("struct", row.output), Choices(), pMechanism=row)
            for sign in variants(partial(otp, tables().functions[name], ("struct", row.output))):
                yield [begin, sign]  # an operation that has ended is no longer known


def otp(function: Function, subject: tuple[str, str], choices: Choices) -> Case:
    """Make a case whose output is a struct."""
    case = Case(function.name, subject, wish=wish(choices), otp=True)
    return Maker(case, choices).call(function, hSession=0)


def is_message(function: Function) -> bool:
    """Tell whether a function has the parameter of one message, whose struct its session knows."""
    return any(arg.kind == "message" for arg in function.args)


def of_functions() -> Groups:
    """Every function, with every alternative for every argument and every pair of them."""
    for function in carried_functions():
        subject = ("function", function.name)
        if not is_message(function):
            yield list(variants(partial(make, function, subject)))
            continue
        for name in MESSAGE_MECHANISMS:
            row = tables().mechanisms[name]
            messages = variants(partial(make, function, subject, message=row, hSession=0))
            yield [begin_message(function, row), *messages]


def begin_message(function: Function, row: Mechanism) -> Case:
    """Return the call that begins the operation which a message function goes on with."""
    verb = next(verb for verb in VERBS if verb in function.name)
    begin = tables().functions[f"C_Message{verb}Init"]
    none = Choices({"pMechanism.pParameter": len(row.choices["message-init"])})
    return make(begin, ("function", begin.name), none, pMechanism=row, hSession=0)


def of_mechanisms() -> Groups:
    """Every mechanism value in every use, with each shape of parameter, none, and those of other lengths."""
    for row in {each.value: each for each in reversed(list(tables().mechanisms.values()))}.values():
        for user in USERS.values():
            function = tables().functions[user]
            yield list(only(function, ("mechanism", row.name), "pMechanism.pParameter", pMechanism=row))


def only(function: Function, subject: tuple[str, str], point: str, **given: Any) -> Iterator[Case]:
    """Return the cases that differ in one choice."""
    usual = Choices()
    yield make(function, subject, usual, **given)
    for i in range(1, usual.points[point]):
        yield make(function, subject, Choices({point: i}), **given)


def of_structs() -> Groups:
    """Every struct that is a parameter, with every alternative for every field and every pair of them."""
    for name, (row, use, place) in sorted(homes().items()):
        yield list(variants(partial(struct_case, name, row, tables().functions[USERS[use]], place)))


def struct_case(name: str, row: Mechanism, function: Function, place: int, choices: Choices) -> Case:
    """Make a case of a struct: the choices are those within it, and how the mirror answers."""
    every = Choices({"pMechanism.pParameter": place, **choices.picks})
    case = make(function, ("struct", name), every, pMechanism=row)
    within = (f"pMechanism.{name}", "rv", "flags")
    choices.points |= {
        point: count for point, count in every.points.items() if point.lstrip("*").startswith(within)
    }
    return case


def homes() -> dict[str, tuple[Mechanism, str, int]]:
    """Return for each struct a mechanism whose parameter it is, the use, and its place among the choices."""
    found: dict[str, tuple[Mechanism, str, int]] = {}
    for row in tables().mechanisms.values():
        for use in USERS:
            for place, choice in enumerate(row.choices[use]):
                if choice.struct:
                    found.setdefault(choice.struct, (row, use, place))
    return found


def of_attributes() -> Groups:
    """Every attribute by both its numbers, given and asked for, with right and wrong lengths."""
    create, ask = tables().functions["C_CreateObject"], tables().functions["C_GetAttributeValue"]
    for row in tables().attributes.values():
        subject = ("attribute", row.name)
        for number in [row.value] if row.also is None else [row.value, row.also]:
            values = given_values(row)
            yield [make(create, subject, Choices(), pTemplate=[(number, value)]) for value in values]
            yield [make(ask, subject, Choices(), pTemplate=[(number, room)]) for room in asked_rooms(row)]


def given_values(row: Attribute) -> Sequence[Any]:
    """Return values for an attribute: right, none, too short, too long, NULL."""
    right: dict[str, list[Any]] = {
        "bool": [b"\0", b"\1", b"\2"],
        "ulong": [bytes(8), b"\xff" * 8, b"\x2a" + bytes(7)],
        "ulongs": [bytes(8), b"\xff" * 24, b"\x2a" + bytes(15)],
        "template": [[(0, bytes(8)), (3, b"label")], []],
        "date": [b"20261231"],
        "version": [b"\3\2"],
    }
    wrong = [b"", b"odd", b"x" * 9, b"l" * 9001, 0, 8, 24, ALL_ONES]
    return [*right.get(row.kind, [b"some bytes"]), *wrong]


def asked_rooms(row: Attribute) -> Sequence[Any]:
    """Return rooms for an attribute: long, exact, short, none, NULL."""
    if row.kind == "template":
        inner = [(3, 40), (0, 40)]
        lengths = [(0, (None, 0)), (0, (None, 0))]
        return [inner, inner[:1], [*inner, *inner], [], (None, 0), (None, 48), lengths]
    return [100, 24, 23, 8, 7, 2, 1, 0, 9000, (None, 0), (None, 30), (None, ALL_ONES)]


def of_late_outputs() -> Groups:
    """Memory given to an operation's beginning, and written by later calls of it."""
    late = {name: home for name, home in homes().items() if home[1] == "plain" and is_late(name)}
    rows = [(name, row, place) for name, (row, _, place) in sorted(late.items())]
    rows += [("", row, 0) for row in tables().mechanisms.values() if row.param.endswith("out")]
    for name, row, place in rows:
        subject = ("struct", name) if name else ("mechanism", row.name)
        for flags in (0, FLAG_NOTHING):
            for later in (("C_EncryptUpdate",), ("C_EncryptUpdate", "C_Encrypt"), ("C_EncryptFinal",)):
                yield [late_case(subject, row, place, Wish(0, NEED, flags), later)]


def is_late(name: str) -> bool:
    """Tell whether a struct leads to bytes that may be written late."""
    struct = tables().structs[name]
    inner = [tables().structs[each.base] for each in struct.fields if each.kind == "structs"]
    rows = [row for one in (struct, *inner) for row in one.fields]
    return any(row.kind == "bytes" and (row.late or row.direction != "in") for row in rows)


def late_case(
    subject: tuple[str, str], row: Mechanism, place: int, begun: Wish, later: Sequence[str]
) -> Case:
    """Make an operation of several calls in one memory."""
    usual = Choices({"pMechanism.pParameter": place})
    case = Case("C_EncryptInit", subject, wish=begun)
    Maker(case, usual).call(tables().functions[case.function], pMechanism=row, hSession=0)
    for name in later:
        case.before.append((case.function, case.words, case.wish))
        case.function, case.words, case.wish = name, [], Wish(0, NEED, FLAG_LATE)
        Maker(case, Choices()).call(tables().functions[name], hSession=0)
    return case


def lies() -> Iterator[Case]:
    """Every function and every struct with outputs, by a mirror all of whose lengths are lies."""
    for cases in (*of_functions(), *of_structs(), *of_attributes(), *of_signatures()):
        for case in cases[:MOST_LIES]:
            case.wish = replace(case.wish, flags=FLAG_LIES)
            yield case


def groups() -> Groups:
    """Return every case, in groups that belong together."""
    yield from of_functions()
    yield from of_mechanisms()
    yield from of_structs()
    yield from of_attributes()
    yield from of_signatures()
    yield from of_late_outputs()
