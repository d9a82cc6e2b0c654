"""What every room's tests share: an environment of their own, the shared folders, one real Triton a session."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from cytoserve_contract import telemetry

# before any test module imports onnxruntime or diffusers: the tests call home no more than the product does
telemetry.switch_off()
# the tests' own calls of their servers (urllib, tritonclient); tests about proxies take this away again
for _variable in ("no_proxy", "NO_PROXY"):
    os.environ[_variable] = ",".join(filter(None, (os.environ.get(_variable), "127.0.0.1,localhost,::1")))

# A suite that was green stays green: the same examples each time. Others: `pytest --hypothesis-profile=explore`.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.register_profile("explore")
hypothesis.settings.load_profile("same")

ROOT = Path(__file__).resolve().parents[1]

OF_THE_TESTS = (
    "CYTOSERVE_TEST_IMAGE",
    "CYTOSERVE_TEST_CLUSTER",
    "CYTOSERVE_GOLDEN",
    "CYTOSERVE_DEBIAN_MIRROR",
    "CYTOSERVE_IMAGE_VOLUMES",
    "CYTOSERVE_LOAD_",
)
"""Variables (or beginnings of their names) that steer tests; every other CYTOSERVE_ variable is the product's own."""

GIVEN = {
    name: os.environ.pop(name)
    for name in sorted(os.environ)
    if name.startswith("CYTOSERVE_") and not name.startswith(OF_THE_TESTS)
}
"""Taken out before any test is imported: the commands under test read them as their defaults, so a variable that says
where the tests find their images would change what is tested."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--triton-url",
        metavar="HOST:PORT",
        help="gRPC address of a running CytoServe to test instead of starting a local one",
    )


SLOW_FOLDERS = ("export", "faults", "image", "integration", "load", "rollout", "training")
"""Rooms whose tests start a server, train, or trace graphs."""

SLOW_FIXTURES = {"triton_url", "data_dir", "chromium"}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Spare `make check` the imports of folders that hold no unit test."""
    folder = collection_path.is_dir() and collection_path.parent == ROOT / "tests" and collection_path.name
    return True if config.getoption("markexpr") == "unit" and folder in SLOW_FOLDERS else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as ``unit`` what needs no Triton, no training, no tracing of graphs and no real images."""
    for item in items:
        slow = item.path.parent.name in SLOW_FOLDERS or item.get_closest_marker("integration") is not None
        if not slow and not SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("unit")


def missing(text: str) -> None:
    """Skip with the reason; in CI a skipped test proves nothing, so it fails."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(text)
    pytest.skip(text)


def shared(variable: str, name: str) -> Path:
    """Return the folder that a variable names, else the one of ``shared/`` beside the checkout; it may be missing."""
    return Path(GIVEN.get(variable) or ROOT.parent / "shared" / name)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real images: $CYTOSERVE_DATA, else ../shared/data beside the checkout."""
    folder = shared("CYTOSERVE_DATA", "data")
    if not folder.is_dir():
        missing("no real images; set CYTOSERVE_DATA to a folder laid out as docs/segmenter.md describes")
    return folder


@pytest.fixture(scope="session")
def schemas_if_any() -> Path | None:
    """Folder of the custom resources' schemas: $CYTOSERVE_SCHEMAS, else ../shared/schemas beside the checkout."""
    folder = shared("CYTOSERVE_SCHEMAS", "schemas")
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def schemas(schemas_if_any: Path | None) -> Path:
    """Like `schemas_if_any`, for a test that means nothing without them."""
    if schemas_if_any is None:
        missing("no schemas of custom resources; set CYTOSERVE_SCHEMAS to a folder with one folder a group")
    assert schemas_if_any is not None
    return schemas_if_any


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium to drive; `make test` installs Debian's where it may."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        missing("no Chromium to look at pages with; as root: apt-get install chromium")
    assert found is not None
    return found


@pytest.fixture(scope="session")
def triton_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the gRPC address of a CytoServe that is ready: the one given, else one started here."""
    given = request.config.getoption("--triton-url")
    if given:
        yield given
        return
    from cytoserve_deploy.launch.local_server import LocalServer

    with LocalServer(model_repository=ROOT / "model_repository") as server:
        yield server.grpc_url


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line how many tests were skipped, why, and what would run them."""
    reasons = Counter(
        str(report.longrepr[2]).removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple)
    )
    if reasons:
        each = "; ".join(f"{count} because: {reason}" for reason, count in reasons.most_common())
        terminalreporter.write_line(f"Not tested here ({reasons.total()} skipped): {each}")
