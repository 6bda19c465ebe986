"""The socket a broker listens on: whose it is, and that there is one."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from p11host.errors import BrokerError
from p11host.listen import BusyError, Listener, listen, passed_by_systemd


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where to listen."""
    return tmp_path / "run" / "broker.sock"


@contextlib.contextmanager
def listening(path: Path) -> Iterator[Listener]:
    """Listen, and stop."""
    listener = listen(path)
    try:
        yield listener
    finally:
        listener.close()


def test_modes(path: Path) -> None:
    """The directory is made for its owner alone, whatever the umask, and so is the socket."""
    before = os.umask(0)
    with listening(path):
        os.umask(before)

        assert 0o700 == path.parent.stat().st_mode & 0o777
        assert 0o600 == path.stat().st_mode & 0o777
    assert not path.exists()


def test_for_everybody(path: Path) -> None:
    """A system's socket may be reached by everybody and replaced by nobody."""
    listener = listen(path, everybody=True)

    assert 0o755 == path.parent.stat().st_mode & 0o777
    assert 0o666 == path.stat().st_mode & 0o777
    listener.close()


def test_credentials_come_with_the_first_message(path: Path) -> None:
    """A message that is sent before the connection is accepted tells its sender all the same."""
    with listening(path) as listener, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(str(path))
        client.send(b"x")
        accepted, _ = listener.socket.accept()
        with accepted:
            _, ancillary, _, _ = accepted.recvmsg(1, 100)

    assert [socket.SCM_CREDENTIALS] == [kind for _, kind, _ in ancillary]
    assert os.getpid().to_bytes(4, "little") == ancillary[0][2][:4]


def test_others_may_write_to_the_directory(path: Path) -> None:
    """A directory in which somebody else could put a socket is refused with the remedy."""
    path.parent.mkdir()
    for mode in (0o770, 0o707, 0o777):
        path.parent.chmod(mode)
        with pytest.raises(BrokerError, match=f"others may write to it; run: chmod go-w {path.parent}"):
            listen(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a directory away")
def test_the_directory_is_somebody_elses(path: Path) -> None:
    """A directory of another user's is refused with whose it is."""
    path.parent.mkdir(mode=0o700)
    os.chown(path.parent, 65534, 65534)
    with pytest.raises(BrokerError, match=r"belongs to uid 65534, not to you \(uid 0\)"):
        listen(path)


def test_the_directory_is_none(path: Path, tmp_path: Path) -> None:
    """A link or a file in the directory's place is refused: whoever made it could change it."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    path.parent.symlink_to(elsewhere)
    with pytest.raises(BrokerError, match="not a directory"):
        listen(path)
    path.parent.unlink()
    path.parent.touch()
    with pytest.raises(BrokerError, match="cannot be made: File exists"):
        listen(path)


def test_one_at_a_time(path: Path) -> None:
    """Who holds the socket is told by pid, and gives it back at the end."""
    with listening(path), pytest.raises(BusyError, match=rf"runs there already \(pid {os.getpid()}\)"):
        listen(path)
    with listening(path):
        assert path.exists()


def test_stale(path: Path) -> None:
    """A socket that nobody listens at is replaced."""
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(path))
    with listening(path), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(str(path))


@pytest.mark.parametrize("kind", [socket.SOCK_SEQPACKET, socket.SOCK_STREAM])
def test_another_program_listens(path: Path, kind: socket.SocketKind) -> None:
    """A socket that somebody serves is left to him."""
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(BrokerError, match="another program listens there"):
            listen(path)

        assert path.exists()


def test_something_else_is_in_the_way(path: Path) -> None:
    """A file is never removed."""
    path.parent.mkdir(mode=0o700)
    path.write_text("precious")
    with pytest.raises(BrokerError, match="in the way and not a socket"):
        listen(path)

    assert "precious" == path.read_text()


def test_only_its_own_name_is_removed(path: Path) -> None:
    """A socket that took the place of ours meanwhile stays."""
    with listening(path):
        path.unlink()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
            other.bind(str(path))
    assert path.exists()


def test_not_for_this_process() -> None:
    """What systemd passed to another process is none of ours; the word of it is taken away."""
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x"}

    assert passed_by_systemd(environ) is None
    assert {} == environ
    assert passed_by_systemd({}) is None


@pytest.mark.parametrize("count", ["x", "-1", "1.0", "9" * 5000])
def test_no_number_from_systemd(count: str, path: Path) -> None:
    """A count of sockets that is none ends a broker with one line, before it closes anything."""
    serving = [sys.executable, "-m", "p11host", "serve", "--socket", str(path)]
    script = 'LISTEN_PID=$$ exec "$@"'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *serving],
        env=os.environ | {"LISTEN_FDS": count},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (1, "") == (done.returncode, done.stdout)
    said = f"p11host: LISTEN_FDS is {count[:20]!r}, which is no number; unset it, systemd sets it itself\n"
    assert said == done.stderr


def test_too_many_from_systemd() -> None:
    """A unit with several sockets is wrong, and told so."""
    with pytest.raises(BrokerError, match="systemd passed 2 sockets"):
        passed_by_systemd({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"})
