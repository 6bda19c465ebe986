"""What a module's table says of going on after a crash: where the PIN is, and what a broken provider returns.

Knows keys and texts for people. What is done about it is custody's and the shim's.
"""

from typing import Annotated, Any

from pydantic import Field, PlainValidator

from p11host.limits import limits
from p11host.pins import RULE, PinSource, parse

_PAUSE_MOST = 86400
BROKEN = f"an array of up to {limits().broken} names of CK_RVs, none about PINs or users"
#: Another try costs one of the few that a token allows, or means nothing about the provider.
_NEVER = ("CKR_PIN_", "CKR_USER_", "CKR_OK", "CKR_BUFFER_TOO_SMALL")


def _pin_source(value: object) -> PinSource:
    return parse(str(value))


def _broken(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > limits().broken:
        raise ValueError
    return tuple(_number(name) for name in value)


def _number(name: object) -> int:
    from p11host.tables import tables  # noqa: PLC0415 (all of specs/: 60 ms)

    known = tables().constants.get(name) if isinstance(name, str) else None
    if known is None or known.kind != "ckr" or known.name.startswith(_NEVER):
        raise ValueError
    return known.value


def pin_source() -> Any:
    """Return the field of `pin-source`."""
    return Field(default=None, alias="pin-source", description=RULE)


def broken_pause() -> Any:
    """Return the field of `broken-pause`."""
    return Field(
        default=60, alias="broken-pause", ge=0, le=_PAUSE_MOST, description=f"seconds, at most {_PAUSE_MOST}"
    )


PinSourceField = Annotated[PinSource, PlainValidator(_pin_source)]
BrokenField = Annotated[tuple[int, ...], PlainValidator(_broken)]
