"""Waiting for descriptors in asyncio without transports, for sockets somebody else may hold too.

A peer that kept a copy of a descriptor can make it blocking again, so nothing here relies on O_NONBLOCK:
callers wait, then use MSG_DONTWAIT. Knows the event loop alone.
"""

import asyncio


async def readable(descriptor: int) -> None:
    """Wait until there is something to read, or an end, at `descriptor`."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(descriptor, _settle, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


async def writable(descriptor: int) -> None:
    """Wait until `descriptor` takes more, or has ended."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_writer(descriptor, _settle, ready)
    try:
        await ready
    finally:
        loop.remove_writer(descriptor)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
