"""The manual pages, made of what the command line and the configuration say of themselves."""

from collections.abc import Iterator
from pathlib import Path

from p11host.manual import commands, configuration, library


def pages() -> Iterator[tuple[str, str]]:
    """Yield the name of each page's file, such as p11host.1, and its text."""
    yield from commands.pages()
    yield from configuration.pages()
    yield from library.pages()


def write(directory: Path) -> list[Path]:
    """Write every page into `directory`, below man1, man5 and man7; return what was written."""
    written = []
    for name, text in pages():
        file = directory / f"man{name.rpartition('.')[2]}" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        written.append(file)
    return written
