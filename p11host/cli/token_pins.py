"""`p11host init-token` and `p11host set-pin`."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from p11host.cli.options import config_option, json_option
from p11host.cli.reach import UsageError, confirm, reaching, tell, uri_argument, yes_option
from p11host.uri import Uri

if TYPE_CHECKING:
    import pkcs11

    from p11host.tokens.find import Shim
    from p11host.tokens.pin_calls import Pin

_LABEL_BYTES = 32


@click.command("init-token", short_help="Initialise a token and set its PINs.")
@uri_argument
@click.option("--label", required=True, help="What the token shall be called.")
@click.option("--so-pin-source", metavar="file:/PATH", help="The security officer's PIN, instead of asking.")
@click.option("--no-user-pin", is_flag=True, help="Set no PIN for the user.")
@yes_option
@config_option
@json_option
def init_token(  # noqa: PLR0913 (one for each option)
    uri: Uri,
    label: str,
    so_pin_source: str | None,
    config: Path | None,
    *,
    no_user_pin: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Initialise the token that URI names and set its PINs: the user's is that of pin-source, or asked for.

    Of several, one that is not initialised yet is meant. One that is loses all it holds: for that URI must
    name it by token, serial or slot-id, the security officer's PIN is the one it has, and it is asked about.
    """
    from p11host.tokens.find import is_blank, uri_of_token  # noqa: PLC0415
    from p11host.tokens.initialise import erase, set_user_pin  # noqa: PLC0415
    from p11host.tokens.login import given_pin, secret  # noqa: PLC0415

    if not label or len(label.encode()) > _LABEL_BYTES:
        raise UsageError(f"--label: a label has 1 to {_LABEL_BYTES} bytes")
    with reaching(config, uri) as shim:
        token = _meant(shim, uri)
        blank = is_blank(token)
        if not blank:
            confirm(f"Erase {uri_of_token(token)} and all it holds?", yes=yes)
        with _so_pin(token, so_pin_source, blank=blank) as so_pin:
            if no_user_pin:
                erase(token, so_pin, label)
            else:
                with secret(given_pin(token, "PIN", uri.pin_source, uri.pin_value, new=True)) as pin:
                    erase(token, so_pin, label)
                    set_user_pin(token, so_pin, pin)
        named = str(uri_of_token(token.slot.get_token()))
    tell({"token": named}, named, as_json=as_json)


def _so_pin(token: "pkcs11.Token", source: str | None, *, blank: bool) -> "AbstractContextManager[Pin]":
    """Return the security officer's PIN: a new one, or of an initialised token the one it has."""
    from p11host.tokens.login import given_pin, pin_of, secret  # noqa: PLC0415

    if blank:
        return secret(given_pin(token, "SO PIN", source, new=True))
    return pin_of(token, Uri(pin_source=source), "so")


def _meant(shim: "Shim", uri: Uri) -> "pkcs11.Token":
    """Return the token to initialise: a blank one, or else the very one that the URI names."""
    from p11host.errors import NotFoundError  # noqa: PLC0415
    from p11host.tokens.find import find_token, find_tokens, is_blank  # noqa: PLC0415

    if any(is_blank(token) for token in find_tokens(shim, uri, blank=None)):
        return find_token(shim, uri, blank=True)
    token = find_token(shim, uri)
    if not (uri.token or uri.serial or uri.slot_id is not None):
        raise NotFoundError(
            "every token there is initialised; name the one to erase by token, serial or slot-id"
        )
    return token


@click.command("set-pin", short_help="Change a PIN of a token.")
@uri_argument
@click.option("--so", is_flag=True, help="Change the security officer's PIN.")
@click.option("--unblock", is_flag=True, help="As the security officer, set a new PIN for the user.")
@click.option("--new-pin-source", metavar="file:/PATH", help="The new PIN, instead of asking.")
@config_option
@json_option
def set_pin(  # noqa: PLR0913 (one for each option)
    uri: Uri, new_pin_source: str | None, config: Path | None, *, so: bool, unblock: bool, as_json: bool
) -> None:
    """Change the PIN of the token that URI names; the present one is that of pin-source, or asked for.

    With --so and --unblock the present PIN is the security officer's.
    """
    from p11host.tokens.find import find_token, uri_of_token  # noqa: PLC0415
    from p11host.tokens.initialise import change_pin  # noqa: PLC0415

    if so and unblock:
        raise UsageError("--so changes one PIN and --unblock sets another; give one of them")
    with reaching(config, uri) as shim:
        token = find_token(shim, uri)
        change_pin(token, uri, new_pin_source, so=so, unblock=unblock)
        named = str(uri_of_token(token))
    tell({"token": named}, f"{named}: the PIN is set", as_json=as_json)
