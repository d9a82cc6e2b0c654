"""What every room's tests share: the data folder and the one real Triton of the session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cytoserve_deploy import telemetry

# before any test module imports onnxruntime or diffusers: the tests call home no more than the product does
telemetry.switch_off()
# the tests' own calls of their servers (urllib, tritonclient); tests about proxies take this away again
for _variable in ("no_proxy", "NO_PROXY"):
    os.environ[_variable] = ",".join(filter(None, (os.environ.get(_variable), "127.0.0.1,localhost,::1")))

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--triton-url",
        metavar="HOST:PORT",
        help="gRPC address of a running CytoServe to test instead of starting a local one",
    )


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the shared data: $CYTOSERVE_DATA, else ../shared/data beside the checkout.

    Where it is missing the test is skipped, in CI it fails: a skipped test proves nothing there.
    """
    folder = Path(os.environ.get("CYTOSERVE_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        text = f"no data at {folder}; set CYTOSERVE_DATA"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(text)
        pytest.skip(text)
    return folder


@pytest.fixture(scope="session")
def triton_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the gRPC address of a CytoServe that is ready: the one given, else one started here."""
    given = request.config.getoption("--triton-url")
    if given:
        yield given
        return
    from cytoserve_deploy.local_server import LocalServer

    with LocalServer(model_repository=ROOT / "model_repository") as server:
        yield server.grpc_url
