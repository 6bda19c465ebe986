"""Work that waits for a file system, which may never answer, in threads that hold up nobody, nor our end.

Knows threads and the event loop. Must not know what the work is.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


class Apart:
    """Does one thing at a time for each name. Belongs to the event loop that `do` is awaited in."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._under_way: dict[str, asyncio.Future[Any]] = {}
        self._overdue: set[str] = set()
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._idle = 0

    async def do(self, name: str, work: Callable[[], T]) -> T:
        """Return what `work` returns, or raise what it raises; TimeoutError when that takes too long.

        It is then left to itself, and nobody waits for anything of that name until it has ended.
        """
        if name in self._overdue:
            raise TimeoutError
        try:
            async with asyncio.timeout(self._patience):
                while before := self._under_way.get(name):
                    await asyncio.wait([before])
                done: T = await asyncio.shield(self._begin(name, work))
        except TimeoutError:
            if name in self._under_way:
                self._overdue.add(name)
            raise
        return done

    def _begin(self, name: str, work: Callable[[], T]) -> "asyncio.Future[T]":
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            loop.call_soon_threadsafe(self._settle, name, result, error)

        self._under_way[name] = done
        # A thread that waits for ever must not be waited for when the program ends.
        if not self._idle:
            threading.Thread(target=_work_off, args=(self._jobs,), daemon=True).start()
        self._idle = max(0, self._idle - 1)
        self._jobs.put(partial(_run, work, settle))
        return done

    def _settle(self, name: str, result: Any, error: BaseException | None) -> None:
        self._idle += 1
        self._overdue.discard(name)
        done = self._under_way.pop(name)
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)
            done.exception()  # whoever had asked may have gone


def _work_off(jobs: "queue.SimpleQueue[Callable[[], None]]") -> None:
    while True:
        jobs.get()()


def _run(work: Callable[[], T], settle: Callable[[T | None, BaseException | None], None]) -> None:
    result: T | None = None
    error: BaseException | None = None
    try:
        result = work()
    except BaseException as raised:  # noqa: BLE001 (it is raised where it is waited for)
        error = raised
    try:
        settle(result, error)
    except RuntimeError:
        return  # the loop has ended
