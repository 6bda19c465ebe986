"""A case: one call of one function, with its memory and how the mirror is to answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mirror_memory import Image, Value


@dataclass(frozen=True)
class Wish:
    """How the mirror is to answer: the CK_RV, the size of every output, flags of mirror_give.h."""

    rv: int = 0
    need: int = 20
    flags: int = 0


@dataclass
class Case:
    """One call."""

    function: str
    subject: tuple[str, str]
    """What it shows something of: a kind of row in the tables, and its name."""
    image: Image = field(default_factory=Image)
    words: list[Value] = field(default_factory=list)
    wish: Wish = Wish()
    before: list[tuple[str, list[Value], Wish]] = field(default_factory=list)
    """Calls with the same memory that precede it."""
    otp: bool = False
    """Its output is a CK_OTP_SIGNATURE_INFO."""
    shape: str = ""
    """What is carried, in a word."""
    refusal: str = ""
    """The CK_RV with which the shim refuses to send it."""
    reason: str = ""
    structs: set[str] = field(default_factory=set)
    """All structs that its memory holds."""
    picks: Mapping[str, int] = field(default_factory=dict)

    def refuse(self, rv: str, reason: str) -> None:
        """Say that the shim must refuse the call. The first reason counts."""
        if not self.refusal:
            self.refusal, self.reason = rv, reason
