"""Token selectors: what may stand in a configuration, and what a helper shows of its slots then."""

import ctypes
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from application import Shim, in_child
from brokers import PATIENCE, module, through
from cryptoki import constant, struct
from life import Host, Hosting
from rack import Rack, Racks

from p11host import helper_path
from p11host.client import Channel, Door
from p11host.config import Config, choose, load
from p11host.config_told import told
from p11host.errors import ConfigError
from p11host.helper import DOOR, VIEW, Confined, Spawned, spawn
from p11host.limits import limits
from p11host.peer import hidden, selection
from p11host.selectors import Selection, pack, parse
from p11host.throwaway import Token
from p11host.uri import Uri
from p11host.view import Peer, Rule, View
from p11host.wire import RemoteError

pytest_plugins = ["life_fixtures"]

ME = os.geteuid()
SOFT = '[module.soft]\npath = "/usr/lib/soft.so"\n'


# ---- what may stand there ----


def read(directory: Path, text: str) -> Config:
    """Load a configuration of that text."""
    file = directory / "p11host.toml"
    file.write_text(text)
    return load(choose(file, {}))


def test_every_attribute(tmp_path: Path) -> None:
    """Selectors have all that RFC 7512 says of tokens and slots, and are shown as they were read."""
    uri = (
        "pkcs11:token=a%20b;manufacturer=m;serial=1;model=n;slot-manufacturer=o;slot-description=p;slot-id=7"
    )
    allow = 'allow = [{ uid = 1, tokens = ["pkcs11:token="] }]'
    text = f'tokens = ["{uri}"]\n{allow}\ndeny = [{{ tokens = ["{uri}"] }}]'

    view = read(tmp_path, SOFT + text).modules[0].view
    said = {each.key: (each.value, each.origin) for each in told(read(tmp_path, SOFT + text).modules[0])}

    assert (parse(uri),) == view.tokens == view.deny[0].tokens
    assert Rule(uid=1, tokens=(Uri(token=""),)) == view.allow[0]
    assert ([uri], f"{tmp_path}/p11host.toml:3") == said["tokens"]
    assert [{"uid": 1, "tokens": ["pkcs11:token="]}] == said["allow"][0]


EXPECTED = 'expected an array of at least one PKCS#11 URI, ["pkcs11:token=mine;serial=1"], not '
RULE = "expected an array of rules"
NOT_OF_SLOTS = (
    "says nothing of a token or slot; there are token, manufacturer, model, serial, slot-description, "
    "slot-manufacturer, slot-id"
)
FAULTS = [
    ('"pkcs11:token=a?pin-value=1234"', EXPECTED + "a string"),
    ("[]", EXPECTED + "an empty one"),
    ("[7]", EXPECTED + "an array"),
    ('["token=a"]', "token=a: a PKCS#11 URI begins with pkcs11: as in 'pkcs11:token=mine;object=key'"),
    ('["pkcs11:"]', "pkcs11:: names nothing, and so every slot; leave it out, or add token=…"),
    (
        '["pkcs11:tokne=a?pin-value=1234"]',
        "pkcs11:tokne=a: no attribute is called 'tokne'; did you mean 'token'?",
    ),
    (
        '["pkcs11:token=a", "pkcs11:object=a"]',
        f"pkcs11:object=a: 'object' {NOT_OF_SLOTS}",
    ),
    (
        '["pkcs11:token=a?pin-value=1234"]',
        f"pkcs11:token=a: 'pin-value' {NOT_OF_SLOTS}",
    ),
    (
        '["pkcs11:serial=12345678901234567"]',
        "pkcs11:serial=12345678901234567: 'serial' has at most 16 bytes in a token or slot; shorten it",
    ),
    ('["pkcs11:slot-id=x"]', "pkcs11:slot-id=x: slot-id 'x' is not a decimal number below 2^64"),
]


