"""Tokens made new, and their PINs set.

Knows who must be logged in for which PIN. Must not know where PINs come from.
"""

from functools import partial

import pkcs11

from p11host.codes import ckr
from p11host.errors import P11HostError
from p11host.tokens import pin_calls
from p11host.tokens.failure import hinted
from p11host.tokens.find import name
from p11host.tokens.login import (
    Role,
    check_pin,
    give_pin,
    given_pin,
    handle,
    on_reader,
    opened,
    pin_of,
    secret,
)
from p11host.tokens.pin_calls import Pin
from p11host.tokens.work import attended
from p11host.uri import Uri

_OF_PIN = "CKR_PIN_"


def erase(token: pkcs11.Token, so_pin: Pin, label: str) -> None:
    """Initialise a token; what it held is gone. An initialised one must be given the SO PIN that it has."""
    call = partial(pin_calls.init_token, token.slot.slot_id, so_pin, label.encode())
    rv = attended(so_pin, on_reader(token, "SO PIN"), call)
    if rv and ckr(rv).startswith(_OF_PIN):
        check_pin(rv, token, "so")
    if rv:
        raise P11HostError(f"{name(token)} was not initialised: {hinted(ckr(rv))}")


def set_user_pin(token: pkcs11.Token, so_pin: Pin, pin: Pin) -> None:
    """Set the user's PIN as the security officer."""
    with opened(token, rw=True) as session:
        give_pin(session, "so", so_pin)
        call = partial(pin_calls.init_pin, handle(session), pin)
        check_pin(attended(pin, on_reader(token, "new PIN"), call), token, "user")


def change_pin(token: pkcs11.Token, uri: Uri, source: str | None, *, so: bool, unblock: bool) -> None:
    """Set a new PIN: one's own with the one before, or the user's as the security officer."""
    role: Role = "so" if so or unblock else "user"
    title = "SO PIN" if so else "PIN"
    with pin_of(token, uri, role) as old, secret(given_pin(token, title, source, new=True)) as new:
        if unblock:
            set_user_pin(token, old, new)
            return
        with opened(token, rw=True) as session:
            if so:
                give_pin(session, "so", old)
            call = partial(pin_calls.set_pin, handle(session), old, new)
            check_pin(attended(new, on_reader(token, f"old and the new {title}"), call), token, role)
