"""Ctrl-C in the middle of a provider's call.

Python notices a signal between two of its own steps, and a call into the library may last as long as its
deadline. Knows signals, and how a command that is interrupted ends.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: Seconds that a command has to end by itself, its files put away.
GRACE = 1.0


@contextmanager
def ending_soon() -> Iterator[None]:
    """Have Ctrl-C end this program although it is in a call: at once if it can, else after GRACE."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    left = threading.Event()
    threading.Thread(target=_watch, args=(reader, left), daemon=True).start()
    try:
        yield
    finally:
        left.set()
        signal.set_wakeup_fd(before)
        os.close(writer)


def _watch(reader: int, left: threading.Event) -> None:
    """Wait for Ctrl-C, or for the end of the pipe."""
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while number := pipe.read(1):
            if number[0] == signal.SIGINT and not left.wait(GRACE):
                from p11host.cli import end_interrupted  # noqa: PLC0415 (it imports us)

                end_interrupted()
