"""Several waits at the same time, so that one that lasts does not hold the others up.

Knows threads. A task must end by itself, and tell of its faults in what it returns.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")
#: Tasks that run at the same time.
_AT_ONCE = 4


def together(tasks: Mapping[str, Callable[[], T]]) -> Iterator[tuple[str, T]]:
    """Run tasks and yield what each returned, as they end. What one raised is raised here."""
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[str, T | BaseException]] = queue.SimpleQueue()
    for name in tasks:
        waiting.put(name)

    def work() -> None:
        while True:
            try:
                name = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((name, tasks[name]()))
            except BaseException as error:  # noqa: BLE001 (it is raised where it is waited for)
                done.put((name, error))

    # Whoever is tired of waiting ends the program, which these do not hold up.
    for _ in range(min(_AT_ONCE, len(tasks))):
        threading.Thread(target=work, daemon=True).start()
    for _ in tasks:
        name, result = done.get()
        if isinstance(result, BaseException):
            raise result
        yield name, result
