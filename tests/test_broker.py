"""The broker: what applications get from it, and what none of them can do to it."""

import contextlib
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import PATIENCE, ROOT, Broker, Starter, module, raw_door, through
from elf import Library

from p11host.client import Door
from p11host.limits import limits
from p11host.listen import listen
from p11host.scan import control_frame
from p11host.wire import PROTOCOL, ClosedError, Hello, LocalError, RefusedError, RemoteError, encode

pytest_plugins = ["broker_fixtures"]

HELLO = encode(Hello(PROTOCOL, 8, 0, program="test").message(), control_frame())
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")


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
        own = module("own", provider, fork="inherit", deadlines={"short": 5, "long": 0})
        default, other = starter.start(module("default", provider) + own).attach()

        assert ("reinit", 60000, 600000) == (default.fork, default.short, default.long)
        assert ("inherit", 5, 0) == (other.fork, other.short, other.long)

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

        helpers = [{"module": "one", "pid": one.hello.pid}, {"module": "two", "pid": two.hello.pid}]
        assert [{"pid": os.getpid(), "program": "test", "helpers": helpers}] == status["applications"]
        assert [str(broker.config)] == status["config"]
        assert ["one", "two"] == [each["name"] for each in status["modules"]]


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
        """What the configuration says of threads and C_Initialize's reserved argument reaches the helper."""
        config = module("one", provider, threads=1, reserved="slots=2 x")
        broker = starter.start(config, helper=fake_program)
        with through(broker.attach()[0]) as channel:
            words = Path(f"/proc/{channel.hello.pid}/cmdline").read_bytes().decode().split("\0")

        expected = ["--serialize", "--reserved", "slots=2 x", "--door", "3", "--module", "one", str(provider)]
        assert expected == words[2:-1]

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
        # The last is the channel that was opened.
        assert ["0", "1", "2", "3", "4"] == sorted(links)

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
        application = _start_application(broker)
        assert application.stdout is not None
        assert b"attached\n" == application.stdout.readline()
        assert 1 == len(broker.status()["applications"])
        _stop_application(application)

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


