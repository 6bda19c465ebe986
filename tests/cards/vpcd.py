"""Card readers in software, as the benchmark has them, with cards in both slots from the start."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from p11host.bench.rack import PATIENCE_S, READERS, Card, Rack, rack

__all__ = ["PATIENCE_S", "Card", "Rack", "rack", "readers"]


@contextmanager
def readers(directory: Path, cards: Sequence[Card]) -> Iterator[dict[str, str]]:
    """Run pcscd with these cards, one in each slot; yield the environment in which it is found."""
    assert len(cards) == READERS
    with rack(directory) as made:
        for slot, card in zip(made.slots, cards, strict=True):
            slot.insert(card)
        yield made.env
