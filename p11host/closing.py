"""What is closed at the end of a `with`.

Knows only that it has a `close`.
"""

from types import TracebackType
from typing import Self


class Closing:
    """Is itself what `with` gives, and closed at its end."""

    def close(self) -> None:
        """Give back what it holds."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()
