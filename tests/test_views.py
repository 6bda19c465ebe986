"""Which modules an application sees: by choice, by its program, and by who it is."""

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from application import Shim
from brokers import PATIENCE, Broker, Starter, module
from cryptoki import struct
from life import Host, hosted

from p11host import shim_path
from p11host.client import Attached, Door
from p11host.peer import hidden, identify
from p11host.view import Peer, Rule, View
from p11host.wire import RefusedError

pytest_plugins = ["broker_fixtures", "life_fixtures"]

ME = os.geteuid()
NOBODY = 65534
EXE = str(Path(sys.executable).resolve())
PYTHON = Path(EXE).name


# ---- what a view says ----


def who(
    *names: str, uid: int = 1000, groups: tuple[int, ...] = (1000,), exe: tuple[int, int] | None = None
) -> Peer:
    """Return somebody."""
    return Peer(uid, frozenset(groups), names, exe)


@pytest.mark.parametrize(
    ("view", "names", "chosen", "seen"),
    [
        (View(), (), False, True),
        (View(enable_in=("ssh",)), ("ssh",), False, True),
        (View(enable_in=("ssh",)), ("python3", "ssh"), False, True),
        (View(enable_in=("ssh",)), ("ssh-add",), True, False),
        (View(enable_in=()), ("ssh",), False, False),
        (View(enable_in=("p11-kit-proxy",)), ("ssh",), False, True),
        (View(disable_in=("ssh",)), ("ssh",), False, False),
        (View(disable_in=("ssh",)), ("ssh",), True, False),
        (View(disable_in=("ssh",)), ("curl",), False, True),
        (View(disable_in=()), ("curl",), False, True),
        (View(disable_in=("p11-kit-proxy",)), ("ssh",), False, False),
        (View(disable_in=("p11-kit-proxy",)), ("ssh",), True, True),
        (View(enable_in=("ssh",), disable_in=("ssh",)), ("ssh",), False, True),
    ],
)
def test_programs(view: View, names: tuple[str, ...], chosen: bool, seen: bool) -> None:  # noqa: FBT001
    """Lists of programs mean what they mean to p11-kit, whose proxy we stand for unless one is chosen."""
    assert seen == (hidden(view, who(*names), chosen=chosen) is None)


def test_rules(tmp_path: Path) -> None:
    """A rule fits who has all it names; deny comes first; what cannot be known allows nothing, and denies."""
    program = tmp_path / "program"
    program.touch()
    file = (program.stat().st_dev, program.stat().st_ino)
    rule = Rule(exe=str(program))

    assert hidden(View(allow=(Rule(uid=7),)), who(uid=1000), chosen=False)
    assert None is hidden(View(allow=(Rule(uid=7), Rule(uid=1000))), who(uid=1000), chosen=False)
    assert None is hidden(View(allow=(Rule(gid=27),)), who(groups=(1000, 27)), chosen=False)
    assert hidden(View(allow=(Rule(uid=1000, gid=27),)), who(), chosen=False)
    assert None is hidden(View(allow=(rule,)), who(exe=file), chosen=False)
    assert hidden(View(allow=(rule,)), who(exe=(0, 0)), chosen=False)
    assert hidden(View(allow=(rule,)), who(exe=None), chosen=False)
    assert hidden(View(allow=(Rule(uid=1000),), deny=(Rule(gid=1000),)), who(), chosen=False)
    assert hidden(View(deny=(rule,)), who(exe=None), chosen=False)
    assert None is hidden(View(deny=(rule,)), who(exe=(0, 0)), chosen=False)
    assert None is hidden(View(deny=(Rule(exe=str(tmp_path / "absent")),)), who(exe=(0, 0)), chosen=False)


