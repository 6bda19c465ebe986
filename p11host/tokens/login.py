"""Sessions, and whose they are: PINs from a file or a terminal, given to the token once and wiped.

Knows what a token says of its PINs. A PIN that was refused is never given again by itself.
"""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import pkcs11
from pkcs11 import TokenFlag

from p11host.codes import ckr
from p11host.errors import LoginError
from p11host.limits import limits
from p11host.pins import ask_on_terminal, read_file, wipe
from p11host.tokens import pin_calls
from p11host.tokens.failure import hinted
from p11host.tokens.find import name, uri_of_token
from p11host.tokens.pin_calls import CKU_SO, CKU_USER, Pin
from p11host.tokens.work import attended
from p11host.uri import Uri

Role = Literal["user", "so"]

_USERS = {"user": CKU_USER, "so": CKU_SO}
_TITLES = {"user": "PIN", "so": "SO PIN"}
_LOW = {"user": TokenFlag.USER_PIN_COUNT_LOW, "so": TokenFlag.SO_PIN_COUNT_LOW}
_LAST = {"user": TokenFlag.USER_PIN_FINAL_TRY, "so": TokenFlag.SO_PIN_FINAL_TRY}
_LOCKED = {"user": TokenFlag.USER_PIN_LOCKED, "so": TokenFlag.SO_PIN_LOCKED}
_ALREADY = "CKR_USER_ALREADY_LOGGED_IN"


class NoPinError(LoginError):
    """A person who was asked for a PIN gave none."""


@contextmanager
def opened(token: pkcs11.Token, *, rw: bool = False) -> Iterator[pkcs11.Session]:
    """Open a session, which is closed with the `with`; with its token's last one the login ends.

    It stays open when Ctrl-C ends the command: the provider may be busy in it, and its helper ends with us.
    """
    session = token.open(rw=rw)
    try:
        yield session
    except KeyboardInterrupt:
        raise
    except BaseException:
        with contextlib.suppress(pkcs11.PKCS11Error):
            session.close()
        raise
    session.close()


def handle(session: pkcs11.Session) -> int:
    """Return the handle of a session, of which python-pkcs11's types know nothing."""
    return int(session.handle)  # type: ignore[attr-defined]


def wants_login(token: pkcs11.Token) -> bool:
    """Tell whether a token has somebody log in at all."""
    return TokenFlag.LOGIN_REQUIRED in token.flags


def log_in(session: pkcs11.Session, uri: Uri, role: Role = "user") -> None:
    """Log in once, with the PIN that the URI tells of or that is typed; LoginError if it is refused."""
    with pin_of(session.token, uri, role) as pin:
        give_pin(session, role, pin)


def give_pin(session: pkcs11.Session, role: Role, pin: Pin) -> None:
    """Log in once with this PIN, or None that a person types on the token; LoginError if it is refused."""
    token = session.token
    call = partial(pin_calls.login, handle(session), _USERS[role], pin)
    check_pin(attended(pin, on_reader(token, _TITLES[role]), call), token, role)


def on_reader(token: pkcs11.Token, title: str) -> str:
    """Return what a person is asked whose token has a keypad."""
    return f"enter the {title} of {name(token)} on its reader"


def once(session: pkcs11.Session, uri: Uri) -> str:
    """Return the PIN once more, for a key with CKA_ALWAYS_AUTHENTICATE.

    It is text, which python-pkcs11 must be given between two calls of its own, and cannot be wiped.
    """
    with pin_of(session.token, uri, "user", "for this use of the key") as pin:
        if pin is None:
            raise LoginError(
                "the key wants the PIN of the token's keypad for each use, which is not possible here"
            )
        return pin.decode()


@contextmanager
def pin_of(token: pkcs11.Token, uri: Uri, role: Role, why: str = "") -> Iterator[Pin]:
    """Yield a PIN that is wiped with the end of the `with`; LoginError if there is none to be had."""
    now = token.slot.get_token().flags
    if now & _LOCKED[role]:
        raise LoginError(_locked(token, role))
    if TokenFlag.PROTECTED_AUTHENTICATION_PATH in now:
        yield None
        return
    prompt = _prompt(token, role, now, why)
    with secret(_pin(token, uri, role, prompt, last=bool(now & _LAST[role]))) as pin:
        yield pin


@contextmanager
def secret(pin: Pin) -> Iterator[Pin]:
    """Wipe a PIN with the end of the `with`."""
    try:
        yield pin
    finally:
        if pin is not None:
            wipe(pin)