@pytest.mark.parametrize(("value", "fault"), FAULTS)
def test_faults(tmp_path: Path, value: str, fault: str) -> None:
    """What is no selector is refused with file, line, key and what to do; a PIN in it is not told."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, f"{SOFT}tokens = {value}\n")

    assert [f"{tmp_path}/p11host.toml:3: module.soft.tokens: {fault}"] == list(caught.value.problems)


def test_faults_in_rules(tmp_path: Path) -> None:
    """So it is in a rule; one with no selector in its array is no rule."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, SOFT + 'allow = [{ tokens = ["pkcs11:a=b"] }]\ndeny = [{ uid = 1, tokens = [] }]\n')
    one, two = caught.value.problems

    assert one.startswith(
        f"{tmp_path}/p11host.toml:3: module.soft.allow: pkcs11:a=b: no attribute is called 'a'"
    )
    assert two.startswith(f"{tmp_path}/p11host.toml:4: module.soft.deny: {RULE}")


def test_too_many(tmp_path: Path) -> None:
    """As many selectors as a helper would refuse are refused when the configuration is read."""
    uris = [f"pkcs11:slot-description={'x' * 60}{i:04}" for i in range(1000)]
    with pytest.raises(
        ConfigError, match=r"p11host.toml:1: module.soft: token selectors of \d+ bytes in all"
    ):
        read(tmp_path, f"{SOFT}tokens = {uris!r}\n")


# ---- who sees what ----

A, B, C = (Uri(token=name) for name in "abc")


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (View(), Selection()),
        (View(tokens=(A, B)), Selection(((A, B),))),
        (View(allow=(Rule(uid=1, tokens=(A,)), Rule(gid=2, tokens=(B,)))), Selection(((A, B),))),
        (View(allow=(Rule(uid=1, tokens=(A,)), Rule(uid=9, tokens=(B,)))), Selection(((A,),))),
        (View(allow=(Rule(uid=1, tokens=(A,)), Rule(gid=2))), Selection()),
        (View(tokens=(A, B), allow=(Rule(tokens=(B, C)),)), Selection(((A, B), (B, C)))),
        (
            View(deny=(Rule(uid=1, tokens=(A,)), Rule(uid=9, tokens=(B,)), Rule(tokens=(C,)))),
            Selection((), (A, C)),
        ),
        (View(allow=(Rule(exe="/x", tokens=(A,)), Rule(uid=1, tokens=(B,)))), Selection(((B,),))),
        (View(deny=(Rule(exe="/x", tokens=(A,)),)), Selection((), (A,))),
    ],
)
def test_rules(view: View, expected: Selection) -> None:
    """Who is allowed by several rules sees what any of them names; what deny names nobody sees whom it fits.

    Of an executable that cannot be known no rule of allow is, and each of deny.
    """
    peer = Peer(1, frozenset([2]), ("x",), None)

    assert None is hidden(view, peer, chosen=False)
    assert expected == selection(view, peer)


def test_deny_without_tokens_hides_all() -> None:
    """A rule of deny that names no tokens hides the module, whatever others name."""
    view = View(deny=(Rule(uid=1, tokens=(A,)), Rule(uid=1)))

    assert "deny has a rule for this process" == hidden(view, Peer(1, frozenset(), (), None), chosen=True)


# ---- what a helper shows ----

#: Two tokens of one name, a slot without one, one whose token cannot be told, and one of an odd number.
LAST, ON_THE_WIRE = 2**64 - 1, -1
RACK = (
    "1 alpha 11 left",
    "2 beta 22 left",
    "3 alpha 33 right",
    "4 - - right",
    "5 ! - left",
    f"{LAST} omega 99 odd",
)
IDS = [1, 2, 3, 4, 5, ON_THE_WIRE]
INVALID = constant("CKR_SLOT_ID_INVALID")


def tokens(*uris: str) -> dict[str, Any]:
    """Return a rule with selectors."""
    return {"tokens": [f"pkcs11:{uri}" for uri in uris]}