class TestDoor:
    """PROTOCOL.md section 2: what is no channel is dropped with its descriptors; the door stays usable."""

    @pytest.mark.parametrize(
        ("body", "descriptors", "why"),
        [
            pytest.param(HELLO + b"\xc0", 1, "bytes after", id="bytes after the hello"),
            pytest.param(HELLO[:-1], 1, "cut short", id="truncated hello"),
            pytest.param(b"", 1, "cut short", id="no body"),
            pytest.param(b"\x91" * 1000 + b"\xc0", 1, "nesting", id="nested"),
            pytest.param(b"\xdd\xff\xff\xff\xff", 1, "array of 4294967295", id="a claimed array"),
            pytest.param(b"\xc6\xff\xff\xff\xff", 1, "byte string of 4294967295", id="claimed bytes"),
            pytest.param(HELLO.replace(b"\x01", b"\xcf" + b"\x80" + bytes(7)), 1, "", id="protocol 2^63"),
            pytest.param(HELLO.ljust(1025, b"\xc0"), 1, "longer than 1024", id="oversized hello"),
            pytest.param(HELLO, 0, "no descriptors", id="no descriptor"),
            pytest.param(HELLO, 2, "2 descriptors", id="two descriptors"),
            pytest.param(HELLO, 200, "2 descriptors", id="200 descriptors"),
            pytest.param(b"", 0, "no descriptors", id="nothing at all"),
            pytest.param(b"\x93\x02\xa3bye\x91\x80", 1, "no hello", id="another notification"),
            pytest.param(b"\x94\x00\x01\xa5hello\x91\x80", 1, "no hello", id="a request"),
            pytest.param(b"\x93\x02\xa5hello\x91\x80", 1, "without protocol", id="hello without protocol"),
            pytest.param(b"\x93\x02\xa5hello\x90", 1, "one map", id="hello without a map"),
        ],
    )
    def test_is_dropped(self, broker: Broker, body: bytes, descriptors: int, why: str) -> None:
        """A message that is no hello with one descriptor changes nothing for the next."""
        with raw_door(broker) as door:
            ends = [socket.socketpair() for _ in range(descriptors)]
            socket.send_fds(door, [body], [theirs.fileno() for _, theirs in ends])
            for _, theirs in ends:
                theirs.close()
            for mine, _ in ends:
                mine.settimeout(PATIENCE)
                with mine:
                    assert (why == "") == (b"hello" in _read_all(mine))
            if why:
                assert why in broker.wait_event("door.dropped")["error"]

            _assert_usable(door)
        assert broker.is_alive()

    @pytest.mark.parametrize("kind", ["file", "datagram", "listening", "inet", "door"])
    def test_other_descriptors_are_dropped(self, broker: Broker, kind: str) -> None:
        """A descriptor that is no connected stream socket of this machine opens nothing."""
        with raw_door(broker) as door:
            for descriptor in _descriptors(kind):
                socket.send_fds(door, [HELLO], [descriptor])

            assert "a descriptor that is no" in broker.wait_event("door.dropped")["error"]
            _assert_usable(door)

    def test_a_flood_is_no_flood_in_the_log(self, broker: Broker) -> None:
        """Of a thousand bad messages some are logged, and the door still works."""
        with raw_door(broker) as door:
            for _ in range(1000):
                door.send(b"x")
            _assert_usable(door)
        counts = [broker.wait_event("door.dropped")["count"] for _ in range(10)]

        assert [1 << exponent for exponent in range(10)] == counts

    def test_channels_of_one_door_are_limited(self, broker: Broker) -> None:
        """Channels beyond the limit are closed; others' doors and this one's earlier channels go on."""
        most = limits().channels
        with raw_door(broker) as door, contextlib.ExitStack() as stack, _many_descriptors(2 * most):
            kept = [stack.enter_context(_raw_channel(door)) for _ in range(most)]
            mine, theirs = socket.socketpair()
            with theirs:
                socket.send_fds(door, [HELLO], [theirs.fileno()])

            with mine:
                assert b"" == _read_all(mine)
            assert "too many channels" in broker.wait_event("door.dropped")["error"]
            kept[0].sendall(b"\x94\x00\x01\xa6status\x91\x80")
            assert kept[0].recv(4).startswith(b"\x94\x01\x01\xc0")
            assert broker.is_alive()

    def test_another_protocol_is_told(self, broker: Broker) -> None:
        """A caller of another protocol gets a hello that says so, and then the end."""
        mine, theirs = socket.socketpair()
        with raw_door(broker) as door, mine:
            with theirs:
                body = encode(Hello(2, 8, 0).message(), control_frame())
                socket.send_fds(door, [body], [theirs.fileno()])
            mine.settimeout(PATIENCE)

            assert b"the broker speaks protocol 1, the caller 2" in _read_all(mine)

    @needs_root
    def test_another_user_is_refused(self, broker: Broker) -> None:
        """A broker serves its own user and root, whatever the mode of its socket."""
        broker.socket.chmod(0o666)
        with _reachable(broker) as path:
            assert b"" == _as_nobody(path)
        assert "another user" == broker.wait_event("door.refused")["reason"]

    @needs_root
    def test_a_system_broker_serves_all(self, starter: Starter, provider: Path) -> None:
        """A system broker's socket is open to everybody, and shows nobody the applications of another."""
        broker = starter.start(module("one", provider), everybody=True)
        with through(broker.attach()[0]), _reachable(broker) as path:
            answer = _as_nobody(path)

        assert b"applications\x90" in answer
        assert 0o666 == broker.socket.stat().st_mode & 0o777
        assert 1 == len(answer.split(b"\xa3one")) - 1


