"""Where a command's output goes: a terminal, which is so wide, or a pipe, which is not.

Knows rich. Must not know what is shown. NO_COLOR is rich's to keep; `p11host.cli` keeps it for click.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

#: Columns of what nobody sees: no line is broken, no word left out.
ENDLESS = 1 << 16


def screen(pipe_width: int = ENDLESS) -> "Console":
    """Return where to print: as wide as the terminal, else `pipe_width` columns and without colour."""
    from rich.console import Console  # noqa: PLC0415

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=pipe_width)


def put(console: "Console", text: "Text", hanging: int = 2) -> None:
    """Print lines; what does not fit goes on in the next one, `hanging` columns farther from the left."""
    from rich.text import Text  # noqa: PLC0415

    for line in text.split(allow_blank=True):
        if line.cell_len <= console.width:
            console.print(line, soft_wrap=True)
            continue
        lead = len(line.plain) - len(line.plain.lstrip(" "))
        first, *rest = line[lead:].wrap(console, max(console.width - lead - hanging, 20))
        console.print(Text(" " * lead).append_text(first), soft_wrap=True)
        for each in rest:
            console.print(Text(" " * (lead + hanging)).append_text(each), soft_wrap=True)
