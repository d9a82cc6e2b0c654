"""The real helm, and rendered manifests kept for the session."""

from __future__ import annotations

import pytest
from chart import Helm, session_helm


@pytest.fixture(scope="session")
def helm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return session_helm(request, tmp_path_factory)
