"""The thread that waits for PC/SC: one look after the other, each handed on as a scene.

Knows how PC/SC tells of changes, and how to come back to it. Must not know what is made of a scene: `tell`
is called in this thread. Nobody waits for a call of PC/SC but this thread, and nobody waits for it for ever.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from p11host import log
from p11host.cards.codes import CardError, NoReaderError
from p11host.cards.layer import NOTIFICATION, Layer, Look
from p11host.cards.pace import Pace
from p11host.cards.reader import CHANGED, UNAWARE, Reader, Scene

#: Seconds until PC/SC is tried again, at first and at most.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 5.0
#: Seconds until a thread that met a fault of ours goes on, at most.
LONGEST_REST = 60.0
#: Seconds of a wait, at first and at most. PC/SC before pcsc-lite 2.3 does not tell of a reader that came
#: between the list and the wait: it is found by the next list, soon after something changed.
FIRST_WAIT, LONGEST_WAIT = 0.25, 30.0
#: Seconds in which the thread ends when it is told to.
END = 2.0
_CANCEL_AGAIN = 0.02


class Watcher:
    """Watches from `start` to `stop`. `make` gives PC/SC's layer, or says why there is none."""

    def __init__(self, make: Callable[[], Layer], tell: Callable[[Scene], None]) -> None:
        self._make = make
        self._tell = tell
        self._stop = threading.Event()
        self._layer: Layer | None = None
        self._context: int | None = None
        self._thread = threading.Thread(target=self._run, name="cards", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> bool:
        """End the thread; return whether it has ended: a call that hangs in PC/SC is left to itself."""
        self._stop.set()
        # pcscd is asked for that too, and may hang.
        threading.Thread(target=self._cancel_on, name="cards cancel", daemon=True).start()
        self._thread.join(END)
        return not self._thread.is_alive()

    def _cancel_on(self) -> None:
        end = time.monotonic() + END
        while self._thread.is_alive() and time.monotonic() < end:
            self._cancel()  # it may have come before the wait
            self._thread.join(_CANCEL_AGAIN)

    def _cancel(self) -> None:
        layer, context = self._layer, self._context
        if layer is None or context is None:
            return
        try:
            layer.cancel(context)
        except CardError:
            return

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._stop.is_set():
            try:
                self._serve()
            # A fault of ours must be heard of: nobody waits for this thread. The next look begins anew.
            except Exception as error:  # noqa: BLE001
                log.error("cards.fault", error=repr(error))
            else:
                return
            self._stop.wait(pause)
            pause = min(pause * 2, LONGEST_REST)

    def _serve(self) -> None:
        try:
            self._layer = self._make()
        except CardError as error:
            self._tell(Scene({}, error))
            return
        pause = FIRST_PAUSE
        while not self._stop.is_set():
            began = time.monotonic()
            failed = self._watch(self._layer)
            if failed is None or self._stop.is_set():
                return
            self._tell(Scene({}, failed))
            # One that served for a while is back soon.
            pause = FIRST_PAUSE if time.monotonic() - began > LONGEST_PAUSE else pause
            self._stop.wait(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _watch(self, layer: Layer) -> CardError | None:
        """Watch in one context until PC/SC fails; return why, None if we are told to end."""
        try:
            context = layer.establish()
        except CardError as error:
            return error
        self._context = context
        try:
            Watch(layer, context, self._tell, self._stop).run()
        except CardError as error:
            return error
        finally:
            self._context = None
            _release(layer, context)
        return None


def _release(layer: Layer, context: int) -> None:
    try:
        layer.release(context)
    except CardError:
        return


class Watch:
    """One context's: what is known of each reader, and when those that flap are looked at again."""

    def __init__(
        self, layer: Layer, context: int, tell: Callable[[Scene], None], stop: threading.Event
    ) -> None:
        self._layer = layer
        self._context = context
        self._tell = tell
        self._stop = stop
        self._readers: dict[str, Reader] = {}
        self._paces: dict[str, Pace] = {}
        self._notified = UNAWARE
        self._wait = FIRST_WAIT
        self._told: Mapping[str, Reader] | None = None

    def run(self) -> None:
        """Look until told to end. Raises CardError when PC/SC fails."""
        while not self._stop.is_set():
            self._list()
            self._look()
            self._tell_news()

    def _list(self) -> None:
        """Know which readers there are."""
        names = self._layer.names(self._context)
        for name in self._readers.keys() - names:
            del self._readers[name]
            self._paces.pop(name, None)
        for name in names:
            if name not in self._readers:
                self._readers[name] = Reader(name, UNAWARE)
                self._paces[name] = Pace(at=time.monotonic())

    def _look(self) -> None:
        """Wait for a change, and note it."""
        now = time.monotonic()
        known = [(name, self._readers[name].state) for name in self._awake(now)]
        try:
            looks = self._layer.wait(
                self._context, self._patience(now), [(NOTIFICATION, self._notified), *known]
            )
        except NoReaderError:  # it went before the wait; the list will soon not have it
            self._stop.wait(FIRST_PAUSE)
            looks = []
        changed = self._note(looks)
        self._wait = FIRST_WAIT if changed else min(self._wait * 2, LONGEST_WAIT)

    def _awake(self, now: float) -> Sequence[str]:
        """Return those that can be waited for: one that flaps rests, and keeps nobody awake."""
        readers = self._readers.values()
        return [each.name for each in readers if self._paces[each.name].until <= now]

    def _patience(self, now: float) -> float:
        """Return how long to wait: until one that rests is looked at again, or has been calm for long."""
        paces = self._paces.values()
        ends = [pace.until for pace in paces if pace.until > now]
        ends += [calm for pace in paces if (calm := pace.calm_at(now)) is not None]
        return max(0.0, min([self._wait, *(end - now for end in ends)]))

    def _note(self, looks: Sequence[Look]) -> bool:
        """Take over what a look shows; return whether anything is new."""
        changed = False
        now = time.monotonic()
        for name, state, atr in looks:
            state &= ~CHANGED  # noqa: PLW2901
            if name == NOTIFICATION:
                changed |= state != self._notified
                self._notified = state
            elif (reader := self._readers.get(name)) is not None and (state, atr) != (
                reader.state,
                reader.atr,
            ):
                changed = True
                first = reader.state == UNAWARE
                begins = not first and self._paces[name].change(now)
                self._readers[name] = replace(
                    reader, state=state, atr=atr, flapping=reader.flapping or begins
                )
        for name, pace in self._paces.items():
            if pace.is_calm(now):
                self._readers[name] = replace(self._readers[name], flapping=False)
        return changed

    def _tell_news(self) -> None:
        if self._readers != self._told:
            self._told = dict(self._readers)
            self._tell(Scene(self._told))
