"""`AsyncClient` with a blocking face, so that one test body serves both clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar, cast

from cytoserve_client import AsyncClient, AsyncFieldStream, Streamed

_Result = TypeVar("_Result")


class Blocking:
    """`AsyncClient` with blocking calls, so that one test body serves both clients."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = AsyncClient(*args, **settings)
        self.config = self._client.config

    def _wait(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        return self._loop.run_until_complete(work)

    def __enter__(self) -> Blocking:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._loop.close()

    @property
    def closed(self) -> bool:
        return self._client.closed

    def close(self) -> None:
        self._wait(self._client.close())

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def call(*args: Any, **settings: Any) -> Any:
            found = self._wait(method(*args, **settings))
            return BlockingStream(found, self._wait) if isinstance(found, AsyncFieldStream) else found

        return call


class BlockingStream(Iterator[Streamed]):
    """`AsyncFieldStream` as an iterator."""

    def __init__(self, stream: AsyncFieldStream, wait: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._stream, self._wait = stream, wait
        self.result = stream.result

    def __next__(self) -> Streamed:
        async def one() -> Streamed:
            return await self._stream.__anext__()

        try:
            return cast(Streamed, self._wait(one()))
        except StopAsyncIteration:
            raise StopIteration from None

    def __enter__(self) -> BlockingStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._wait(self._stream.close())
