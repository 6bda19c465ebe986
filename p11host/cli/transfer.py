"""`p11host import` and `p11host export`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from p11host.cli.options import config_option, json_option
from p11host.cli.reach import UsageError, give, login_option, output_options, reaching, tell, uri_argument
from p11host.uri import Kind, Uri

if TYPE_CHECKING:
    import pkcs11

_ARMOR = {"cert": "CERTIFICATE", "public": "PUBLIC KEY", "private": "PRIVATE KEY"}


@click.command("import", short_help="Put the certificates and keys of a file on a token.")
@uri_argument
@click.argument("file")
@click.option("--extractable", is_flag=True, help="Let a private key be exported again.")
@config_option
@json_option
def import_(uri: Uri, file: str, config: Path | None, *, extractable: bool, as_json: bool) -> None:
    """Put the certificates and keys in FILE on the token that URI names; object and id in it are theirs.

    PEM or DER: X.509, SubjectPublicKeyInfo, PKCS#1, PKCS#8 without a password, SEC 1; '-' is standard input.
    A certificate gets the id of its key, if the token has that. Prints the URIs of what was put there.
    """
    from p11host.tokens.files import read_whole  # noqa: PLC0415
    from p11host.tokens.find import find_token, uri_of  # noqa: PLC0415
    from p11host.tokens.forms import parse  # noqa: PLC0415
    from p11host.tokens.login import log_in, opened, wants_login  # noqa: PLC0415
    from p11host.tokens.storing import store  # noqa: PLC0415

    forms = parse(read_whole(file), file)
    if len(forms) > 1 and (uri.object is not None or uri.id is not None):
        raise UsageError(f"{file}: holds {len(forms)} objects, which cannot all have one object and id")
    if uri.type is not None and any(form.kind != uri.type for form in forms):
        raise UsageError(f"{file}: holds {', '.join(form.kind for form in forms)}, not {uri.type}")
    with reaching(config, uri) as shim:
        token = find_token(shim, uri)
        with opened(token, rw=True) as session:
            if wants_login(token):
                log_in(session, uri)
            made = [store(session, form, uri, extractable=extractable) for form in forms]
            uris = [str(uri_of(token, each)) for each in made]
    tell({"made": uris}, "\n".join(uris), as_json=as_json)


@click.command(short_help="Write a certificate or a key of a token to a file.")
@uri_argument
@output_options
@click.option("--der", is_flag=True, help="Write DER instead of PEM.")
@click.option("--public", "public_only", is_flag=True, help="Write the public key of whatever URI names.")
@login_option
@config_option
@json_option
def export(  # noqa: PLR0913 (one for each option)
    uri: Uri,
    output: str | None,
    config: Path | None,
    *,
    force: bool,
    der: bool,
    public_only: bool,
    login: bool,
    as_json: bool,
) -> None:
    """Write the certificate or public key that URI names, or the private key if it has type=private.

    A public key is written as SubjectPublicKeyInfo, a private key as PKCS#8 into a file that only its owner
    can read, where the token gives it up: made or imported with --extractable.
    """
    from p11host.tokens.files import PUBLIC, SECRET  # noqa: PLC0415
    from p11host.tokens.forms import armored  # noqa: PLC0415

    kind, data, named = _taken(config, uri, public_only=public_only, login=login)
    secret = kind == "private"
    if secret and output in (None, "-") and as_json:
        raise UsageError("a private key is not printed as JSON; name a file with -o")
    shown = data if der else armored(_ARMOR[kind], data)
    if output not in (None, "-") or not as_json:
        give(shown, output, force=force, mode=SECRET if secret else PUBLIC, binary=der or secret)
    if as_json:
        facts = {"uri": named, "type": kind, "file": output} | ({} if secret else {"der": data.hex()})
        tell(facts, "", as_json=True)


def _taken(config: Path | None, uri: Uri, *, public_only: bool, login: bool) -> tuple[Kind, bytes, str]:
    """Return what kind of thing is exported, as DER, and the URI of where it comes from."""
    from p11host.tokens.find import find_object, find_token, uri_of  # noqa: PLC0415
    from p11host.tokens.login import log_in, opened, wants_login  # noqa: PLC0415

    kinds: tuple[Kind, ...] = ("private",) if uri.type == "private" else ("cert", "public")
    with reaching(config, uri) as shim:
        token = find_token(shim, uri)
        with opened(token) as session:
            if wants_login(token) and (login or uri.type == "private" or uri.pin_source or uri.pin_value):
                log_in(session, uri)
            found = find_object(session, uri, kinds)
            kind, data = _der(found, public_only=public_only)
            return kind, data, str(uri_of(token, found))


def _der(found: "pkcs11.Object", *, public_only: bool) -> tuple[Kind, bytes]:
    from p11host.tokens.storing import certificate_bytes, kind_of, public_bytes  # noqa: PLC0415

    kind = kind_of(found)
    if public_only or kind == "public":
        return "public", public_bytes(found)
    if kind == "cert":
        return kind, certificate_bytes(found)
    from p11host.tokens.forms import private_info  # noqa: PLC0415

    return kind, private_info(found)
