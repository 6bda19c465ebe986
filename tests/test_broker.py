"""The broker: what applications get from it, how it begins and how it ends."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from brokers import (
    PATIENCE,
    ROOT,
    Broker,
    Starter,
    module,
    raw_door,
    start_application,
    stop_application,
    through,
)
from elf import Library

from p11host.listen import listen
from p11host.wire import RefusedError, RemoteError

pytest_plugins = ["broker_fixtures"]


class TestAttach:
    """PROTOCOL.md section 6: attach and open."""

    def test_every_module_has_a_helper(self, broker: Broker) -> None:
        """Each module comes with the door of a helper of its own, in the order of the configuration."""
        first, second = broker.attach()

        assert ("one", "two") == (first.name, second.name)
        with through(first) as one, through(second) as two:
            assert ("one", "two") == (one.hello.module, two.hello.module)
            assert one.hello.pid != two.hello.pid

    def test_a_helper_serves_calls(self, broker: Broker) -> None:
        """What comes out of the broker's door is a working helper."""
        first, second = broker.attach()
        with through(first) as one, through(second):
            rv, (count, slots) = one.call("C_GetSlotList", [False, [True, 64]], PATIENCE)

            assert (0, count) == (rv, len(slots))
            assert 0 == one.call("C_GetInfo", [True], PATIENCE)[0]

    def test_two_applications_share_no_helper(self, broker: Broker) -> None:
        """Login state is a helper's, so two doors never lead to the same one."""
        with through(broker.attach()[0]) as mine, through(broker.attach()[0]) as yours:
            assert mine.hello.pid != yours.hello.pid

    def test_deadlines_and_fork(self, starter: Starter, provider: Path) -> None:
        """The shim is told a module's deadlines and what it does after fork."""
        own = module("own", provider, fork="strict", deadlines={"short": 5, "long": 7})
        default, other = starter.start(module("default", provider) + own).attach()

        assert ("reinit", 60000, 600000) == (default.fork, default.short, default.long)
        assert ("strict", 5, 7) == (other.fork, other.short, other.long)

    def test_priority_orders_slots(self, starter: Starter, provider: Path) -> None:
        """A module of higher priority comes first; equal ones come as they are written."""
        config = module("a", provider) + module("b", provider, priority=7) + module("c", provider)

        assert ["b", "a", "c"] == [each.name for each in starter.start(config).attach()]

    def test_a_bad_module_harms_only_itself(self, starter: Starter, provider: Path, tmp_path: Path) -> None:
        """A module whose file is no provider comes with the reason in place of a door; the others work."""
        wrong = Library("C_Other").write(tmp_path / "wrong.so")
        broker = starter.start(module("wrong", wrong) + module("right", provider))
        bad, good = broker.attach()

        assert bad.door is None
        assert "does not define C_GetFunctionList" in str(bad.error)
        with through(good) as channel:
            assert "right" == channel.hello.module

    def test_a_missing_provider_may_come_back(self, starter: Starter, provider: Path, tmp_path: Path) -> None:
        """A provider that is installed later is found without the broker being restarted."""
        late = tmp_path / "late.so"
        broker = starter.start(module("late", late))

        assert "no such file" in str(broker.attach()[0].error)
        shutil.copy(provider, late)
        with through(broker.attach()[0]) as channel:
            assert "late" == channel.hello.module

    def test_a_missing_helper_is_said(self, starter: Starter, provider: Path, tmp_path: Path) -> None:
        """A helper that cannot be started is an error of the module, and the broker goes on."""
        program = tmp_path / "not-executable"
        program.write_text("#!/bin/sh\n")
        broker = starter.start(module("one", provider), helper=program)

        assert "cannot be started" in str(broker.attach()[0].error)
        assert broker.is_alive()

    def test_a_long_reason_fits_the_shim(self, starter: Starter) -> None:
        """A reason never exceeds the room that the shim has for texts."""
        broker = starter.start(module("one", Path("/" + "/".join(["d" * 200] * 10))))

        assert 255 >= len(str(broker.attach()[0].error).encode()) > 200

    def test_a_provider_that_fails_says_so(
        self, starter: Starter, provider: Path, fake_program: Path
    ) -> None:
        """A helper that says hello with an error is reported with its text."""
        config = module("one", provider, env={"FAKE_ERROR": "the card is asleep"})
        attached = starter.start(config, helper=fake_program).attach()[0]

        with pytest.raises(RemoteError, match="the card is asleep"):
            through(attached)

    def test_open_begins_a_new_life(self, broker: Broker) -> None:
        """`open` gives a helper that is not the one before."""
        with broker.channel() as channel:
            first, second = (channel.open_module("two", PATIENCE) for _ in range(2))
        with through(first) as one, through(second) as two:
            assert ("two", "two") == (one.hello.module, two.hello.module)
            assert one.hello.pid != two.hello.pid
            status = broker.status()

        (application,) = status["applications"]
        assert [1, 2] == [each["generation"] for each in application["helpers"]]
        assert [(0, 0), (2, 0)] == [(each["started"], each["died"]) for each in status["modules"]]

    def test_an_unknown_module_is_refused(self, broker: Broker) -> None:
        """A name that is not in the configuration is refused with the names that are; the channel stays."""
        with broker.channel() as channel:
            with pytest.raises(RefusedError, match=r"no \[module\.nope\].*one, two"):
                channel.open_module("nope", PATIENCE)

            assert broker.process.pid == channel.call("status", [{}], PATIENCE)["pid"]

    def test_a_disabled_module_is_refused(self, starter: Starter, provider: Path) -> None:
        """A disabled module is not attached, and opening it is refused with the key that says so."""
        broker = starter.start(module("off", provider, enabled=False) + module("on", provider))
        with broker.channel() as channel:
            assert ["on"] == [each.name for each in channel.attach(PATIENCE)]
            with pytest.raises(RefusedError, match=r"module\.off\.enabled is false"):
                channel.open_module("off", PATIENCE)

    def test_status_names_applications(self, broker: Broker) -> None:
        """`status` names the process that attached and the helpers that run for it."""
        first, second = broker.attach()
        with through(first) as one, through(second) as two:
            status = broker.status()

        (application,) = status["applications"]
        helpers = application["helpers"]
        assert (os.getpid(), "test") == (application["pid"], application["program"])
        assert ["one", "two"] == [each["module"] for each in helpers]
        assert [one.hello.pid, two.hello.pid] == [each["pid"] for each in helpers]
        assert [str(broker.config)] == status["config"]
        assert ["one", "two"] == [each["name"] for each in status["modules"]]

    def test_status_counts_deaths(self, broker: Broker) -> None:
        """Of each module it is told how many helpers there were, and how many of them ended out of order."""
        with broker.channel() as channel:
            ended, died = (channel.open_module("two", PATIENCE) for _ in range(2))
            with through(died) as one:
                os.kill(one.hello.pid or 0, signal.SIGKILL)
                broker.wait_event("helper.ended", pid=one.hello.pid, signal="SIGKILL")
            with through(ended) as one:
                pid = one.hello.pid
            broker.wait_event("helper.ended", pid=pid, status=0)
            status = broker.status()

        assert [(0, 0), (2, 1)] == [(each["started"], each["died"]) for each in status["modules"]]


