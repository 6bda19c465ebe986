"""A fork must not copy random bytes, which are new in every process; it must keep the numbers of slots."""

import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from application import Shim, helpers, in_child
from brokers import module
from life import Host, has_ended, hosted
from test_nss import LIBRARY as SOFTOKN
from test_nss import RESERVED

from p11host.throwaway import add_token, make_token

pytest_plugins = ["life_fixtures"]

BYTES, ROUNDS, LIVES, MODULES = 16, 4, 6, 2
#: Slots of softokn, which come first.
SOFTOKNS = 2
SEED = b"the same seed for everybody"


def tables(directory: Path, mode: str) -> list[str]:
    """Return two modules: NSS softokn, whose state a fork copies, and SoftHSM with two tokens."""
    token = make_token(directory)
    add_token(token, "another")
    nss = module("nss", SOFTOKN, reserved=RESERVED.format(directory), fork=mode)
    return [nss, module("soft", token.provider, env=dict(token.env), fork=mode)]


@pytest.fixture(scope="module", params=["reinit", "inherit"])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """Return a broker with both modules, for each mode."""
    directory = tmp_path_factory.mktemp(request.param)
    with hosted(directory, *tables(directory, request.param)) as found:
        yield found


@pytest.fixture(params=["page", "pid"])
def env(request: pytest.FixtureRequest) -> Mapping[str, str]:
    """Return the environment for each way to notice a fork."""
    return {"P11HOST_FORK_DETECTION": request.param}


def test_random_bytes_are_never_the_same(host: Host, env: Mapping[str, str]) -> None:
    """C_GenerateRandom gives no bytes twice: in parent, children and theirs, whether seeded alike or not."""
    drawn = host.play(draw_everywhere, env=env)

    assert LIVES * MODULES * 2 * ROUNDS == len(drawn)
    assert len(drawn) == len(set(drawn))


def draw_everywhere() -> list[str]:
    """Draw from each module, in the parent before and after, in two children and in a child of each."""
    shim = Shim()
    shim.must("C_Initialize", None)
    slots = [shim.slots()[0], shim.slots()[SOFTOKNS]]

    def draw() -> list[str]:
        sessions = [shim.open_session(slot) for slot in slots]
        return [shim.random(each, BYTES).hex() for each in sessions for _ in range(ROUNDS)]

    def draw_seeded() -> list[str]:
        for slot in slots:
            shim.rv("C_SeedRandom", shim.open_session(slot), SEED, len(SEED))
        return draw()

    def live() -> list[str]:
        return [*draw(), *draw_seeded()]

    def live_and_fork() -> list[str]:
        return [*live(), *in_child(live)]

    before = live()
    return [*before, *in_child(live_and_fork), *in_child(live_and_fork), *live()]


def test_slots_keep_their_numbers(host: Host) -> None:
    """Slots have the same numbers in parent, child and its child, and when the helpers are others."""
    parent, *others = host.play(list_everywhere)

    assert SOFTOKNS + 3 == len(parent), "of SoftHSM two and a free one"
    assert [parent] * 4 == others


def list_everywhere() -> list[Any]:
    """List the slots: here, in a child and its child, with new helpers, and in a child again."""
    shim = Shim()
    shim.must("C_Initialize", None)

    def live() -> list[int]:
        return shim.slots(with_token=False)

    before = live()
    children = in_child(lambda: [live(), in_child(live)])
    for pid in helpers().values():
        os.kill(pid, signal.SIGKILL)
        assert has_ended(pid)
    return [before, *children, live(), in_child(live)]