class TestChannel:
    """PROTOCOL.md sections 1 and 7: a peer's fault is told to it and ends its channel, nothing else."""

    @pytest.mark.parametrize(
        ("data", "code", "why"),
        [
            (b"\xc1", "malformed", "never uses"),
            (b"\xca\x00\x00\x00\x00", "malformed", "floating point"),
            (b"\xd4\x01\x00", "malformed", "extension"),
            (b"\x94\xc2\x01\xa6status\x91\x80", "malformed", "not a message"),
            (b"\x94\x00\xcf\x80\0\0\0\0\0\0\0\xa6status\x91\x80", "malformed", "below 2"),
            (b"\x94\x00\xff\xa6status\x91\x80", "malformed", "below 2"),
            (b"\x94\x00\x01\xa6status\x90", "malformed", "one map"),
            (b"\x94\x00\x01\xa6status\x91\x90", "malformed", "one map"),
            (b"\x94\x00\x01\xa6status\x91\x81\x90\xc0", "malformed", ""),
            (b"\x94\x00\x01\xa6stat\xff\xff\x91\x80", "malformed", "utf-8"),
            (b"\x94\x00\x01\xa4open\x91\x80", "malformed", "needs a module"),
            (b"\x94\x00\x01\xa4open\x91\x81\xa6module\xcf\x80" + bytes(7), "malformed", "needs a module"),
            (b"\x94\x00\x01\xa4open\x91\x81\xa6module\xd9\x41" + b"m" * 65, "malformed", "needs a module"),
            (b"\x94\x01\x01\xc0\xc0", "malformed", "no question"),
            (b"\x94\x00\x01\xd9\x41" + b"m" * 65 + b"\x90", "limit", "longer than 64"),
            (b"\x94\x00\x01\xa4open\xdd\xff\xff\xff\xff", "limit", "array of 4294967295"),
            (b"\x94\x00\x01\xa4open\xdf\xff\xff\xff\xff", "limit", "array of 4294967295"),
            (b"\x94\x00\x01\xa4open\x91\xc6\xff\xff\xff\xff", "limit", "byte string of 4294967295"),
            (b"\x91" * 64, "limit", "nesting"),
            (b"\x94\x00\x01\xa4open\x9f" + (b"\xc5\x04\x00" + bytes(1024)) * 15, "limit", "message of"),
        ],
    )
    def test_bad_bytes(self, broker: Broker, data: bytes, code: str, why: str) -> None:
        """Bytes that are no request are answered with whose fault they are, and the channel closes."""
        with raw_door(broker) as door, _raw_channel(door) as channel:
            channel.sendall(data)
            answer = _read_all(channel)

        assert code.encode() in answer
        assert why.encode() in answer
        assert broker.is_alive()

    def test_unknown_method(self, broker: Broker) -> None:
        """A method nobody knows is answered so, and the channel stays."""
        with broker.channel() as channel:
            with pytest.raises(
                LocalError, match="unknown: no method 'C_Sign'; known are attach, open, status"
            ):
                channel.call("C_Sign", [{}], PATIENCE)

            assert channel.call("status", [{}], PATIENCE)

    def test_notifications_and_unknown_keys_are_ignored(self, broker: Broker) -> None:
        """What may be added later does no harm today."""
        with raw_door(broker) as door, _raw_channel(door) as channel:
            channel.sendall(b"\x93\x02\xa3any\x91\x80" + b"\x94\x00\x07\xa6status\x91\x81\xa3new\x01")

            assert channel.recv(4).startswith(b"\x94\x01\x07\xc0")

    def test_requests_in_a_row(self, broker: Broker) -> None:
        """Requests sent before their answers are read are answered in their order."""
        with raw_door(broker) as door, _raw_channel(door) as channel:
            channel.sendall(b"".join(b"\x94\x00" + bytes([n]) + b"\xa1x\x90" for n in range(100)))
            channel.shutdown(socket.SHUT_WR)
            answers = _read_all(channel)

        assert [bytes([n]) for n in range(100)] == re.findall(
            rb"\x94\x01(.)\x92\xa7unknown", answers, re.DOTALL
        )

    def test_a_peer_that_never_reads(self, broker: Broker) -> None:
        """A peer that asks and never reads holds up only itself."""
        with raw_door(broker) as door, _raw_channel(door) as channel:
            channel.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                while channel.send(b"\x94\x00\x01\xa6status\x91\x80" * 100):
                    pass

            assert broker.is_alive()

    def test_a_peer_that_makes_its_end_block(self, broker: Broker) -> None:
        """The broker never blocks on a descriptor whose flags the peer can change."""
        mine, theirs = socket.socketpair()
        with raw_door(broker) as door, mine, theirs:
            socket.send_fds(door, [HELLO], [theirs.fileno()])
            theirs.settimeout(None)
            mine.sendall(b"\x94\x00\x01\xa6status\x91\x80" * 4000)

            assert broker.is_alive()

    def test_a_peer_that_goes_while_it_waits(self, broker: Broker) -> None:
        """Doors that cannot be delivered are closed, and their helpers end."""
        with raw_door(broker) as door, _raw_channel(door) as channel:
            channel.sendall(b"\x94\x00\x01\xa6attach\x91\x80")

        broker.wait_event("helper.ended")
        broker.wait_event("helper.ended")
        assert broker.is_alive()


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
            application = _start_application(broker)
            assert application.stdout is not None
            assert b"attached\n" == application.stdout.readline()
        _stop_application(application)

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

