"""Files that do not answer: who looks at them waits, and nobody else does, at the end neither."""

import asyncio
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from brokers import PATIENCE, Broker, Starter, module, through
from life import Workshop

from p11host.apart import Apart
from p11host.broker import Found
from p11host.sandbox.confine import Kept

pytest_plugins = ["broker_fixtures", "life_fixtures"]


# ---- work in threads ----


def played(scene: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run an event loop for something, which must end."""

    async def limited() -> Any:
        async with asyncio.timeout(PATIENCE):
            return await scene()

    return asyncio.run(limited())


def test_what_it_returns_and_raises() -> None:
    """Work has its result, or its error, and as many threads as work at the same time, not one each."""

    async def scene() -> list[Any]:
        apart = Apart(PATIENCE)
        threads = {await apart.do("a", threading.get_ident) for _ in range(5)}
        with pytest.raises(ZeroDivisionError):
            await apart.do("a", lambda: 1 // 0)
        return [await apart.do("a", lambda: 7), len(threads)]

    assert [7, 1] == played(scene)


def test_one_at_a_time_of_a_name() -> None:
    """Of one name the next begins when the one before has ended; others do not wait for it."""

    async def scene() -> tuple[list[str], bool]:
        apart, order, first = Apart(PATIENCE), [], threading.Event()

        def begin() -> None:
            first.wait(PATIENCE)
            order.append("first")

        tasks = [asyncio.ensure_future(apart.do("a", begin))]
        await asyncio.sleep(0)
        tasks.append(asyncio.ensure_future(apart.do("a", lambda: order.append("second"))))
        await apart.do("b", lambda: order.append("other"))
        first.set()
        await asyncio.gather(*tasks)
        return order, first.is_set()

    assert (["other", "first", "second"], True) == played(scene)


def test_work_that_does_not_end() -> None:
    """Whoever waits too long is told, whoever comes then at once; when it has ended all is as before."""

    async def scene() -> list[str]:
        apart, answered, seen = Apart(0.05), threading.Event(), []
        with pytest.raises(TimeoutError):
            await apart.do("a", answered.wait)
        with pytest.raises(TimeoutError):
            apart.do("a", answered.wait).send(None)  # before it waits for anything
        seen.append(await apart.do("b", lambda: "another"))
        answered.set()
        while True:
            try:
                return [*seen, await apart.do("a", lambda: "the same")]
            except TimeoutError:
                await asyncio.sleep(0)

    assert ["another", "the same"] == played(scene)


def test_the_end_of_the_loop() -> None:
    """Work that goes on keeps no event loop from its end, and ends unheard."""
    answered = threading.Event()

    async def scene() -> None:
        with pytest.raises(TimeoutError):
            await Apart(0.01).do("a", answered.wait)

    played(scene)
    answered.set()


# ---- a broker ----


@pytest.fixture
def stall(workshop: Workshop) -> Path:
    """Return a library that, preloaded, has files below a directory not answer."""
    return workshop.library("stall")


def names(broker: Broker) -> dict[str, bool]:
    """Attach; tell of each module whether it has a door, closed again."""
    found = {}
    for each in broker.attach():
        found[each.name] = each.door is not None
        if each.door is not None:
            through(each).close()
        else:
            assert "does not answer; see whether it is mounted" in (each.error or "")
    return found


@pytest.fixture
def far() -> Iterator[Path]:
    """Return a directory on a file system without a disk, as the network's are."""
    with tempfile.TemporaryDirectory(prefix="p11host-test-", dir="/dev/shm") as name:
        yield Path(name)


def test_a_provider_that_cannot_be_looked_at(
    starter: Starter, provider: Path, tmp_path: Path, far: Path, stall: Path
) -> None:
    """A module whose file system has ceased to answer is told so; others are served, and the broker ends."""
    stalled = tmp_path / "stalled"
    shutil.copy(provider, far / "provider.so")
    environ = {"LD_PRELOAD": str(stall), "STALL_BELOW": str(far), "STALL_WHILE": str(stalled)}
    modules = module("far", far / "provider.so") + module("near", provider)
    broker = starter.start(modules, environ=environ)

    assert {"far": True, "near": True} == names(broker)
    stalled.touch()
    assert {"far": False, "near": True} == names(broker) == names(broker)
    assert ["far", "near"] == [each["name"] for each in broker.status()["modules"]]
    assert 0 == broker.end()


def test_looked_at_directly() -> None:
    """What lies on a disk of this machine needs no thread once it was seen; a directory in memory does."""
    kept = Kept(MagicMock(), MagicMock(), (), b"")
    disk, memory = ((os.makedev(number, 1),) for number in (8, 0))

    assert Found(disk, 64, kept).is_local
    assert Found(disk, 64, replace(kept, stamp=(disk, ()))).is_local
    assert not Found(memory, 64, kept).is_local
    assert not Found(disk, 64, replace(kept, stamp=(disk, memory))).is_local
