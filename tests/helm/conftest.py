"""The real helm, rendered manifests kept for the session, and the schemas of custom resources."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from chart import ROOT, WHEEL, Helm, find_archive, unpack_helm


def _missing(text: str) -> None:
    """Skip with the reason; in CI a skipped test proves nothing, so it fails."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(text)
    pytest.skip(text)


@pytest.fixture(scope="session")
def helm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    archive = find_archive()
    if archive is None:
        _missing(f"no helm: pip install aws-cdk.{WHEEL.replace('_', '-')}")
    assert archive is not None
    return Helm(unpack_helm(archive, request.config.cache.mkdir("helm")), tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def schemas() -> Path:
    """Folder of the custom resources' schemas: $CYTOSERVE_SCHEMAS, else ../shared/schemas beside the checkout."""
    folder = Path(os.environ.get("CYTOSERVE_SCHEMAS") or ROOT.parent / "shared" / "schemas")
    if not folder.is_dir():
        _missing(f"no schemas of custom resources at {folder}; set CYTOSERVE_SCHEMAS")
    return folder