def test_who_a_process_is() -> None:
    """A process is the file that it runs, not what it calls itself; one that has ended is nobody."""
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    found = Path(EXE).stat()

    me = identify(os.getpid(), ME, frozenset([0]), "ssh")
    gone = identify(child, ME, frozenset(), "ssh")

    assert ((PYTHON, "ssh"), (found.st_dev, found.st_ino)) == (me.names, me.exe)
    assert (("ssh",), None) == (gone.names, gone.exe)


# ---- the broker ----


@pytest.fixture
def views(starter: Starter, provider: Path) -> Broker:
    """Return a broker with a module for each sort of view."""
    modules: dict[str, dict[str, list[Any]]] = {
        "open": {},
        "for-us": {"enable-in": ["other", PYTHON]},
        "for-others": {"enable-in": ["ssh"]},
        "not-for-us": {"disable-in": [PYTHON]},
        "never-merged": {"disable-in": ["p11-kit-proxy"]},
        "my-user": {"allow": [Inline(uid=ME, exe=EXE)]},
        "my-group": {"allow": [Inline(gid=os.getegid())]},
        "another-user": {"allow": [Inline(uid=ME + 1)]},
        "another-program": {"allow": [Inline(exe="/usr/bin/env")]},
        "denied": {"deny": [Inline(exe=EXE)]},
    }
    return starter.start("".join(table(name, provider, keys) for name, keys in modules.items()))


class Inline(dict[str, Any]):
    """A table in braces."""

    def __str__(self) -> str:
        return "{ " + ", ".join(f"{key} = {value!r}" for key, value in self.items()) + " }"


def table(name: str, provider: Path, keys: dict[str, list[Any]]) -> str:
    """Return a module's table."""
    text = {
        key: ", ".join(str(each) if isinstance(each, Inline) else f'"{each}"' for each in keys[key])
        for key in keys
    }
    return module(name, provider) + "".join(f"{key} = [{value}]\n" for key, value in text.items())


def test_the_broker_decides(views: Broker) -> None:
    """Who attaches gets what is for it, by the kernel's word; the others are as if they were not there."""
    assert ["open", "for-us", "my-user", "my-group"] == [each.name for each in detached(views)]


def detached(broker: Broker) -> list[Attached]:
    """Attach, and close what there is to close."""
    seen = broker.attach()
    for each in seen:
        assert each.door is not None
        os.close(each.door)
    return seen


REFUSED = {
    "for-others": "enable-in does not name this program",
    "not-for-us": "disable-in names this program",
    "another-user": "allow has no rule for this process",
    "another-program": "allow has no rule for this process",
    "denied": "deny has a rule for this process",
    "nosuch": r"no \[module.nosuch\] in the configuration",
}


def test_one_by_name(views: Broker) -> None:
    """Nobody gets by its name what it may not see: neither at first nor later."""
    with views.channel() as channel:
        for name, reason in REFUSED.items():
            for method in ("attach", "open"):
                with pytest.raises(RefusedError, match=reason):
                    channel.call(method, [{"module": name}], PATIENCE)


def test_one_alone(views: Broker) -> None:
    """Who asks for one by its name gets that one, also one that is in no merged list."""
    with views.channel() as channel:
        for name in ("my-user", "never-merged"):
            assert [name] == [
                each["name"] for each in channel.call("attach", [{"module": name}], PATIENCE)["modules"]
            ]


@pytest.mark.skipif(ME != 0, reason="needs root, to be another user")
def test_users_apart(starter: Starter, provider: Path) -> None:
    """A broker for all users shows each what rules give to whoever connected, whatever it is by now."""
    modules = {
        "theirs": {"allow": [Inline(uid=NOBODY)]},
        "of-a-group": {"allow": [Inline(gid=NOBODY)]},
        "roots": {"allow": [Inline(uid=0)]},
        "not-theirs": {"deny": [Inline(uid=NOBODY)]},
    }
    text = "".join(table(name, provider, keys) for name, keys in modules.items())
    broker = starter.start(text, everybody=True)
    with as_nobody(broker) as door, door.open("test", PATIENCE) as channel:
        seen = channel.call("attach", [{}], PATIENCE)["modules"]
        known = channel.call("status", [{}], PATIENCE)["modules"]
        with pytest.raises(RefusedError, match="only root and the broker's own user"):
            channel.call("reload", [{}], PATIENCE)

    assert ["theirs", "of-a-group"] == [each["name"] for each in seen] == [each["name"] for each in known]
    assert ["roots", "not-theirs"] == [each.name for each in detached(broker)]
    assert list(modules) == [each["name"] for each in broker.status()["modules"]]


