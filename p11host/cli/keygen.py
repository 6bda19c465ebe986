"""`p11host keygen`."""

from pathlib import Path

import click

from p11host.cli.options import config_option, json_option
from p11host.cli.reach import UsageError, reaching, tell, uri_argument
from p11host.uri import Uri

#: As p11host.tokens.making has them.
_USES = ("sign", "encrypt", "wrap", "derive")


@click.command(short_help="Make a key, or a pair, on a token.")
@uri_argument
@click.argument("kind")
@click.option("--use", "uses", type=click.Choice(_USES), multiple=True, help="What it is for.  [repeatable]")
@click.option("--extractable", is_flag=True, help="Let it be exported.")
@config_option
@json_option
def keygen(  # noqa: PLR0913 (one for each option)
    uri: Uri, kind: str, uses: tuple[str, ...], config: Path | None, *, extractable: bool, as_json: bool
) -> None:
    """Make a key, or a pair, on the token that URI names; object and id in it are the new key's.

    KIND is rsa[:BITS], ec[:CURVE], ed25519, ed448, ml-dsa[:SET], ml-kem[:SET], aes[:BITS] or generic[:BITS];
    rsa is rsa:3072, ec is ec:secp256r1, ml-dsa is ml-dsa:65, ml-kem is ml-kem:768. Without id a new one is
    made. Prints the URI of what was made.
    """
    from p11host.tokens.find import find_token, uri_of  # noqa: PLC0415
    from p11host.tokens.login import log_in, opened, wants_login  # noqa: PLC0415
    from p11host.tokens.making import Wish, make, new_id, parse  # noqa: PLC0415
    from p11host.tokens.work import working  # noqa: PLC0415

    if uri.type is not None:
        raise UsageError("type is not for a new key, of which KIND says it; leave it out")
    spec = parse(kind)
    with reaching(config, uri) as shim:
        token = find_token(shim, uri)
        with opened(token, rw=True) as session:
            if wants_login(token):
                log_in(session, uri)
            _refuse_same(session, uri)
            wish = Wish(uri.object or "", uri.id or new_id(), uses, extractable)
            made = working(f"making {kind} on {token.label}", lambda: make(session, spec, wish))
            uris = [str(uri_of(token, each)) for each in made]
    tell({"made": uris}, "\n".join(uris), as_json=as_json)


def _refuse_same(session: object, uri: Uri) -> None:
    """Raise P11HostError if a key has that id already: two of one id are one to most programs."""
    from dataclasses import replace  # noqa: PLC0415

    from p11host.errors import P11HostError  # noqa: PLC0415
    from p11host.tokens.find import find_objects  # noqa: PLC0415

    kinds = ("public", "private", "secret-key")
    if uri.id and any(
        find_objects(session, replace(uri, object=None, type=kind))  # type: ignore[arg-type]
        for kind in kinds
    ):
        raise P11HostError(
            f"the token has a key with id {uri.id.hex()} already; give another id, or delete it"
        )