SHOWN: dict[str, tuple[dict[str, Any], list[int]]] = {
    "all": ({}, IDS),
    "label": (tokens("token=alpha"), [1, 3, 4]),
    "label-and-serial": (tokens("token=alpha;serial=33"), [3, 4]),
    "either": (tokens("serial=11", "serial=22"), [1, 2, 4]),
    "model": (tokens("manufacturer=rack;model=rack"), [1, 2, 3, 4, ON_THE_WIRE]),
    "slot": (tokens("slot-description=left"), [1, 2, 5]),
    "maker-of-slot": (tokens("slot-manufacturer=rack"), IDS),
    "slot-and-label": (tokens("slot-description=left;token=beta"), [2]),
    "number": (tokens("slot-id=5"), [5]),
    "last-number": (tokens(f"slot-id={LAST}"), [ON_THE_WIRE]),
    "no-label": (tokens("token=nosuch"), [4]),
    "part-of-a-label": (tokens("token=alph"), [4]),
    "blank-label": (tokens("token="), [4]),
    "no-slot": (tokens("slot-description=nosuch"), []),
    "for-me": (
        {"allow": [{"uid": ME, **tokens("token=beta")}, {"uid": ME + 1, **tokens("token=alpha")}]},
        [2, 4],
    ),
    "both": ({**tokens("slot-description=left"), "allow": [{"uid": ME, **tokens("token=beta")}]}, [2]),
    "denied": ({"deny": [tokens("token=alpha")]}, [2, 4, ON_THE_WIRE]),
    "denied-number": ({"deny": [tokens("slot-id=1")]}, IDS[1:]),
    "denied-others": ({"deny": [{"uid": ME + 1, **tokens("token=alpha")}]}, IDS),
}


def toml(value: object) -> str:
    """Return a value as TOML in one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(each)}" for key, each in value.items()) + " }"
    return "[" + ", ".join(map(toml, value)) + "]" if isinstance(value, list) else json.dumps(value)


def selecting(rack: Rack, name: str, keys: Mapping[str, Any]) -> str:
    """Return the table of a module with a rack and these keys."""
    table = replace(rack, file=rack.file).table().replace(f"[module.{rack.name}]", f"[module.{name}]")
    return table + "".join(f"{key} = {toml(value)}\n" for key, value in keys.items())


def ask(channel: Channel, function: str, params: Sequence[Any]) -> tuple[int, Any]:
    """Call a function of a helper; return its CK_RV and its output, if it has one."""
    rv, *outputs = channel.call(function, params, PATIENCE)
    return rv, outputs[0] if outputs else None


def attached(host: Host) -> Iterator[tuple[str, Channel]]:
    """Yield each module of a broker with a channel to its helper, which is closed then."""
    assert host.broker is not None
    with Door.of_broker(host.broker.socket, PATIENCE) as door, door.open("test", PATIENCE) as channel:
        for each in channel.attach(PATIENCE):
            with through(each) as own:
                yield each.name, own


#: What takes a slot, with its other arguments.
OF_SLOTS: dict[str, list[Any]] = {
    "C_GetSlotInfo": [True],
    "C_GetTokenInfo": [True],
    "C_GetMechanismList": [[False, 0]],
    "C_GetMechanismInfo": [0, True],
    "C_InitToken": [b"", b"".ljust(32)],
    "C_OpenSession": [4, True],
    "C_CloseAllSessions": [],
}


def refused(channel: Channel) -> list[set[int]]:
    """Return for each function that takes a slot of which it is CKR_SLOT_ID_INVALID."""
    return [
        {slot for slot in IDS if ask(channel, function, [slot, *more])[0] == INVALID}
        for function, more in OF_SLOTS.items()
    ]


def test_shown(hosting: Hosting, racks: Racks) -> None:
    """A helper lists the slots that its selectors leave; to each call that names another there is none.

    An empty slot is left where a token could come that is; what cannot be told is not.
    """
    rack = racks.make("rack", *RACK)
    host = hosting(*(selecting(rack, name, keys) for name, (keys, _) in SHOWN.items()))
    for name, channel in attached(host):
        expected = SHOWN[name][1]

        assert (name, (0, [len(expected), None])) == (
            name,
            ask(channel, "C_GetSlotList", [False, [False, 0]]),
        )
        assert (name, (0, [len(expected), expected])) == (
            name,
            ask(channel, "C_GetSlotList", [False, [True, 64]]),
        )
        with_token = [slot for slot in expected if slot != 4]
        assert (name, (0, [len(with_token), with_token])) == (
            name,
            ask(channel, "C_GetSlotList", [True, [True, 64]]),
        )
        assert (name, [set(IDS) - set(expected)] * len(OF_SLOTS)) == (name, refused(channel))


def test_a_slot_is_what_is_in_it_now(hosting: Hosting, racks: Racks) -> None:
    """A token that comes is shown or not as it is when a call asks, and so is one that takes its place."""
    rack = racks.make("rack", "1 - -", "2 alpha 1")
    seen = []
    for _, channel in attached(hosting(selecting(rack, "rack", tokens("token=alpha")))):
        for slots in ["1 - -", "2 alpha 1"], ["1 beta 1", "2 alpha 1"], ["1 alpha 1", "2 beta 1"], ["2 - -"]:
            rack.fill(*slots)
            seen.append(
                (ask(channel, "C_GetSlotList", [True, [True, 9]])[1][1], refused(channel)[0] & {1, 2})
            )

    assert [([2], set()), ([2], {1}), ([1], {2}), ([], {1})] == seen


def test_events_of_other_slots(hosting: Hosting, racks: Racks) -> None:
    """C_WaitForSlotEvent tells of no slot that is not shown, whether it may wait or not."""
    rack = racks.make("rack", *RACK, *(f"event {slot}" for slot in (2, 2, 1, 5, 4, 2, 3, 2)))
    told = []
    for _, channel in attached(hosting(selecting(rack, "rack", tokens("token=alpha")))):
        told = [ask(channel, "C_WaitForSlotEvent", [flags, True, None]) for flags in (1, 0, 0, 1)]

    assert [(0, 1), (0, 4), (0, 3), (constant("CKR_NO_EVENT"), None)] == told


def test_room_for_slots(hosting: Hosting, racks: Racks) -> None:
    """C_GetSlotList keeps to its caller's room and to section 5.2, by the slots that are shown."""
    rack = racks.make("rack", *RACK)
    small = constant("CKR_BUFFER_TOO_SMALL")
    for _, channel in attached(hosting(selecting(rack, "rack", tokens("token=alpha")))):
        assert [(small, [3, None])] * 3 == [
            ask(channel, "C_GetSlotList", [False, [True, room]]) for room in (0, 1, 2)
        ]
        assert (0, [3, [1, 3, 4]]) == ask(channel, "C_GetSlotList", [False, [True, 3]])
        assert constant("CKR_ARGUMENTS_BAD") == ask(channel, "C_GetSlotList", [False, [True, None]])[0]


