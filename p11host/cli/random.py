"""`p11host random`."""

from pathlib import Path

import click

from p11host.cli.options import config_option, json_option
from p11host.cli.reach import give, output_options, reaching, tell, uri_argument
from p11host.uri import Uri

_MOST = 1 << 24
#: Bytes of one call: what a slow token makes in good time.
_CHUNK = 1 << 12


@click.command(short_help="Have a token make random bytes.")
@uri_argument
@click.argument("length", type=click.IntRange(1, _MOST))
@click.option("--hex", "as_hex", is_flag=True, help="Write hexadecimal digits and a newline, not bytes.")
@output_options
@config_option
@json_option
def random(  # noqa: PLR0913 (one for each option)
    uri: Uri,
    length: int,
    output: str | None,
    config: Path | None,
    *,
    as_hex: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Have the token that URI names make LENGTH random bytes."""
    from p11host.tokens.files import SECRET  # noqa: PLC0415
    from p11host.tokens.find import find_token  # noqa: PLC0415
    from p11host.tokens.login import opened  # noqa: PLC0415
    from p11host.tokens.work import working  # noqa: PLC0415

    with reaching(config, uri) as shim:
        token = find_token(shim, uri)
        with opened(token) as session:
            sizes = [_CHUNK] * (length // _CHUNK) + ([length % _CHUNK] if length % _CHUNK else [])
            data = working(
                f"{length} bytes", lambda: b"".join(session.generate_random(8 * size) for size in sizes)
            )
    if output not in (None, "-") or not as_json:
        shown = data.hex().encode() + b"\n" if as_hex else data
        give(shown, output, force=force, mode=SECRET, binary=not as_hex)
    if as_json:
        random_bytes = {} if output not in (None, "-") else {"random": data.hex()}
        tell({"length": length, "file": output} | random_bytes, "", as_json=True)
