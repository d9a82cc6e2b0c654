"""Fixtures on the fake server, for every room that calls it: a server, and either client behind one face."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from blocking import Blocking
from cytoserve_client import Client
from fake_server import FakeServer


@pytest.fixture(autouse=True)
def no_address_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CYTOSERVE_URL", raising=False)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.fixture(params=["sync", "async"])
def open_client(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Yield a function that makes a client (either kind, same face); all are closed at the end."""
    made: list[Any] = []

    def make(url: str, **settings: Any) -> Any:
        settings.setdefault("timeout", 10.0)
        made.append((Client if request.param == "sync" else Blocking)(url, **settings))
        return made[-1]

    yield make
    for client in made:
        client.__exit__(None, None, None)
