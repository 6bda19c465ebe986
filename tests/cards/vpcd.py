"""Card readers in software, as the benchmark has them, with cards in both slots from the start."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from p11host.bench.rack import PATIENCE_S, READERS, Card, Rack, rack

__all__ = ["PATIENCE_S", "Card", "Rack", "rack", "readers"]

#: Ends once PC/SC has a card in so many readers. A process of its own: libpcsclite keeps where it looks.
_AWAIT = """
import ctypes, sys, time

class State(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulong) for name in ("name", "user", "known", "now", "size")]
    _fields_ = [*_fields_, ("atr", ctypes.c_ubyte * 33)]

def seen():
    room, size = ctypes.create_string_buffer(4096), ctypes.c_ulong(4096)
    if pcsc.SCardListReaders(context, None, room, ctypes.byref(size)):
        return 0
    names = [ctypes.create_string_buffer(name) for name in room.raw[: size.value].split(b"\\0") if name]
    states = (State * len(names))(*(State(ctypes.addressof(name)) for name in names))
    pcsc.SCardGetStatusChange(context, 0, states, len(names))
    return sum(bool(state.now & 0x20) for state in states)

pcsc, context = ctypes.CDLL("libpcsclite.so.1"), ctypes.c_long()
while pcsc.SCardEstablishContext(2, None, None, ctypes.byref(context)) or seen() < int(sys.argv[1]):
    time.sleep(0.05)
"""


@contextmanager
def readers(directory: Path, cards: Sequence[Card]) -> Iterator[dict[str, str]]:
    """Run pcscd with these cards, one in each slot; yield the environment in which it is found."""
    assert len(cards) == READERS
    with rack(directory) as made:
        for slot, card in zip(made.slots, cards, strict=True):
            slot.insert(card)
        words = [sys.executable, "-c", _AWAIT, str(READERS)]
        subprocess.run(words, env=os.environ | made.env, check=True, timeout=PATIENCE_S)
        yield made.env
