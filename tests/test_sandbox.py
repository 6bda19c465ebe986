"""What a provider may do: attempts inside a real helper, most of which must fail."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from application import Shim
from brokers import module
from life import Host, Workshop, hosted

pytest_plugins = ["life_fixtures"]

O_CREATE = os.O_WRONLY | os.O_CREAT
VENDOR = 0x80000000
#: CLONE_NEWUSER, CLONE_NEWNS; a signal that does nothing.
NEW_USER, NEW_NS = 0x10000000, 0x20000
#: What else each of them could do, no provider needs them.
FORBIDDEN = (
    *("acct /", "add_key /user /x /y 1 -1", "bpf 0 0 0", "chroot /", "clone3 0 0", "delete_module /x 0"),
    *("finit_module 0 / 0", "init_module 0 0 /", "io_uring_setup 1 0", "kexec_load 0 0 0 0", "keyctl 0 -1 0"),
    *("mount / / / 0 0", "move_mount 0 / 0 / 0", "open_by_handle_at 0 0 0", "open_tree 0 / 0"),
    *("perf_event_open 0 0 0 0 0", "pidfd_getfd 0 0 0", "pidfd_send_signal 0 0 0 0", "pivot_root / /"),
    *("quotactl 0 / 0 0", "reboot 0 0 0 0", "request_key /user /x 0 0", "seccomp 0 0 0", "setns 0 0"),
    *("settimeofday 0 0", "setuid 0", "shmget 0 1 0600", "swapon / 0", "syslog 3 0 0", "tkill 1 0"),
    *("umount2 / 0", f"unshare {NEW_USER}", f"unshare {NEW_NS}", "userfaultfd 0", "vhangup"),
    *(
        "setpriority 0 0 1",
        "personality 0x40000",
        "prctl 4 1 0 0 0",
        "fcntl 0 8 1",
        "process_vm_writev 1 0 0 0 0 0",
    ),
    *(f"clone {NEW_USER | 17} 0 0 0 0", "clone 17 0 0 0 0", ":fork", ":exec /bin/true", "execve / 0 0"),
    *(
        "execveat -1 / 0 0 0",
        "socketpair 1 2 0 1",
        "socket 17 3 0",
        "socket 2 2 0",
        "socket 10 1 0",
        "socket 1 1 0",
    ),
    *("socket 16 3 0", "socket 38 5 0", "socket 40 1 0"),
)


def attempts(*wishes: str) -> list[str]:
    """Have the provider try each; return "" for each that succeeded, else the name of its errno."""
    shim = Shim()
    session = shim.begin()
    return [attempt(shim, session, wish) for wish in wishes]


def attempt(shim: Shim, session: int, wish: str) -> str:
    """Have the provider try one thing."""
    seed = wish.encode()
    rv = shim.call("C_SeedRandom", session, seed, len(seed))
    assert rv == 0 or rv & VENDOR, f"{wish}: {rv:#x}"
    return errno.errorcode[rv & ~VENDOR] if rv else ""


@pytest.fixture(scope="module")
def attempter(workshop: Workshop) -> Path:
    """Return the provider that tries what it is told."""
    return workshop.provider("attempt")


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, attempter: Path) -> Iterator[Host]:
    """Return a broker with the provider as one that nobody knows."""
    with hosted(tmp_path_factory.mktemp("strict"), module("strict", attempter)) as host:
        yield host


# ---- the strict default ----


def test_forbidden_calls(strict: Host) -> None:
    """No privileges, namespaces, processes or programs; nothing of the kernel's, of others or the network."""
    found = dict(zip(FORBIDDEN, strict.play(attempts, *FORBIDDEN), strict=True))

    assert {} == {wish: how for wish, how in found.items() if how not in ("EPERM", "ENOSYS")}


def test_others_are_out_of_reach(strict: Host) -> None:
    """The application, the broker and everybody else cannot be signalled, traced or read."""
    with strict.playing(attempt_upon_me) as application:
        assert {"EPERM"} == set(application.report())


def attempt_upon_me() -> list[str]:
    """Have the provider turn against its application, and against its parent."""
    wishes = [
        "kill {} 0",
        "kill {} 15",
        "tgkill {0} {0} 0",
        "ptrace 16 {} 0 0",
        "process_vm_readv {} 0 0 0 0 0",
    ]
    return attempts(*(wish.format(pid) for pid in (os.getpid(), os.getppid(), 1) for wish in wishes))


def test_ordinary_work(strict: Host) -> None:
    """Threads, signals to itself, pairs of sockets and the system's libraries are there for everybody."""
    ordinary = [":thread", ":open 0 /usr/lib/os-release", ":open 0 /dev/urandom", ":open 1 /dev/null"]
    wishes = [*ordinary, ":open 0 /proc/self/status", "prctl 15 /name 0 0 0", ":allocate 64"]

    assert [""] * len(wishes) == strict.play(attempts, *wishes)


def test_files_outside(strict: Host, tmp_path: Path) -> None:
    """What no profile names can be neither read, listed, changed, made, moved nor removed; not even here."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    places = (secret, tmp_path, "/etc/shadow", "/root", "/home", "/proc/1/environ", "/dev/tty")
    opens = [f":open 0 {path}" for path in places]
    writes = [
        f":open {O_CREATE} {tmp_path}/new",
        f":open 1 {secret}",
        f"unlink {secret}",
        f"truncate {secret} 0",
    ]
    moves = [f"rename {secret} {tmp_path}/there", f"mkdir {tmp_path}/dir 0700", f"symlink /x {tmp_path}/link"]
    moves += [f"link {secret} {tmp_path}/link", f":open {O_CREATE} /tmp/p11host-attempt"]
    found = strict.play(attempts, *opens, *writes, *moves, ":use /dev/null")

    # The last is a device that all may use; it has no such request.
    assert [*["EACCES"] * (len(found) - 1), "ENOTTY"] == found
    assert ["secret"] == [path.name for path in tmp_path.iterdir()]
    assert "secret" == secret.read_text()