def as_nobody(broker: Broker) -> Door:
    """Connect as another user, by way of a directory that it could not find."""
    directory = os.open(broker.socket.parent, os.O_PATH | os.O_DIRECTORY)
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        return Door.of_broker(Path(f"/proc/self/fd/{directory}/{broker.socket.name}"), PATIENCE)
    finally:
        os.seteuid(ME)
        os.setegid(0)
        os.setgroups(groups)
        os.close(directory)


# ---- the shim ----


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, odd: Path) -> Iterator[Host]:
    """Return a broker with three modules, of one, two and three slots."""
    modules = [module(name, odd, env={"ODD_SLOTS": slots}) for name, slots in zip("abc", "123", strict=True)]
    with hosted(tmp_path_factory.mktemp("three"), *modules) as host:
        yield host


def count(*wishes: list[str | None]) -> list[Any]:
    """Tell for each value of P11HOST_MODULE and of pReserved how many slots there are, or the CK_RV."""
    shim = Shim()
    return [count_with(shim, *wish) for wish in wishes]


def count_with(shim: Shim, variable: str | None, reserved: str | None) -> Any:
    """Live once, and tell how many slots there are, here and in a child."""
    if variable is not None:
        os.environ["P11HOST_MODULE"] = variable
    text = None if reserved is None else ctypes.create_string_buffer(reserved.encode())
    arguments = struct("CK_C_INITIALIZE_ARGS")(flags=2)
    arguments.pReserved = None if text is None else ctypes.addressof(text)
    rv = shim.rv("C_Initialize", ctypes.byref(arguments))
    if rv != "CKR_OK":
        return rv
    os.environ["P11HOST_MODULE"] = "changed"
    child = os.fork()
    if not child:
        os._exit(len(shim.slots()))
    found = [len(shim.slots()), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]
    shim.must("C_Finalize", None)
    return found


def link(directory: Path, name: str) -> dict[str, str]:
    """Return the environment in which the shim is loaded by a link of that name."""
    (directory / name).symlink_to(shim_path())
    return {"P11HOST_SHIM": str(directory / name)}


def test_by_environment(three: Host, tmp_path: Path) -> None:
    """P11HOST_MODULE names one module, for children too; one that there is not is an error, never all."""
    wishes = [[None, None], ["", None], ["b", None], ["nosuch", None], ["b" * 65, None]]

    expected = [[6, 6], [6, 6], [2, 2], "CKR_GENERAL_ERROR", "CKR_GENERAL_ERROR"]
    assert expected == three.play(count, *wishes, env=link(tmp_path, "p11host-.so"))


def test_by_link(three: Host, tmp_path: Path) -> None:
    """A link p11host-NAME.so shows that module; the environment counts more."""
    assert [[3, 3], [2, 2]] == three.play(
        count, [None, None], ["b", None], env=link(tmp_path, "p11host-c.so")
    )


def test_by_argument(three: Host) -> None:
    """C_Initialize's pReserved counts most; what is neither NULL nor such a string is CKR_ARGUMENTS_BAD."""
    wrong = ["", "module=", "modul", "slot=1", "module=" + "b" * 65]

    assert [[1, 1], "CKR_GENERAL_ERROR"] == three.play(count, ["b", "module=a"], ["b", "module=nosuch"])
    assert ["CKR_ARGUMENTS_BAD"] * len(wrong) == three.play(count, *([None, each] for each in wrong))
