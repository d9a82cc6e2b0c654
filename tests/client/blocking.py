"""`AsyncClient` with a blocking face, so that one test body serves both clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from cytoserve_client import AsyncClient

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
        return lambda *args, **settings: self._wait(method(*args, **settings))
