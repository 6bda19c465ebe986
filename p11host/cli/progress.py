"""Progress of what lasts, on a terminal; elsewhere nothing is shown."""

import contextlib
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[str], None]]:
    """Show how far `what` has come; the function that is given tells of one that is done, by its name.

    `total` is how many there will be, None if that is not known.
    """
    if not sys.stderr.isatty() or total == 0:
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415

    columns = [TextColumn("{task.description}", markup=False), BarColumn(20), MofNCompleteColumn()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda name: bar.update(task, advance=1, description=f"{what}: {name}")
