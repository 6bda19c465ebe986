"""The broker's part in cards: when they are watched, and what a change leads to.

Knows the loop, the thread and which modules reach PC/SC. A machine on which none does has no such thread.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from p11host import log
from p11host.cards.board import Board, service
from p11host.cards.layer import Layer, Pyscard
from p11host.cards.reach import DEFAULT, VARIABLE, needs_check, service_of
from p11host.cards.reader import MOVES, Change, Kind, Reader, Scene
from p11host.cards.watcher import Watcher
from p11host.config import Module

_EVENTS: Mapping[Kind, str] = {
    "added": "reader.added",
    "gone": "reader.gone",
    "inserted": "card.inserted",
    "removed": "card.removed",
    "fault": "reader.fault",
    "calm": "reader.calm",
}


class Cards:
    """Readers and cards, as a broker keeps them. `modules` are those of its configuration as it is.

    `prompt` is called soon after a change with the names of the modules whose tokens may be others now;
    `renew` when PC/SC is there again after it had ended: providers keep using what it no longer knows.
    """

    def __init__(
        self,
        modules: Callable[[], Iterable[Module]],
        prompt: Callable[[frozenset[str]], None],
        renew: Callable[[frozenset[str]], None],
        make: Callable[[str], Layer] = Pyscard,
    ) -> None:
        self.board = Board(self._heard)
        self._modules = modules
        self._prompt = prompt
        self._renew = renew
        self._had_readers = False
        self._make = make
        self._watcher: Watcher | None = None
        self._reach: dict[str, tuple[Module, str | None]] = {}
        self._checks: dict[str, tuple[Module, bool]] = {}
        self._prompting = False
        self._exclusive: set[str] = set()

    def used(self, module: Module) -> None:
        """Note that a module has a helper: where it reaches PC/SC, readers are watched from now on."""
        if self._watcher is None and self._service(module) is not None:
            self.start()

    def start(self) -> None:
        """Begin to watch, if that has not been done, in the place where the first such module looks."""
        if self._watcher is not None:
            return
        loop = asyncio.get_running_loop()
        self._watcher = Watcher(partial(self._make, self.place()), partial(_hand_over, loop, self.board.see))
        self._watcher.start()

    def stop(self) -> None:
        """End the watch, within a time."""
        if self._watcher is not None and not self._watcher.stop():
            log.warning("cards.stuck", reason="a call of PC/SC does not return")

    def place(self) -> str:
        """Return where PC/SC is looked for: as our environment says, else as the first module has it."""
        places = (self._service(module) for module in self._modules())
        return os.environ.get(VARIABLE) or next(filter(None, places), str(DEFAULT))

    def reaching(self) -> list[str]:
        """Return the names of the modules that can reach PC/SC."""
        return [module.name for module in self._modules() if self._service(module) is not None]

    def need_check(self, module: Module) -> bool:
        """Tell whether a module's sessions are to be checked, looked up once for each state of its table."""
        known = self._checks.get(module.name)
        if known is None or known[0] != module:
            known = self._checks[module.name] = (module, needs_check(module))
        return known[1]

    def _service(self, module: Module) -> str | None:
        """Return where a module reaches PC/SC, looked up once for each state of its table."""
        known = self._reach.get(module.name)
        if known is None or known[0] != module:
            place = service_of(module)
            known = self._reach[module.name] = (module, None if place is None else str(place))
        return known[1]

    def _heard(self, change: Change) -> None:
        _log(change)
        if change.reader is not None:
            self._log_use(change.reader)
        # Before there was any reader no helper had anything of PC/SC.
        if change.kind == "service" and change.error is None and self._had_readers:
            self._renew(frozenset(self.reaching()))
        self._had_readers = self._had_readers or change.kind == "added"
        if change.kind in MOVES and not self._prompting:
            self._prompting = True
            asyncio.get_running_loop().call_soon(self._prompt_all)

    def _log_use(self, reader: Reader) -> None:
        """Report when a program begins to have a card for itself, and when it ends to."""
        exclusive = reader.use == "exclusive"
        if exclusive == (reader.name in self._exclusive):
            return
        if exclusive:
            self._exclusive.add(reader.name)
            log.info("card.exclusive", reader=reader.name, error=reader.error)
        else:
            self._exclusive.discard(reader.name)
            if reader.present:
                log.info("card.released", reader=reader.name)

    def _prompt_all(self) -> None:
        """Prompt once for all that one look has shown."""
        self._prompting = False
        self._prompt(frozenset(self.reaching()))


def _hand_over(loop: asyncio.AbstractEventLoop, see: Callable[[Scene], None], scene: Scene) -> None:
    """Have the loop see what the thread has seen; one that has ended wants nothing more."""
    if not loop.is_closed():
        try:
            loop.call_soon_threadsafe(see, scene)
        except RuntimeError:
            return


def _log(change: Change) -> None:
    if change.kind == "service":
        said = "cards.watched" if change.error is None else "cards.unwatched"
        log.info(said, service=service(change.error))
    elif change.reader is not None:
        about: dict[str, object] = {"reader": change.reader.name}
        if change.kind == "flapping":
            log.warning("reader.flapping", **about, count=change.reader.count)
        elif change.kind in _EVENTS:
            about |= {"atr": change.reader.atr.hex()} if change.kind == "inserted" else {}
            about |= {"fault": change.reader.fault} if change.reader.fault else {}
            about |= {"error": change.reader.error} if change.kind == "fault" and change.reader.error else {}
            log.info(_EVENTS[change.kind], **about)
