"""Options that several commands have, with one wording."""

from pathlib import Path

import click

_PATH = click.Path(path_type=Path)

config_option = click.option(
    "--config",
    type=_PATH,
    metavar="FILE",
    help="Use this configuration alone, not the user's and the system's.  [env: P11HOST_CONFIG]",
)
socket_option = click.option(
    "--socket",
    type=_PATH,
    metavar="PATH",
    help="Where the broker listens.  [env: P11HOST_SOCKET]",
)


def complete_module(ctx: click.Context, param: click.Parameter, begun: str) -> list[str]:
    """Return the names of modules that begin so, for a shell; none where the configuration is wrong."""
    from p11host.config import choose, load  # noqa: PLC0415
    from p11host.errors import P11HostError  # noqa: PLC0415

    del param
    try:
        modules = load(choose(ctx.params.get("config"))).modules
    except (P11HostError, OSError):
        return []
    return [module.name for module in modules if module.name.startswith(begun)]


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
