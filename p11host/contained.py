"""Work that fails alone: a fault in what is done for one peer ends that, and nothing else.

Knows tasks. Must not know whose work it is.
"""

from collections.abc import Coroutine

from p11host import log


async def contained(owner: str, work: Coroutine[None, None, None]) -> None:
    """Await `work`; what goes wrong in it ends it and nothing else."""
    try:
        await work
    except (OSError, TimeoutError) as error:
        log.debug(f"{owner}.ended", error=repr(error))
    # A fault of ours in one peer's work must not end the service of the others.
    except Exception as error:  # noqa: BLE001
        log.error(f"{owner}.fault", error=repr(error))
