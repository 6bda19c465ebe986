"""Spare helpers: the next application's, started while the one before is served."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from brokers import Broker, Starter, module, start_application, stop_application, through
from elf import Library
from life import has_ended

from p11host import helper_path
from p11host.client import Door
from p11host.config import Module, choose, load
from p11host.helper import Confined, Spawned, spawn
from p11host.sandbox.confine import Kept
from p11host.sandbox.resolve import resolve
from p11host.spares import Spare, Spares, Stamp
from p11host.throwaway import softhsm
from p11host.wire import RemoteError

pytest_plugins = ["broker_fixtures"]

DEBUG = ("--log-level", "debug")
#: How a helper ends that cannot load its provider and has nobody to tell.
UNFIT = 101


def spare_pid(broker: Broker) -> int:
    """Return the pid of the helper that waits from now on."""
    return int(broker.wait_event("helper.spare")["pid"])


def attached_pid(broker: Broker) -> int:
    """Attach and return the helper's pid."""
    with through(broker.attach()[0]) as channel:
        return channel.hello.pid or 0


class TestBroker:
    """When a spare helper is used, and when it is not."""

    def test_next_application_gets_it(self, starter: Starter, provider: Path) -> None:
        """A second application is given the helper that was started after the first one's."""
        broker = starter.start(module("one", provider), *DEBUG)
        attached_pid(broker)
        waiting = spare_pid(broker)

        assert waiting == attached_pid(broker)
        assert waiting == broker.wait_event("helper.started", pid=waiting)["pid"]

    def test_belongs_to_nobody_until_then(self, starter: Starter, provider: Path) -> None:
        """`status` does not show a helper that waits, and an idle broker ends in spite of it."""
        broker = starter.start(module("one", provider) + "[broker]\nidle = 0\n", *DEBUG, "--on-demand")
        application = start_application(broker)
        waiting = spare_pid(broker)
        helpers = [helper["pid"] for each in broker.status()["applications"] for helper in each["helpers"]]
        stop_application(application)

        assert 1 == len(helpers)
        assert waiting not in helpers
        broker.wait_event("broker.idle")
        assert has_ended(waiting)
        assert 0 == broker.process.wait()

    def test_other_configuration(self, starter: Starter, provider: Path) -> None:
        """A helper that was started for what the configuration said before is not used, and ends."""
        broker = starter.start(module("one", provider), *DEBUG)
        attached_pid(broker)
        waiting = spare_pid(broker)
        broker.config.write_text(module("one", provider, env={"OTHER": "yes"}))

        assert waiting != attached_pid(broker)
        assert has_ended(waiting)

    def test_other_file(self, starter: Starter, provider: Path) -> None:
        """A helper that loaded what the provider's file was before is not used, and ends."""
        broker = starter.start(module("one", provider), *DEBUG)
        attached_pid(broker)
        waiting = spare_pid(broker)
        shutil.copy(provider, provider.with_suffix(".new"))
        provider.with_suffix(".new").replace(provider)

        assert waiting != attached_pid(broker)
        assert has_ended(waiting)

    def test_one_that_died(self, starter: Starter, provider: Path) -> None:
        """The next application gets a helper that lives, if one died while it waited."""
        broker = starter.start(module("one", provider), *DEBUG)
        attached_pid(broker)
        waiting = spare_pid(broker)
        os.kill(waiting, 9)
        assert has_ended(waiting)

        assert waiting != attached_pid(broker)
        assert "SIGKILL" == broker.wait_event("helper.ended", pid=waiting)["signal"]

    def test_none_where_it_is_not_wanted(self, starter: Starter, provider: Path) -> None:
        """With `spare = false` no helper is started that nobody asked for."""
        config = module("one", provider, spare=False) + module("two", provider)
        broker = starter.start(config, *DEBUG)
        for attached in broker.attach():
            through(attached).close()

        # Those of one answer are made ready in its order.
        assert "two" == broker.wait_event("helper.spare")["module"]

    def test_end_with_the_broker(self, starter: Starter, provider: Path) -> None:
        """A helper that waits ends when its broker does, however that ends."""
        broker = starter.start(module("one", provider), *DEBUG)
        attached_pid(broker)
        waiting = spare_pid(broker)
        broker.process.kill()

        assert has_ended(waiting)


class TestHelper:
    """What a spare helper has done, and what not."""

    def test_provider_has_had_no_call(self, tmp_path: Path) -> None:
        """A provider is not initialised before somebody opens a channel; that it cannot be is said then."""
        config = module("one", softhsm(), env={"SOFTHSM2_CONF": str(tmp_path / "none")})
        with (
            waiting(config, tmp_path) as spawned,
            Door.of_helper(os.dup(spawned.door.fileno())) as door,
            pytest.raises(RemoteError, match="C_Initialize answered"),
        ):
            door.open()

    def test_ends_with_its_door(self, tmp_path: Path) -> None:
        """It ends well when nobody can open a channel any more."""
        with waiting(module("one", softhsm()), tmp_path) as spawned:
            spawned.door.close()
            assert 0 == exit_code(spawned)

    def test_stopped(self, tmp_path: Path) -> None:
        """A spare helper that stands still is killed when it is dropped: it would not hear of it."""
        with waiting(module("one", softhsm()), tmp_path) as spawned:
            stopped(spawned, tmp_path).spares.clear()
            assert signal.SIGKILL == exit_code(spawned)

    def test_stopped_and_of_another_configuration(self, tmp_path: Path) -> None:
        """One that stands still is killed as well where it is not what would be started now."""
        with waiting(module("one", softhsm()), tmp_path) as spawned:
            found = stopped(spawned, tmp_path)
            assert found.spares.take(replace(found.module, threads=1), found.stamp) is None
            assert signal.SIGKILL == exit_code(spawned)

    def test_unfit_provider(self, tmp_path: Path) -> None:
        """With a provider that cannot be loaded it does not wait."""
        provider = Library("C_Other").write(tmp_path / "other.so")
        with waiting(module("one", provider), tmp_path) as spawned:
            assert UNFIT == exit_code(spawned)


@contextmanager
def waiting(config: str, directory: Path) -> Iterator[Spawned]:
    """Start a spare helper, as the broker does it."""
    file = directory / "p11host.toml"
    file.write_text(config)
    spawned = spawn(helper_path(), load(choose(file)).modules[0], (1024, 1024), Confined(), spare=True)
    try:
        yield spawned
    finally:
        spawned.door.close()
        os.close(spawned.pidfd)
        os.close(spawned.stderr)
        spawned.trace.close()


@dataclass(frozen=True, slots=True)
class Stopped:
    """A spare helper that stands still: who keeps it, and what it was made of."""

    spares: Spares
    module: Module
    stamp: Stamp


def stopped(spawned: Spawned, directory: Path) -> Stopped:
    """Keep a helper, and stop it."""
    one = load(choose(directory / "p11host.toml")).modules[0]
    kept = Stopped(Spares(), one, ((), Kept(one, resolve(one, {}), (), b"")))
    kept.spares.keep(Spare(one, kept.stamp, spawned))
    os.kill(spawned.pid, signal.SIGSTOP)
    os.waitid(os.P_PIDFD, spawned.pidfd, os.WSTOPPED)
    return kept


def exit_code(spawned: Spawned) -> int:
    """Wait for the helper's end."""
    ended = os.waitid(os.P_PIDFD, spawned.pidfd, os.WEXITED)
    assert ended is not None
    return ended.si_status