_ATTACH_AND_WAIT = """
import sys
from pathlib import Path
from p11host.client import Door
with Door.of_broker(Path(sys.argv[1])) as door, door.open() as channel:
    channels = [Door.of_helper(module.door).open() for module in channel.attach()]
    print("attached", flush=True)
    sys.stdin.read()
"""

# Becomes another user, who can import nothing of ours, says hello, asks for the status and prints all.
_STRANGER = """
import os, socket, sys
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect(sys.argv[1])
mine, theirs = socket.socketpair()
try:
    socket.send_fds(sock, [bytes.fromhex(sys.argv[2])], [theirs.fileno()])
except BrokenPipeError:
    pass
theirs.close()
mine.sendall(b"\\x94\\x00\\x01\\xa6status\\x91\\x80") if mine.recv(1, socket.MSG_PEEK) else None
mine.shutdown(socket.SHUT_WR)
while data := mine.recv(4096):
    print(data.hex())
"""


def _start_application(broker: Broker) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _ATTACH_AND_WAIT, str(broker.socket)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def _stop_application(application: subprocess.Popen[bytes]) -> None:
    application.communicate(timeout=PATIENCE)
    assert 0 == application.returncode


def _as_nobody(path: Path) -> bytes:
    """Return what the broker at `path` says to another user's hello and status."""
    command = [sys.executable, "-c", _STRANGER, str(path), HELLO.hex()]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=True, cwd="/")
    return bytes.fromhex(done.stdout.decode())


@contextlib.contextmanager
def _reachable(broker: Broker) -> Iterator[Path]:
    """Give the broker's socket a name in a directory that everybody may enter."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        os.link(broker.socket, directory / "sock")
        yield directory / "sock"


@contextlib.contextmanager
def _raw_channel(door: socket.socket) -> Iterator[socket.socket]:
    """Open a channel through a door and read its hello."""
    mine, theirs = socket.socketpair()
    with mine:
        with theirs:
            socket.send_fds(door, [HELLO], [theirs.fileno()])
        mine.settimeout(PATIENCE)
        assert b"hello" in mine.recv(4096)
        yield mine


@contextlib.contextmanager
def _many_descriptors(count: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < count:
        pytest.skip(f"needs {count} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], count), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def _assert_usable(door: socket.socket) -> None:
    with _raw_channel(door):
        pass


def _read_all(sock: socket.socket) -> bytes:
    """Return what comes until the end, which must come."""
    data = b""
    with contextlib.suppress(ConnectionResetError):  # the peer closed before it had read all of ours
        while more := sock.recv(65536):
            data += more
    return data


def _descriptors(kind: str) -> Iterator[int]:
    """Yield a descriptor of a kind that is no channel, and close it."""
    if kind == "file":
        with tempfile.TemporaryFile() as file:
            yield file.fileno()
        return
    family, of = {
        "datagram": (socket.AF_UNIX, socket.SOCK_DGRAM),
        "listening": (socket.AF_UNIX, socket.SOCK_STREAM),
        "door": (socket.AF_UNIX, socket.SOCK_SEQPACKET),
        "inet": (socket.AF_INET, socket.SOCK_STREAM),
    }[kind]
    with socket.socket(family, of) as sock:
        if kind == "listening":
            sock.bind("")
            sock.listen()
        yield sock.fileno()


def _leaves(process: subprocess.Popen[bytes]) -> bool:
    """Tell whether a broker that was started ends by itself, rather than saying that it listens."""
    assert process.stderr is not None
    return process.stderr.readline() == b"" and process.wait(PATIENCE) == 0
