"""The image: what its files promise, and, where asked for, the ``cpu`` target built and called in a chroot."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy/docker"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
BASE = "localhost/cytoserve-debian:bookworm"
IMAGE = "localhost/cytoserve/server:cpu-test"


def stage(name: str) -> str:
    """Return the text of one stage of the Dockerfile."""
    return re.split(rf"^FROM .* AS {name}$", DOCKERFILE, flags=re.M)[1].split("\nFROM ")[0]


@pytest.mark.parametrize("name", ["server", "cpu"])
def test_final_stage_is_hardened(name: str) -> None:
    text = stage(name)
    assert re.search(r"^USER 1000:1000$", text, re.M)
    assert '\nENTRYPOINT ["python3", "-m", "cytoserve_deploy.container.entrypoint"]' in text
    assert re.search(r"HEALTHCHECK .*\\\n    CMD \[.*\"probe\"\]", text)
    assert "sbom.cdx.json" in DOCKERFILE.split(f"AS {name}\n")[0]
    for port in ("8000", "8001", "8002"):
        assert port in re.findall(r"^EXPOSE (.*)$", text, re.M)[0].split()


def test_only_hashed_packages_are_installed() -> None:
    for line in re.findall(r"pip (?:install|wheel) .*", DOCKERFILE.replace("\\\n", " ")):
        assert "--require-hashes" in line or "--no-index" in line or line.endswith("--wheel-dir /wheels ."), line
        assert "--no-deps" in line, line


@pytest.mark.parametrize("name", ["server", "cpu", "tools"])
def test_every_locked_package_has_a_hash(name: str) -> None:
    text = (FOLDER / f"{name}.lock").read_text()
    entries = re.findall(r"^[a-z0-9].*?(?=^[a-z0-9]|\Z)", text, re.M | re.S)
    assert len(entries) > 10
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_lock_has_what_the_package_asks_for() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    wanted = re.findall(r'"([A-Za-z0-9_-]+)', re.search(r"^dependencies = \[(.*?)\]\n", project, re.M | re.S)[1])
    for name in ("server", "cpu"):
        locked = set(re.findall(r"^([a-z0-9-]+)==", (FOLDER / f"{name}.lock").read_text(), re.M))
        assert {item.lower() for item in wanted} <= locked, name
    assert "nvidia-pytriton" not in (FOLDER / "server.lock").read_text(), "the base image has its own Triton"


def test_compose_is_closed_to_the_network_and_finds_its_files() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert (FOLDER / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], volume
    for name in ("server-gpu", "server-cpu"):
        service = COMPOSE["services"][name]
        assert service["networks"]["default"]["aliases"] == ["server"]
        assert re.search(rf"^FROM .* AS {service['build']['target']}$", DOCKERFILE, re.M)
    scrape = yaml.safe_load((FOLDER / "prometheus/prometheus.yml").read_text())["scrape_configs"][0]
    assert scrape["static_configs"][0]["targets"] == ["server:8002"]


def run(*command: str, **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return str(done.stdout)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root folder of a container of the freshly built ``cpu`` target."""
    if os.environ.get("CYTOSERVE_TEST_IMAGE") != "1":
        pytest.skip("builds an image for many minutes: set CYTOSERVE_TEST_IMAGE=1 (make test-image)")
    lacking = [tool for tool in ("buildah", "debootstrap") if not shutil.which(tool)]
    if lacking or os.geteuid() != 0:
        pytest.skip(f"needs root and Debian's packages buildah and debootstrap (lacking: {lacking})")
    if subprocess.run(["buildah", "inspect", "--type", "image", BASE], capture_output=True, check=False).returncode:
        make_base(tmp_path_factory.mktemp("debian"))
    volumes = [f"--volume={volume}" for volume in os.environ.get("CYTOSERVE_IMAGE_VOLUMES", "").split()]
    run(
        *("buildah", "build", "--isolation", "chroot", "--layers", "--format", "docker", "--target", "cpu"),
        *("--build-arg", f"CPU_BASE={BASE}", *volumes, "-f", str(FOLDER / "Dockerfile"), "-t", IMAGE, str(ROOT)),
    )
    container = run("buildah", "from", IMAGE).strip()
    try:
        yield Path(run("buildah", "mount", container).strip())
    finally:
        run("buildah", "umount", container)
        run("buildah", "rm", container)