def test_one_of_very_many(hosting: Hosting, racks: Racks) -> None:
    """A selector finds its slot among more than a module may show."""
    rack = racks.make("rack", "many 5000", "7000 alpha 1")
    for _, channel in attached(hosting(selecting(rack, "rack", tokens("token=alpha")))):
        assert (0, [1, [7000]]) == ask(channel, "C_GetSlotList", [True, [True, 3]])


def test_spare_helpers_show_what_is_theirs(hosting: Hosting, racks: Racks) -> None:
    """A helper that was started for whoever asks next is not given to one who sees other tokens."""
    rack = racks.make("rack", *RACK)
    host = hosting(selecting(rack, "rack", tokens("token=alpha")))
    assert host.config is not None
    seen = []
    for uri in ("token=alpha", "token=beta", "token=beta", "token=alpha"):
        host.config.write_text(selecting(rack, "rack", {"allow": [{"uid": ME, **tokens(uri)}]}))
        seen += [ask(channel, "C_GetSlotList", [True, [True, 9]])[1][1] for _, channel in attached(host)]

    assert [[1, 3], [2], [2], [1, 3]] == seen


def spawned(rack: Rack, view: bytes) -> Spawned:
    """Start a helper with a view."""
    file = rack.file.with_suffix(".toml")
    file.write_text(rack.table())
    seen = replace(load(choose(file, {})).modules[0], selection=view)
    return spawn(helper_path(), seen, (1024, 4096), Confined())


def bury(helper: Spawned) -> None:
    """Close what there is of a helper, and wait until it has ended."""
    for descriptor in (helper.pidfd, helper.stderr):
        os.close(descriptor)
    helper.slate.close()
    helper.trace.close()
    os.waitpid(helper.pid, 0)


@pytest.mark.parametrize("view", [b"\x90", b"\x92\x90\x90\x90", b"\x92\x90", bytes(limits().view + 1)])
def test_a_view_that_is_none(view: bytes, racks: Racks) -> None:
    """A helper that cannot tell which slots to show loads nothing, and says so."""
    helper = spawned(racks.make("rack", *RACK), view)
    try:
        with (
            Door.of_helper(helper.door.detach()) as door,
            pytest.raises(RemoteError, match="view cannot be used"),
        ):
            door.open("test", PATIENCE)
    finally:
        bury(helper)


