"""`p11host serve`."""

from pathlib import Path

import click

from p11host.cli.options import config_option, socket_option


@click.command(short_help="Run the broker.")
@config_option
@socket_option
@click.option(
    "--on-demand", is_flag=True, help="End when nobody needed it for a while; leave quietly if one runs."
)
@click.option("--system", is_flag=True, help="Serve every user of this machine.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error", "off"]),
    default="info",
    show_default=True,
)
@click.option(
    "--private", is_flag=True, hidden=True, help="End with standard input and remove the socket's directory."
)
@click.option(
    "--learn",
    type=(str, click.Path(path_type=Path)),
    default=None,
    hidden=True,
    help="Write to a file what a module would be denied, and do not deny it.",
)
def serve(**options: object) -> None:
    """Run the broker: it starts a helper for each application and module, and says what they do.

    Usually nobody types this: the library starts a broker where none runs.
    """
    from p11host.daemon import Options, run  # noqa: PLC0415 (asyncio and pydantic, which no other command needs)

    run(Options(**options))  # type: ignore[arg-type]  # click checked them
