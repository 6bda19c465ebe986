"""`p11host sign` and `p11host verify`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from p11host.cli.options import config_option, json_option
from p11host.cli.reach import UsageError, give, login_option, output_options, reaching, tell, uri_argument
from p11host.errors import EXIT_INVALID
from p11host.uri import Uri

if TYPE_CHECKING:
    import pkcs11

    from p11host.tokens.signing import Way

Command = Callable[..., None]
#: As p11host.tokens.signing has them.
_HASHES = ("sha1", "sha224", "sha256", "sha384", "sha512")


def way_options(command: Command) -> Command:
    """Add the options that say how a signature is made."""
    for option in (
        click.option(
            "--mechanism", metavar="CKM_…", help="Give the token the data as they are, under this mechanism."
        ),
        click.option("--prehashed", is_flag=True, help="FILE holds a digest already."),
        click.option("--raw", is_flag=True, help="ECDSA: r and s alone, not in DER."),
        click.option("--pss", is_flag=True, help="RSA: PSS, not PKCS#1 v1.5."),
        click.option(
            "--hash", type=click.Choice(_HASHES), default="sha256", show_default=True, help="The digest."
        ),
    ):
        command = option(command)
    return command


@click.command(short_help="Sign a file with a key of a token.")
@uri_argument
@click.argument("file", type=click.File("rb"), default="-")
@output_options
@way_options
@config_option
@json_option
def sign(  # noqa: PLR0913 (one for each option)
    uri: Uri,
    file: BinaryIO,
    output: str | None,
    config: Path | None,
    *,
    force: bool,
    as_json: bool,
    **way: Any,
) -> None:
    """Sign FILE, or standard input, with the private or secret key that URI names.

    As openssl has it: RSA by PKCS#1 v1.5 or PSS, ECDSA in DER, EdDSA, and HMAC or CMAC with a secret key. The
    digest is made here; the token signs that.
    """
    from p11host.tokens.files import PUBLIC  # noqa: PLC0415
    from p11host.tokens.find import find_object, find_token, uri_of  # noqa: PLC0415
    from p11host.tokens.login import log_in, opened, wants_login  # noqa: PLC0415
    from p11host.tokens.signing import plan, written  # noqa: PLC0415
    from p11host.tokens.work import working  # noqa: PLC0415

    chosen = _way(way)
    with reaching(config, uri) as shim:
        token = find_token(shim, uri)
        with opened(token) as session:
            if wants_login(token):
                log_in(session, uri)
            key = find_object(session, uri, ("private", "secret-key"))
            job = plan(key, chosen, file)
            options = _once(key, uri, session) | {"mechanism": job.mechanism, "mechanism_param": job.param}
            signer = _able(key, "sign")
            signature = written(job, working("signing", lambda: signer(job.data, **options)))
            named = str(uri_of(token, key))
    if output not in (None, "-") or not as_json:
        give(signature, output, force=force, mode=PUBLIC, binary=True)
    if as_json:
        facts = {"key": named, "mechanism": f"CKM_{job.mechanism.name}", "file": output}
        tell(facts | {"signature": signature.hex()}, "", as_json=True)


@click.command(short_help="Verify a signature with a key of a token.")
@uri_argument
@click.argument("signature")
@click.argument("file", type=click.File("rb"), default="-")
@way_options
@login_option
@config_option
@json_option
def verify(  # noqa: PLR0913 (one for each option)
    uri: Uri, signature: str, file: BinaryIO, config: Path | None, *, login: bool, as_json: bool, **way: Any
) -> None:
    """Verify the SIGNATURE, a file, of FILE or standard input, with the public or secret key that URI names.

    Exit code 0: it is valid; 6: it is not.
    """
    from p11host.tokens.files import read_whole  # noqa: PLC0415
    from p11host.tokens.find import find_object, find_token, uri_of  # noqa: PLC0415
    from p11host.tokens.login import log_in, opened, wants_login  # noqa: PLC0415

    if signature == "-":
        raise UsageError("the signature is read from a file; standard input is for what was signed")
    given, chosen = read_whole(signature), _way(way)
    with reaching(config, uri) as shim:
        token = find_token(shim, uri)
        with opened(token) as session:
            secret = uri.type == "secret-key" or uri.pin_source is not None or uri.pin_value is not None
            if wants_login(token) and (login or secret):
                log_in(session, uri)
            hint = "import it, or its certificate's: p11host import; secret keys are seen with --login"
            key = find_object(session, uri, ("public", "secret-key"), hint)
            valid = _is_valid(key, chosen, file, given)
            named = str(uri_of(token, key))
    tell({"key": named, "valid": valid}, "valid" if valid else "not valid", as_json=as_json)
    if not valid:
        raise SystemExit(EXIT_INVALID)


def _is_valid(key: "pkcs11.Object", way: "Way", file: BinaryIO, given: bytes) -> bool:
    from p11host.tokens.signing import as_token, plan  # noqa: PLC0415

    job = plan(key, way, file)
    try:
        signature = as_token(job, given, key)
    except (ValueError, TypeError):
        return False
    verifier = _able(key, "verify")
    return bool(verifier(job.data, signature, mechanism=job.mechanism, mechanism_param=job.param))


def _way(options: dict[str, Any]) -> "Way":
    from p11host.tokens.signing import Way  # noqa: PLC0415

    if options["mechanism"] and (options["pss"] or options["prehashed"]):
        raise UsageError("--mechanism says it all; leave --pss and --prehashed out")
    return Way(**options)


def _able(key: "pkcs11.Object", verb: str) -> Callable[..., Any]:
    able: Callable[..., Any] | None = getattr(key, verb, None)
    if able is None:
        raise UsageError(f"the key is not for that use: its CKA_{verb.upper()} is false")
    return able


def _once(key: "pkcs11.Object", uri: Uri, session: "pkcs11.Session") -> dict[str, Any]:
    """Return the PIN once more for a key that wants it for each use."""
    from pkcs11 import Attribute  # noqa: PLC0415

    from p11host.tokens.find import read  # noqa: PLC0415
    from p11host.tokens.login import once  # noqa: PLC0415

    return {"pin": once(session, uri)} if read(key, Attribute.ALWAYS_AUTHENTICATE) else {}
