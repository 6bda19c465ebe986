"""Which modules serve a reader: each is asked for its slots, in a helper, and a slot names its reader.

Knows three functions of Cryptoki by their rows in specs/functions.toml. Must not know PC/SC.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from p11host.client import Channel, Door
from p11host.closing import Closing
from p11host.codes import ckr
from p11host.errors import P11HostError
from p11host.limits import limits
from p11host.wire import Value

#: Seconds for a helper's hello and for each answer.
PATIENCE = 20.0
_SUCCESS, _PRESENT = 0, 1
#: A slot's description has as many bytes; a reader's longer name is cut off there.
_DESCRIPTION = 64


@dataclass(frozen=True, slots=True)
class Served:
    """A slot of a module and the label of its token, or why none can be told."""

    module: str
    slot: int
    description: str
    token: str | None = None
    error: str | None = None

    def is_of(self, reader: str) -> bool:
        """Tell whether the slot is that reader's."""
        return is_of(self.description, reader)


def is_of(description: str, reader: str) -> bool:
    """Tell whether a slot of that description is that reader's."""
    name = reader.encode(errors="surrogateescape")[:_DESCRIPTION].decode(errors="replace").rstrip()
    return bool(description) and name == description


class Serving(Closing):
    """Helpers of our own, one for each module, asked as often as is wanted. A module that fails is told."""

    def __init__(self, broker: Channel, modules: Iterable[str]) -> None:
        self.errors: dict[str, str] = {}
        self._channels: dict[str, Channel] = {}
        for name in modules:
            try:
                self._channels[name] = _opened(broker, name)
            except (P11HostError, OSError) as error:
                self.errors[name] = str(error)

    def ask(self) -> list[Served]:
        """Return the slots of all modules as they are now."""
        found: list[Served] = []
        for name, channel in list(self._channels.items()):
            try:
                found += _slots(name, channel)
            except (P11HostError, OSError) as error:
                self.errors[name] = str(error)
                self._channels.pop(name).close()
        return found

    def close(self) -> None:
        """Let the helpers end."""
        for channel in self._channels.values():
            channel.close()


def _opened(broker: Channel, name: str) -> Channel:
    attached = broker.open_module(name, PATIENCE)
    if attached.door is None:
        raise P11HostError(attached.error or "the broker gave no door")
    with Door.of_helper(attached.door) as door:
        return door.open("p11host readers", PATIENCE)


def _slots(module: str, channel: Channel) -> Iterator[Served]:
    _, numbers = _ask(channel, "C_GetSlotList", False, [True, limits().module_slots])  # noqa: FBT003
    for number in numbers:
        yield _slot(module, channel, number)


def _slot(module: str, channel: Channel, number: int) -> Served:
    """Return a slot; an error of one is none of the others'."""
    try:
        description, _, flags, *_ = _ask(channel, "C_GetSlotInfo", number, True)  # noqa: FBT003
    except ProviderError as error:
        return Served(module, number, "", error=str(error))
    served = Served(module, number, _text(description))
    if not flags & _PRESENT:
        return served
    try:
        label = _ask(channel, "C_GetTokenInfo", number, True)[0]  # noqa: FBT003
    except ProviderError as error:
        return replace(served, error=error.name)
    return replace(served, token=_text(label))


class ProviderError(P11HostError):
    """A provider's own answer to a call, by its `name`."""

    def __init__(self, function: str, name: str) -> None:
        super().__init__(f"{function}: {name}")
        self.name = name


def _ask(channel: Channel, function: str, *params: Value) -> Value:
    rv, *outputs = channel.call(function, list(params), PATIENCE)
    if rv != _SUCCESS:
        raise ProviderError(function, ckr(rv))
    return outputs[0]


def _text(data: bytes) -> str:
    return data.decode(errors="replace").rstrip("\0 ")