def make_base(folder: Path) -> None:
    """Make a Debian 12 with Python, in place of the registry's Python image."""
    packages = "ca-certificates,python3,python3-venv,python3-pip,libpython3.11"
    mirror = os.environ.get("CYTOSERVE_DEBIAN_MIRROR", "http://deb.debian.org/debian")
    run("debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(folder / "root"), mirror)
    container = run("buildah", "from", "scratch").strip()
    run("buildah", "add", "-q", container, str(folder / "root"), "/")
    run("buildah", "commit", "-q", "--rm", container, BASE)


@pytest.mark.timeout(3600)
def test_image_lists_its_parts_and_its_user(root: Path) -> None:
    bill = json.loads((root / "opt/cytoserve/sbom.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    parts = {part["name"].lower(): part["version"] for part in bill["components"]}
    assert {"cytoserve", "nvidia-pytriton", "onnxruntime", "numpy"} <= set(parts)
    config = json.loads(run("buildah", "inspect", "--type", "image", IMAGE))["Docker"]["config"]
    assert config["User"] == "1000:1000"
    assert config["Labels"]["io.cytoserve.variant"] == "cpu"


@dataclass(frozen=True)
class Running:
    """The server of the image: its ports on loopback and the command that enters the image."""

    grpc: int
    metrics: int
    module: list[str]
    log: Path

    def probe(self) -> subprocess.CompletedProcess[str]:
        """Ask for one cell with the image's own probe."""
        line = [*self.module, "probe", f"--url=127.0.0.1:{self.grpc}", "--model=cell_analysis", "--deadline=60"]
        return subprocess.run(line, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Running]:
    """The image's entrypoint as user 1000 in a chroot; ended by SIGTERM, as a container is."""
    http, grpc, metrics = (free_port() for _ in range(3))
    scratch = root / "tmp"
    scratch.chmod(0o1777)
    enter = ["chroot", "--userspec=1000:1000", str(root), "/usr/bin/env", "-i", *image_environment()]
    running = Running(
        grpc, metrics, [*enter, "python3", "-m", "cytoserve_deploy.container.entrypoint"], scratch / "server.log"
    )
    for name in ("proc", "dev"):
        run("mount", "--rbind", f"/{name}", str(root / name))
        run("mount", "--make-rslave", str(root / name))
    options = [f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}"]
    with open(running.log, "wb") as log:
        process = subprocess.Popen(
            [*running.module, "serve", "--address=127.0.0.1", *options], stdout=log, stderr=log, start_new_session=True
        )
    try:
        for _ in range(240):
            done = running.probe()
            if done.returncode == 0 or process.poll() is not None:
                break
            time.sleep(2)
        assert done.returncode == 0, done.stderr + running.log.read_text(errors="replace")[-3000:]
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(120)
        finally:
            for name in ("dev", "proc"):
                subprocess.run(["umount", "-R", str(root / name)], check=False)


@pytest.mark.timeout(3600)
def test_server_of_the_image_checks_its_models_and_answers(server: Running, root: Path) -> None:
    assert "one drawn cell answered: class" in server.probe().stdout
    names = json.loads((root / "models/manifest.json").read_text())["files"]
    log = server.log.read_text(errors="replace")
    assert f"/models: {len(names)} file(s) agree with manifest.json\n" in log
    print(server.probe().stdout, log[: log.index("\n")])


@pytest.mark.timeout(3600)
def test_image_exports_the_quantile_of_the_slow_alert(server: Running) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    found = [
        line for line in lines if line.startswith("nv_inference_request_summary_us{") and 'quantile="0.99"' in line
    ]
    assert [line for line in found if 'model="cell_analysis"' in line]


@pytest.mark.timeout(3600)
def test_integration_suite_passes_against_the_image(server: Running) -> None:
    """The same suite as against the local server; what starts servers of its own is skipped and says so."""
    line = [sys.executable, "-m", "pytest", "-q", "-rs", "tests/integration", f"--triton-url=127.0.0.1:{server.grpc}"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
    assert re.search(r"\d+ passed", done.stdout)
    print(done.stdout[-1500:])


def image_environment() -> list[str]:
    """Return the image's environment as ``NAME=value``."""
    config = json.loads(run("buildah", "inspect", "--type", "image", IMAGE))["Docker"]["config"]
    return [*config["Env"], "HOME=/tmp"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
