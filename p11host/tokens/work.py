"""Work that may take long: seen on a terminal, and left at once by Ctrl-C.

Knows threads and rich. Must not know what the work is.
"""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from threading import Thread
from typing import TypeVar

Result = TypeVar("Result")


def working(title: str, work: Callable[[], Result]) -> Result:
    """Return what `work` returns. Meanwhile a terminal shows what is done, and for how long already.

    It is done in a thread of its own: a call into a provider cannot be interrupted, and who types Ctrl-C does
    not wait for it.
    """
    results: list[Result] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 (raised below, by whoever waits)
            failures.append(error)

    thread = Thread(target=run, name="p11host-work", daemon=True)
    with _shown(title):
        thread.start()
        thread.join()
    if failures:
        raise failures[0]
    return results[0]


def attended(pin: bytearray | None, request: str, call: Callable[[], Result]) -> Result:
    """Return what `call` returns. Without a PIN the token has a keypad, and a person is asked to use that."""
    if pin is not None:
        return call()
    if not sys.stderr.isatty():
        print(f"p11host: {request}", file=sys.stderr, flush=True)
    return working(request, call)


def _shown(title: str) -> AbstractContextManager[object]:
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    progress.add_task(title, total=None)
    return progress
