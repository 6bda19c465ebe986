"""`p11host serve`: the broker as a process: its descriptors, signals, socket and log.

Knows how a broker comes into being. What it does then is p11host.broker's.
"""

import os
import signal
import sys
from pathlib import Path

import click

from p11host.cli.options import config_option, socket_option


@click.command()
@config_option
@socket_option
@click.option("--on-demand", is_flag=True, help="End when nobody needed it for a while; leave quietly if one runs.")
@click.option("--system", is_flag=True, help="Serve every user of this machine, at /run/p11host/broker.sock.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@click.option("--until-eof", is_flag=True, hidden=True, help="End when standard input ends.")
def serve(  # noqa: PLR0913 (one parameter an option)
    *,
    config: Path | None,
    socket: Path | None,
    on_demand: bool,
    system: bool,
    log_format: str,
    log_level: str,
    until_eof: bool,
) -> None:
    """Run the broker: it starts a helper for each application and module, and says what they do.

    Usually nobody types this: the library starts a broker where none runs.
    """
    import asyncio  # noqa: PLC0415

    from p11host import helper_path, log  # noqa: PLC0415
    from p11host.broker import Broker, Settings  # noqa: PLC0415
    from p11host.config import choose  # noqa: PLC0415
    from p11host.listen import BusyError, listen, passed_by_systemd  # noqa: PLC0415
    from p11host.reload import Configuration  # noqa: PLC0415

    let_go(keep=int(os.environ.get("LISTEN_FDS", "0") or 0))
    log.configure("json" if log_format == "json" else "text", log_level)
    configuration = Configuration(choose(config))
    settings = Settings(helper_path(), everybody=system, idle_ends=on_demand)
    path = choose_socket(socket, configuration.current().socket, system=system)
    try:
        listener = passed_by_systemd(os.environ) or listen(path, everybody=system)
    except BusyError:
        if on_demand:
            return
        raise
    os.chdir("/")
    asyncio.run(_serve(Broker(listener, configuration, settings), until_eof=until_eof))


async def _serve() -> None: ...
