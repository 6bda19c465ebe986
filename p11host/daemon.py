"""The broker as a process: what it inherits, its socket, its signals, and how it says that it is ready.

Knows the process it runs in. What a broker does is p11host.broker's.
"""

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from p11host import helper_path, log
from p11host.broker import Broker, Settings
from p11host.config import choose
from p11host.listen import BusyError, Listener, count_passed, listen, passed_by_systemd
from p11host.paths import SYSTEM_SOCKET, socket_path
from p11host.pins import Pins, ask_on_terminal, sources
from p11host.reload import Configuration
from p11host.sandbox.learn import Learner

_FIRST_FREE = 3


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says; None where it says nothing."""

    config: Path | None = None
    socket: Path | None = None
    on_demand: bool = False
    system: bool = False
    private: bool = False
    learn: tuple[str, Path] | None = None
    log_format: log.Format = "text"
    log_level: str = "info"


def run(options: Options) -> None:
    """Serve until told to end. An on-demand broker that finds another one listening leaves it to that."""
    let_go()
    log.configure(options.log_format, options.log_level)
    configuration = Configuration(choose(options.config))
    learner = Learner(*options.learn) if options.learn else None
    settings = Settings(
        helper_path(),
        everybody=options.system,
        idle_ends=options.on_demand,
        spares=learner is None,
        learner=learner,
    )
    path = _socket(options, configuration)
    try:
        listener = passed_by_systemd(os.environ) or listen(path, everybody=options.system)
    except BusyError:
        if options.on_demand:
            return
        raise
    os.chdir("/")
    pins = Pins()
    pins.ask(
        sources((each.name, each.pin_source) for each in configuration.current().enabled), ask_on_terminal
    )
    try:
        asyncio.run(_serve(listener, configuration, settings, pins, private=options.private))
    finally:
        pins.wipe()
    if options.private:
        _remove(path)


def let_go() -> None:
    """Close what was inherited, but for standard streams and systemd's socket; see our children end."""
    passed = count_passed(os.environ)
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < _FIRST_FREE:
        os.set_inheritable(descriptor, True)  # noqa: FBT003 (its only form)
    os.close(descriptor)
    os.closerange(_FIRST_FREE + passed, os.sysconf("SC_OPEN_MAX"))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _socket(options: Options, configuration: Configuration) -> Path:
    """Return where to listen: as the command line says, the environment, the configuration, or by rule."""
    if options.socket is not None:
        return options.socket.absolute()
    configured = configuration.current().socket
    if os.environ.get("P11HOST_SOCKET") or configured is None:
        return SYSTEM_SOCKET if options.system and not os.environ.get("P11HOST_SOCKET") else socket_path()
    return configured


async def _serve(
    listener: Listener, configuration: Configuration, settings: Settings, pins: Pins, *, private: bool
) -> None:
    broker = Broker(listener, configuration, settings, pins)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, broker.stop)
    if private:
        loop.add_reader(0, _stop_at_end, broker)
    _say_ready()
    await broker.run()


def _stop_at_end(broker: Broker) -> None:
    if not os.read(0, 1024):
        asyncio.get_running_loop().remove_reader(0)
        broker.stop()


def _say_ready() -> None:
    """Tell systemd, or whoever started us, that connections are taken."""
    if not os.environ.get("NOTIFY_SOCKET"):
        return
    from sdnotify import SystemdNotifier  # noqa: PLC0415

    notifier = SystemdNotifier()
    notifier.notify("READY=1")
    if notifier.socket is not None:
        notifier.socket.close()
    del os.environ["NOTIFY_SOCKET"]


def _remove(path: Path) -> None:
    """Remove a private broker's directory, unless somebody put something into it."""
    with contextlib.suppress(OSError):
        path.with_name(path.name + ".lock").unlink(missing_ok=True)
        path.parent.rmdir()