class TestConfiguration:
    """The configuration is read again when it has changed."""

    def test_a_new_module_is_seen(self, broker: Broker, provider: Path) -> None:
        """A module that is added is attached from then on."""
        broker.config.write_text(module("three", provider))

        assert ["three"] == [each.name for each in broker.attach()]
        assert "three" == broker.wait_event("config.read")["modules"]

    def test_a_broken_change_does_not_count(self, broker: Broker) -> None:
        """A file that is wrong is reported, and what was right before goes on."""
        broker.config.write_text("[module.one]\npfad = 1\n")

        assert ["one", "two"] == [each.name for each in broker.attach()]
        assert "p11host.toml:1: module.one.path: missing" in broker.wait_event("config.refused")["problem"]


class TestLife:
    """How a broker begins and ends."""

    def test_a_second_one_gives_way(self, broker: Broker, starter: Starter) -> None:
        """A second broker at the same socket says so; one started on demand leaves quietly."""
        words = ["--config", str(broker.config), "--socket", str(broker.socket)]
        loud = starter.popen(words, {"P11HOST_HELPER": str(starter.helper)})
        quiet = starter.popen([*words, "--on-demand"], {"P11HOST_HELPER": str(starter.helper)})

        assert (
            f"runs there already (pid {broker.process.pid})".encode() in loud.communicate(timeout=PATIENCE)[1]
        )
        assert 1 == loud.returncode
        assert b"" == quiet.communicate(timeout=PATIENCE)[1]
        assert 0 == quiet.returncode
        assert broker.is_alive()

    def test_of_many_at_once_one_serves(self, starter: Starter, provider: Path, tmp_path: Path) -> None:
        """However many are started at once, one listens and the others leave."""
        config = tmp_path / "p11host.toml"
        config.write_text(module("one", provider))
        path = tmp_path / "run" / "broker.sock"
        words = ["--on-demand", "--config", str(config), "--socket", str(path)]
        processes = [starter.popen(words, {"P11HOST_HELPER": str(starter.helper)}) for _ in range(4)]
        broker = Broker(processes[0], path, config)
        left = [process for process in processes if _leaves(process)]

        assert 3 == len(left)
        broker.process = next(process for process in processes if process not in left)
        assert broker.is_alive()

    def test_idle(self, starter: Starter, provider: Path) -> None:
        """A broker on demand stays while an application has a helper, and ends when there is none."""
        broker = starter.start("[broker]\nidle = 0\n" + module("one", provider), "--on-demand")
        with raw_door(broker):
            application = start_application(broker)
            assert application.stdout is not None
            assert b"attached\n" == application.stdout.readline()
        stop_application(application)

        broker.wait_event("helper.ended", module="one")
        broker.wait_event("broker.idle")
        assert 0 == broker.process.wait(PATIENCE)
        assert not broker.socket.exists()

    def test_stale_socket(self, broker: Broker, starter: Starter, provider: Path) -> None:
        """The socket of a broker that was killed is no obstacle to the next."""
        broker.process.kill()
        broker.process.wait(PATIENCE)
        assert broker.socket.exists()

        assert starter.start(module("one", provider)).is_alive()

    def test_socket_is_private(self, broker: Broker) -> None:
        """Nobody else may connect, nor put a socket in its place."""
        assert 0o600 == broker.socket.stat().st_mode & 0o777
        assert 0o700 == broker.socket.parent.stat().st_mode & 0o777

    def test_socket_activation(self, starter: Starter, provider: Path, tmp_path: Path) -> None:
        """A socket that systemd listens on is served, and left to systemd at the end."""
        (tmp_path / "config.toml").write_text(module("one", provider))
        path = tmp_path / "run" / "activated.sock"
        listener = listen(path)
        number = listener.socket.fileno()
        words = ["-m", "p11host", "serve", "--log-format", "json", "--config", str(tmp_path / "config.toml")]
        process = subprocess.Popen(
            [sys.executable, "-c", _ACTIVATE, str(number), sys.executable, *words],
            env=os.environ | {"PYTHONPATH": str(ROOT), "P11HOST_HELPER": str(starter.helper)},
            pass_fds=[number],
            stderr=subprocess.PIPE,
        )
        starter.started.append(process)
        broker = Broker(process, path, tmp_path / "config.toml")

        assert broker.is_alive()
        assert 0 == broker.end()
        assert path.exists()
        listener.close()


# Becomes a program as systemd starts one for a socket.
_ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.argv[2], sys.argv[2:])
"""


def _leaves(process: subprocess.Popen[bytes]) -> bool:
    """Tell whether a broker that was started ends by itself, rather than saying that it listens."""
    assert process.stderr is not None
    return process.stderr.readline() == b"" and process.wait(PATIENCE) == 0
