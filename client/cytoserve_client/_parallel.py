"""Several images at a time: in threads, and as asyncio tasks. Results in the order of the items."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import Any, TypeVar

from cytoserve_client.errors import ClientClosed

Progress = Callable[[int, int], None]
"""Called with (images done, images in all) in the calling thread, after every request."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_threads(
    work: Callable[[_Item], _Result],
    items: Sequence[_Item],
    weight: Callable[[_Item], int],
    room: int,
    on_progress: Progress | None,
) -> list[_Result]:
    """Run ``work`` on every item in threads, ``room`` at a time; the first error ends all.

    ``weight`` is the number of images in an item, for ``on_progress``.
    """
    total, done = sum(weight(item) for item in items), 0
    if len(items) == 1:  # needs no thread, whose start costs a call of one field more than all else
        result = work(items[0])
        if on_progress is not None:
            on_progress(total, total)
        return [result]
    stop = threading.Event()

    def guarded(item: _Item) -> _Result:
        if stop.is_set():
            raise ClientClosed("the call was abandoned")
        return work(item)

    pool = ThreadPoolExecutor(min(room, max(1, len(items))), "cytoserve")
    try:
        # Each in the caller's context, so that a trace goes on.
        futures: dict[Future[_Result], int] = {
            pool.submit(copy_context().run, guarded, item): i for i, item in enumerate(items)
        }
        pending: set[Future[_Result]] = set(futures)
        while pending:
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()  # an error that concerns every image ends the call here
                done += weight(items[futures[future]])
                if on_progress is not None:
                    on_progress(done, total)
    except BaseException:
        # Not waited for: requests under way end by their deadline, or at once when the client is closed.
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
    return [future.result() for future in futures]


async def in_tasks(
    work: Callable[[_Item], Awaitable[_Result]],
    items: Sequence[_Item],
    weight: Callable[[_Item], int],
    room: int,
    on_progress: Progress | None,
) -> list[_Result]:
    """Run ``work`` on every item as tasks of the running loop; see `in_threads`."""
    total, done = sum(weight(item) for item in items), 0
    places = asyncio.Semaphore(room)

    async def guarded(item: _Item) -> _Result:
        nonlocal done
        async with places:
            result = await work(item)
        done += weight(item)
        if on_progress is not None:
            on_progress(done, total)
        return result

    tasks = [asyncio.ensure_future(guarded(item)) for item in items]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def stream_threads(
    work: Callable[[_Item], _Result], items: Iterator[_Item], room: int
) -> Iterator[tuple[_Item, _Result]]:
    """Yield each item with what ``work`` returned for it, as they end; no more than ``room`` are taken ahead.

    ``items`` is gone through in the calling thread. An error that ``work`` raises ends the stream.
    """
    stop = threading.Event()

    def guarded(item: _Item) -> _Result:
        if stop.is_set():
            raise ClientClosed("the stream was closed")
        return work(item)

    pool = ThreadPoolExecutor(room, "cytoserve")
    pending: dict[Future[_Result], _Item] = {}
    try:
        more = True
        while more or pending:
            while more and len(pending) < room:
                try:
                    item = next(items)
                except StopIteration:
                    more = False
                else:
                    pending[pool.submit(copy_context().run, guarded, item)] = item
            if pending:
                future = next(iter(wait(pending, return_when=FIRST_COMPLETED).done))
                yield pending.pop(future), future.result()
    finally:
        # Not waited for: requests under way end by their deadline, or at once when the client is closed.
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)


async def stream_tasks(
    work: Callable[[_Item], Awaitable[_Result]], items: Iterator[_Item], room: int
) -> AsyncIterator[tuple[_Item, _Result]]:
    """Yield as `stream_threads` does, in tasks of the running loop; ``items`` is gone through in a thread."""
    pending: dict[asyncio.Future[_Result], _Item] = {}
    nothing = object()
    try:
        more = True
        while more or pending:
            while more and len(pending) < room:
                item: Any = await asyncio.to_thread(next, items, nothing)
                if item is nothing:
                    more = False
                else:
                    pending[asyncio.ensure_future(work(item))] = item
            if pending:
                done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                future = next(iter(done))
                yield pending.pop(future), future.result()
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