def given_pin(
    token: pkcs11.Token, title: str, source: str | None, value: str | None = None, *, new: bool
) -> Pin:
    """Return a PIN to be set: from a file, `value`, or typed, twice if it is `new`. None: on the keypad."""
    if TokenFlag.PROTECTED_AUTHENTICATION_PATH in token.flags:
        return None
    if source is not None:
        return from_source(source)
    if value is not None:
        return _short(bytearray(value.encode()))
    return _typed_twice(title) if new else typed(f"{title} of {name(token)}: ")


def _typed_twice(title: str) -> bytearray:
    with secret(typed(f"New {title}: ")) as first, secret(typed(f"New {title} again: ")) as second:
        if first is None or first != second:
            raise LoginError(f"the two {title}s differ, nothing was changed; begin again")
        return bytearray(first)


def from_source(source: str) -> bytearray:
    """Return the PIN that a pin-source tells of, which must be a file (RFC 7512, section 2.4)."""
    path = source.removeprefix("file:")
    path = path.removeprefix("//") if path.startswith("///") else path
    if not path.startswith("/") or path.startswith("//"):
        raise LoginError("pin-source: only a file is read, by its absolute path; use pin-source=file:/path")
    return read_file(Path(path))


def typed(prompt: str) -> bytearray:
    """Return a PIN from the terminal, unseen."""
    try:
        pin = ask_on_terminal(prompt)
    except OSError as error:
        raise LoginError(
            "there is no terminal to ask for a PIN on; name a file: '…?pin-source=file:/path', "
            "or see --help for other PINs"
        ) from error
    if not pin:
        raise NoPinError("no PIN was typed; nothing was given to the token")
    return pin


def check_pin(rv: int, token: pkcs11.Token, role: Role) -> None:
    """Raise LoginError, with the tries that the token says are left, unless a PIN was taken."""
    if rv == 0:
        return
    why = ckr(rv)
    if why == _ALREADY:
        return
    raise LoginError(_refused(why, token, role))


def _refused(why: str, token: pkcs11.Token, role: Role) -> str:
    title = _TITLES[role]
    if why == "CKR_PIN_LOCKED":
        return _locked(token, role)
    if why == "CKR_PIN_INCORRECT":
        return f"the {title} of {name(token)} is wrong; {tries_left(_flags(token), role)}"
    whole = uri_of_token(token)
    remedies = {
        "CKR_USER_PIN_NOT_INITIALIZED": f"none is set; run: p11host set-pin --unblock '{whole}'",
        "CKR_PIN_EXPIRED": f"it has expired; run: p11host set-pin '{whole}'",
        "CKR_PIN_LEN_RANGE": "it is too short or too long for this token",
        "CKR_PIN_INVALID": "it has characters that this token does not take",
    }
    return f"the {title} of {name(token)}: {remedies.get(why, hinted(why))}"


def tries_left(flags: TokenFlag, role: Role) -> str:
    """Return in words how many tries are left, as far as the flags of a token say it."""
    if flags & _LOCKED[role]:
        return "it is locked now"
    if flags & _LAST[role]:
        return "one try is left before it is locked"
    if flags & _LOW[role]:
        return "some tries are left, the token does not say how many"
    return "the token does not say how many tries are left"


def _flags(token: pkcs11.Token) -> TokenFlag:
    """Return a token's flags as they are now."""
    return token.slot.get_token().flags


def _locked(token: pkcs11.Token, role: Role) -> str:
    if role == "so":
        return f"the SO PIN of {name(token)} is locked; only its maker can help"
    return (
        f"the PIN of {name(token)} is locked; its security officer sets a new one: "
        f"p11host set-pin --unblock '{uri_of_token(token)}'"
    )


def _prompt(token: pkcs11.Token, role: Role, now: TokenFlag, why: str) -> str:
    warning = " (the last try before it is locked)" if now & _LAST[role] else ""
    return f"{_TITLES[role]} of {name(token)}{f' {why}' if why else ''}{warning}: "


def _pin(token: pkcs11.Token, uri: Uri, role: Role, prompt: str, *, last: bool) -> bytearray:
    given = uri.pin_source is not None or uri.pin_value is not None
    if given and last:
        raise LoginError(
            f"one try is left before the {_TITLES[role]} of {name(token)} is locked; "
            "leave it out of the URI, and type it"
        )
    if uri.pin_source is not None:
        return from_source(uri.pin_source)
    if uri.pin_value is not None:
        return _short(bytearray(uri.pin_value.encode()))
    return typed(prompt)


def _short(pin: bytearray) -> bytearray:
    if not 0 < len(pin) <= limits().pin:
        raise LoginError(f"pin-value: a PIN has 1 to {limits().pin} bytes")
    return pin
