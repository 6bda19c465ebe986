"""A helper as the broker makes it: what it is born with, and how its end is seen."""

import errno
import os
import re
import signal
from pathlib import Path

import pytest
from brokers import (
    PATIENCE,
    Broker,
    Starter,
    module,
    start_application,
    stop_application,
    through,
)

from p11host import helper_path
from p11host.client import Door
from p11host.config import choose, load
from p11host.helper import Confined, spawn
from p11host.throwaway import softhsm
from p11host.wire import ClosedError

pytest_plugins = ["broker_fixtures"]


class TestHelper:
    """What a helper is born with and how its end is seen."""

    def test_environment_is_rebuilt(self, starter: Starter, provider: Path, fake_program: Path) -> None:
        """A helper sees its module's variables and the few it needs of the broker's, and no other."""
        environ = {"SECRET": "x", "LC_TIME": "C", "LD_PRELOAD": "", "P11HOST_CONFIG": "x", "TZ": "UTC"}
        config = module("one", provider, env={"OWN": "a b", "TZ": "Asia/Tokyo"})
        broker = starter.start(config, environ=environ, helper=fake_program)
        with through(broker.attach()[0]) as channel:
            data = Path(f"/proc/{channel.hello.pid}/environ").read_bytes().decode()
        found = dict(entry.split("=", 1) for entry in data.split("\0") if entry)
        kept = {"PATH", "HOME", "USER", "LOGNAME", "LANG", "XDG_RUNTIME_DIR"} & set(os.environ)

        assert {"OWN": "a b", "TZ": "Asia/Tokyo", "LC_TIME": "C"}.items() <= found.items()
        languages = {name for name in os.environ if name.startswith("LC_")}
        assert kept | languages | {"OWN", "TZ", "LC_TIME"} == set(found)

    def test_command_line(self, starter: Starter, provider: Path, fake_program: Path) -> None:
        """What the configuration says of threads and events stands there; C_Initialize's string must not."""
        config = module("one", provider, threads=1, reserved="slots=2 x")
        broker = starter.start(config, helper=fake_program)
        with through(broker.attach()[0]) as channel:
            words = Path(f"/proc/{channel.hello.pid}/cmdline").read_bytes().decode().split("\0")

        expected = ["--serialize", "--profile", "6", "--slate", "5", "--trace", "9", "--interval", "1000"]
        expected += ["--door", "3", "--module", "one"]
        assert [*expected, str(provider)] == words[2:-1]

    def test_reserved_string(self, starter: Starter, provider: Path, fake_program: Path) -> None:
        """The string for C_Initialize is in the helper's environment, unchanged; others cannot read it."""
        reserved = "configdir='sql:/a b' certPrefix='' password=\"ä\""
        broker = starter.start(module("one", provider, reserved=reserved), helper=fake_program)
        with through(broker.attach()[0]) as channel:
            data = Path(f"/proc/{channel.hello.pid}/environ").read_bytes().decode()

        assert f"P11HOST_RESERVED={reserved}" in data.split("\0")

    def test_descriptors(self, starter: Starter, provider: Path, fake_program: Path) -> None:
        """A helper has its door and standard streams that are nobody else's, in a session of its own."""
        broker = starter.start(module("one", provider), helper=fake_program)
        with Door.of_helper(broker.attach()[0].door or -1) as door, door.open("test", PATIENCE) as channel:
            pid = channel.hello.pid or 0
            links = {each.name: str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()}
            session = os.getsid(pid)

        assert pid == session
        assert "/dev/null" == links["0"] == links["1"]
        assert links["2"].startswith("pipe:")
        # Its door, the channel that was opened, both ways, its slate, its profile, and where it hears who
        # watches its calls. A real one closes some of them.
        assert ["0", "1", "2", "3", "4", "5", "6", "7", "9"] == sorted(links)

    def test_signals(self, starter: Starter, provider: Path, tmp_path: Path) -> None:
        """A helper starts with no signal ignored or blocked, whatever the broker was started with."""
        program = tmp_path / "tell"
        program.write_text("#!/bin/sh\ngrep -E '^Sig(Blk|Ign)' /proc/self/status >&2\n")
        program.chmod(0o755)
        before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        broker = starter.start(module("one", provider), helper=program)
        signal.signal(signal.SIGUSR1, before)
        os.close(broker.attach()[0].door or -1)

        lines = [broker.wait_event("helper.stderr")["line"] for _ in range(2)]
        masks = {name: int(mask, 16) for name, mask in (line.split(":") for line in lines)}

        # The C library's own two signals are not for programs to see.
        assert {"SigBlk": 0, "SigIgn": 0} == {name: mask & ~(3 << 31) for name, mask in masks.items()}

    def test_limit_of_descriptors(self, starter: Starter, provider: Path, fake_program: Path) -> None:
        """A helper has the limit of descriptors that the broker was started with, not the broker's own."""
        broker = starter.start(module("one", provider), helper=fake_program, limits="ulimit -Sn 123")
        with through(broker.attach()[0]) as channel:
            limits = Path(f"/proc/{channel.hello.pid}/limits").read_text()

        assert re.search(r"Max open files\s+123\s", limits)

    def test_standard_error_is_logged(self, starter: Starter, provider: Path, fake_program: Path) -> None:
        """Each line a helper writes is an event with its module and pid, whatever bytes it has."""
        config = module("one", provider, env={"FAKE_STDERR": "hello \u001b[31m\nlast"})
        broker = starter.start(config, helper=fake_program)
        with through(broker.attach()[0]) as channel:
            pid = channel.hello.pid

        assert "hello \x1b[31m" == broker.wait_event("helper.stderr", module="one", pid=pid)["line"]
        assert "last" == broker.wait_event("helper.stderr", module="one", pid=pid)["line"]

    def test_the_end_is_logged(self, starter: Starter, provider: Path, fake_program: Path) -> None:
        """An exit code is reported, and the application sees its door end."""
        config = module("one", provider, env={"FAKE_EXIT": "3"})
        broker = starter.start(config, helper=fake_program)
        attached = broker.attach()[0]

        assert 3 == broker.wait_event("helper.ended", module="one")["status"]
        with pytest.raises(ClosedError):
            through(attached)

    def test_a_signal_is_logged(self, broker: Broker) -> None:
        """A helper that is killed is reaped and reported by the signal's name; the others go on."""
        first, second = broker.attach()
        with through(first) as one, through(second) as two:
            os.kill(int(one.hello.pid or 0), signal.SIGKILL)

            assert "SIGKILL" == broker.wait_event("helper.ended", pid=one.hello.pid)["signal"]
            with pytest.raises(ClosedError):
                one.call("C_GetInfo", [True], PATIENCE)
            assert 0 == two.call("C_GetInfo", [True], PATIENCE)[0]

    def test_ends_when_the_application_lets_go(self, broker: Broker) -> None:
        """A helper ends by itself, and well, once nobody holds its door or a channel."""
        application = start_application(broker)
        assert application.stdout is not None
        assert b"attached\n" == application.stdout.readline()
        assert 1 == len(broker.status()["applications"])
        stop_application(application)

        assert 0 == broker.wait_event("helper.ended")["status"]
        assert 0 == broker.wait_event("helper.ended")["status"]
        assert [] == broker.status()["applications"]

    def test_outlives_the_broker(self, broker: Broker) -> None:
        """A running application does not notice that the broker ends, however it ends."""
        first, second = broker.attach()
        with through(first) as one, through(second):
            assert 0 == broker.end()
            assert not broker.socket.exists()

            assert 0 == one.call("C_GetInfo", [True], PATIENCE)[0]

    def test_outlives_a_killed_broker(self, broker: Broker) -> None:
        """Nor does it notice when the broker is killed."""
        first, second = broker.attach()
        with through(first) as one, through(second):
            broker.process.kill()
            broker.process.wait(PATIENCE)

            assert 0 == one.call("C_GetInfo", [True], PATIENCE)[0]

    def test_nobody_could_see_it_end(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """One that cannot be watched, for there are no descriptors left, is ended and leaves no zombie."""
        file = tmp_path / "p11host.toml"
        file.write_text(module("one", softhsm()))
        asked: list[int] = []

        def refuse(pid: int) -> int:
            asked.append(pid)
            raise OSError(errno.EMFILE, "no more")

        monkeypatch.setattr("os.pidfd_open", refuse)
        with pytest.raises(OSError, match="no more"):
            spawn(helper_path(), load(choose(file)).modules[0], (1024, 1024), Confined())

        assert 1 == len(asked)
        with pytest.raises(ChildProcessError):
            os.waitpid(asked[0], os.WNOHANG)
