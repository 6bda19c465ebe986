"""Mechanisms are not hidden: the shim lists what the provider lists."""

from typing import Any

from reach import reached
from way import Way

from p11host.throwaway import Token

ROOM = 500


def mechanisms(name: str, token: Token) -> list[Any]:
    """Return what C_GetMechanismList gives for no, a large, an exact and a small buffer; and all infos."""
    with reached(name, token) as reach:
        way = Way(reach)
        try:
            count = way.call(listed(None, 0))[0][1][1][0]
            found = way.call(*(listed(room, room) for room in (ROOM, count, count - 1, 0)), listed(None, 1))
            infos = way.call(*(["C_GetMechanismInfo", ["slot", kind, True]] for kind in found[0][1][1][1]))
        finally:
            way.stop()
    return [count, found, infos]


def listed(capacity: int | None, length: int) -> list[Any]:
    """Return a call of C_GetMechanismList with a buffer of so many elements."""
    return ["C_GetMechanismList", ["slot", {"capacity": capacity, "length": length}]]


def test_list_is_the_same_element_for_element(token: Token) -> None:
    """Whatever the buffer, C_GetMechanismList gives the provider's count and elements, in its order."""
    direct, ours = mechanisms("direct", token), mechanisms("p11host", token)

    assert direct[0] > 50
    assert direct[1] == ours[1]


def test_infos_are_the_same(token: Token) -> None:
    """C_GetMechanismInfo of each of them gives the provider's key sizes and flags."""
    direct, ours = mechanisms("direct", token), mechanisms("p11host", token)

    assert direct[0] == len(direct[2])
    assert direct[2] == ours[2]
