"""All that is looked at, one part after the other; nothing that fails keeps the rest from being looked at.

Knows the order. Must not know how any of it is shown.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from p11host.cards.codes import NoServiceError
from p11host.config import Module
from p11host.doctor import modules
from p11host.doctor.broker import Reached, private, reach
from p11host.doctor.cards import cards
from p11host.doctor.configuration import compared, configuration
from p11host.doctor.findings import Finding, Part, problem
from p11host.doctor.machine import machine
from p11host.doctor.surroundings import barred, surroundings
from p11host.errors import P11HostError
from p11host.explain.vendors import tables_of
from p11host.provider import check
from p11host.start import private_broker
from p11host.tables import tables
from p11host.together import together
from p11host.view import EVERYBODY


def look(path: Path | None, advance: Callable[[str], None]) -> Iterator[Part]:
    """Yield each part. With a `path` the broker is one of our own, for that configuration.

    `advance` is told of each by its name when it has been looked at, of modules as they answer.
    """
    yield _told(machine(), advance)
    found = configuration(path)
    yield _told(found.part, advance)
    own = found.config.enabled if found.config else ()
    with contextlib.ExitStack() as stack:
        reached = _reach(path, stack) if found.config or path is None else None
        if reached is None:
            return
        if reached.door is not None:
            stack.callback(reached.door.close)
        differs = compared(found.config, reached.status) if reached.status else ()
        yield _told(Part("broker", (*reached.part.findings, *differs), reached.part.facts), advance)
        readers = cards(own, reached.door)
        if readers.part is not None:
            yield _told(readers.part, advance)
        yield from _modules(own, reached, readers.remedies, advance)


def _told(part: Part, advance: Callable[[str], None]) -> Part:
    advance(part.name)
    return part


def _reach(path: Path | None, stack: contextlib.ExitStack) -> Reached:
    if path is None:
        return reach()
    try:
        broker = stack.enter_context(private_broker(path, "off"))
    except (P11HostError, OSError) as error:
        return Reached(Part("broker", (problem(error),)))
    return reach(private(broker.socket))


def _modules(
    own: Sequence[Module], reached: Reached, remedies: Mapping[str, str], advance: Callable[[str], None]
) -> Iterator[Part]:
    """Yield a part for each module of the broker, or without one of the configuration, in order.

    `remedies` are what helps a module where its slots fail, if that is known already.
    """
    known = {module.name: module for module in own}
    names = list(known)
    if reached.status is not None:
        names = [module["name"] for module in reached.status["modules"]]
    tasks = {name: _looker(name, known.get(name), reached, remedies.get(name, "")) for name in names}
    ready: dict[str, Part] = {}
    for name, part in together(tasks):
        ready[name] = part
        advance(part.name)
    yield from (ready[name] for name in names)


def _looker(name: str, module: Module | None, reached: Reached, remedy: str) -> Callable[[], Part]:
    def run() -> Part:
        around: list[Finding] = []
        try:
            if module is not None:
                around += surroundings(module)
            if reached.door is not None:
                rows = tables_of(module) if module is not None else tables()
                view = module.view if module is not None else EVERYBODY
                found = modules.examine(reached.door, name, rows)
                without = next((each.do for each in around if each.do == NoServiceError.do), "")
                return modules.part(name, found, around, view, remedy or without)
            if module is not None:
                check(module.path)
        except (P11HostError, OSError) as error:
            return modules.part(name, error, [*around, *(barred(module) if module is not None else ())])
        # What a provider says may have any shape.
        except (TypeError, ValueError) as error:
            return modules.part(name, P11HostError(f"an answer that does not fit: {error}"), around)
        return Part(f"module {name}", (Finding("note", "not asked: there is no broker"), *around))

    return run
