"""`p11host delete`."""

from pathlib import Path

import click

from p11host.cli.options import config_option, json_option
from p11host.cli.reach import confirm, reaching, tell, uri_argument, yes_option
from p11host.errors import NotFoundError, P11HostError
from p11host.uri import Uri


@click.command(short_help="Delete the one object that URI names.")
@uri_argument
@click.option("--all", "every", is_flag=True, help="Delete all objects that URI names, not one.")
@yes_option
@config_option
@json_option
def delete(uri: Uri, config: Path | None, *, every: bool, yes: bool, as_json: bool) -> None:
    """Delete the one object that URI names, which is asked about on a terminal.

    It logs in first, so that private objects count too. Nothing is deleted where URI names more than one
    object, but by --all. Prints the URIs of what is gone.
    """
    import pkcs11  # noqa: PLC0415

    from p11host.tokens.failure import explain  # noqa: PLC0415
    from p11host.tokens.find import find_objects, find_token, shown, uri_of  # noqa: PLC0415
    from p11host.tokens.login import log_in, opened, wants_login  # noqa: PLC0415

    with reaching(config, uri) as shim:
        token = find_token(shim, uri)
        with opened(token, rw=True) as session:
            if wants_login(token):
                log_in(session, uri)
            found = find_objects(session, uri)
            names = [str(uri_of(token, each)) for each in found]
            _check(shown(uri), names, every=every)
            confirm(f"Delete {_listed(names)}?", yes=yes)
            gone: list[str] = []
            for each, name in zip(found, names, strict=True):
                try:
                    each.destroy()
                except pkcs11.PKCS11Error as error:
                    done = f"; deleted before it: {', '.join(gone)}" if gone else ""
                    raise P11HostError(f"{name}: {explain(error)}{done}") from error
                gone.append(name)
    tell({"deleted": gone}, "\n".join(gone), as_json=as_json)


def _check(uri: str, names: list[str], *, every: bool) -> None:
    if not names:
        raise NotFoundError(f"{uri}: names no object; see what there is with: p11host list --uri --login")
    if len(names) > 1 and not every:
        raise NotFoundError(
            f"{uri}: names {len(names)} objects; add type=…, object=… or id=…, or --all for all of them"
        )


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else "\n".join([f"these {len(names)} objects:", *names, "All"])