def test_a_helper_finds_its_descriptors(racks: Racks) -> None:
    """Whichever numbers are free where it is started, each thing is where a helper looks for it."""
    rack = racks.make("rack", *RACK)

    assert [[1, 3]] * (VIEW - DOOR) == Host({}).play(start_in_places, str(rack.provider), str(rack.file))


def start_in_places(provider: str, file: str) -> list[list[int]]:
    """Start helpers of a rack when only two neighbouring low numbers are free; return what each lists."""
    rack = Rack(Path(provider), Path(file))
    view = pack(Selection(((Uri(token="alpha"),),)))
    null = os.open(os.devnull, os.O_RDONLY)
    listed = []
    for place in range(DOOR, VIEW):
        taken = [os.dup(null)]
        while taken[-1] < 4 * VIEW:
            taken.append(os.dup(null))
        free = [each for each in (place, place + 1) if each in taken]
        for each in free:
            os.close(each)
        helper = spawned(rack, view)
        for each in set(taken) - set(free):
            os.close(each)
        with Door.of_helper(helper.door.detach()) as door, door.open("test", PATIENCE) as channel:
            listed.append(ask(channel, "C_GetSlotList", [True, [True, 9]])[1][1])
        bury(helper)
    return listed


# ---- through the shim ----


@pytest.mark.parametrize("fork", ["reinit", "inherit"])
def test_an_application_sees_what_is_left(hosting: Hosting, racks: Racks, fork: str) -> None:
    """An application and its children see the slots that are left, under ids of their own, and no others."""
    rack = racks.make("rack", *RACK)
    host = hosting(
        selecting(rack, "first", {"fork": fork, **tokens("token=alpha")}),
        selecting(rack, "second", {"fork": fork, **tokens("token=beta", "slot-id=2")}),
        selecting(rack, "third", {"fork": fork, **tokens("slot-id=77")}),
    )

    expected = [["alpha", "alpha", "beta"], "CKR_SLOT_ID_INVALID", "CKR_OK"]
    assert [expected, expected] == host.play(look_around)


def look_around() -> list[Any]:
    """Look, here and in a child."""
    shim = Shim()
    shim.must("C_Initialize", None)
    return [look(shim), in_child(partial(look, shim))]


def look(shim: Shim) -> list[Any]:
    """Return the tokens that are seen, and whether slots may be used: one that is not there, and the last."""
    slots = shim.slots()
    labels = []
    for slot in slots:
        info = struct("CK_TOKEN_INFO")()
        shim.must("C_GetTokenInfo", slot, ctypes.byref(info))
        labels.append(bytes(info.label).decode().rstrip("\0 "))
    beyond = shim.rv("C_GetSlotInfo", max(slots) + 3, ctypes.byref(struct("CK_SLOT_INFO")()))
    return [labels, beyond, shim.use(shim.open_session(slots[-1]))]


# ---- commands ----


def told_by(host: Host, *words: str) -> dict[str, Any]:
    """Return what a command of ours tells as JSON."""
    words = ("-P", "-m", "p11host", *words, "--json")
    said: dict[str, Any] = json.loads(
        host.run(sys.executable, *words, env={"P11HOST_CONFIG": str(host.config)})
    )
    return said


def test_commands_see_the_same(hosting: Hosting, racks: Racks, token: Token) -> None:
    """`list` shows of a token's module that token alone, and `doctor` says of one that nothing fits it."""
    label = f"pkcs11:token={token.label}"
    soft = module("soft", token.provider, env=dict(token.env), tokens=[label])
    none = selecting(racks.make("rack", *RACK), "none", tokens("slot-id=7;token=gone"))
    host = hosting(soft, none)
    listed = {each["name"]: each["slots"] for each in told_by(host, "list")["modules"]}
    parts = {each["name"]: each for each in told_by(host, "doctor")["parts"]}

    assert [token.label] == [slot["token"]["label"] for slot in listed["soft"]]
    assert [] == listed["none"]
    assert 1 == len(parts["module soft"]["facts"]["slots"])
    assert "its token selectors leave it no slots" in json.dumps(parts["module none"])
