"""Our metrics on the real Triton: real cells and fields go in, ``/metrics`` is read before and after."""

from __future__ import annotations

import json
import re
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from cytoserve_contract.names import ENV_CALIBRATION
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_deploy.launch.warmup import cell_png, field_png
from cytoserve_scoring.serving.metrics import FAMILIES
from triton_calls import OWN_SERVER, ROOT, Answer, answers, calibration, files, tensor
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

pytestmark = OWN_SERVER

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
CLASSES = json.loads((ROOT / "model_repository/scorer/1/scoring.json").read_text())["classes"]


def parse(text: str) -> Samples:
    """Read Prometheus' text format (version 0.0.4): name, labels, value."""
    samples: Samples = {}
    for name, labels, value in re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", text, re.MULTILINE):
        samples[name, frozenset(re.findall(r'(\w+)="([^"]*)"', labels))] = float(value)
    return samples


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A server of our own, with a second site: what other tests send must not be counted here."""
    folder = tmp_path_factory.mktemp("calibration")
    (folder / "north.json").write_text(json.dumps(calibration("north")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENV_CALIBRATION, str(folder))
        with LocalServer(model_repository=ROOT / "model_repository", scorer_instances=2) as started:
            yield started


@pytest.fixture
def change(server: LocalServer) -> Callable[..., float]:
    """Return a function that says by how much the series of a name and labels has risen since the test began."""

    def scrape() -> Samples:
        with urllib.request.urlopen(server.metrics_url, timeout=10) as answer:
            return parse(answer.read().decode())

    before = scrape()

    def risen(name: str, **labels: str) -> float:
        wanted = frozenset(labels.items())
        both = [{k: v for k, v in s.items() if k[0] == name and wanted <= k[1]} for s in (scrape(), before)]
        assert both[0], f"{name} {labels} is not exported"
        return sum(both[0].values()) - sum(both[1].values())

    return risen


def send(
    server: LocalServer, model: str, images: list[bytes], um_per_pixel: float = 0.18, **parameters: object
) -> Answer:
    with grpc.InferenceServerClient(server.grpc_url) as client:
        inputs = [tensor("IMAGE", files(images)), tensor("UM_PER_PIXEL", np.array([um_per_pixel], np.float32))]
        return answers(client.infer(model, inputs, parameters=parameters or None, client_timeout=120))


def test_every_family_is_exported_with_its_type(server: LocalServer) -> None:
    send(server, "cell_analysis", [cell_png(), b"no image"], budget=1)
    send(server, "smear_analysis", [(ROOT / "examples/synthetic_field.png").read_bytes()], 0, budget=1)
    with urllib.request.urlopen(server.metrics_url, timeout=10) as answer:
        text = answer.read().decode()
    exported = dict(re.findall(r"^# TYPE (cytoserve_\w+) (\w+)$", text, re.MULTILINE))
    assert exported == {family.name: family.kind for family in FAMILIES}
    assert dict(re.findall(r"^# HELP (cytoserve_\w+) (.*)$", text, re.MULTILINE)) == {f.name: f.help for f in FAMILIES}
    labels = defaultdict(set)
    for name, pairs in parse(text):
        labels[re.sub(r"_(bucket|sum|count)$", "", name)] |= {key for key, _ in pairs} - {"le"}
    for family in FAMILIES:
        assert labels[family.name] == set(family.labels), family.name


def test_answers_and_counters_agree(server: LocalServer, change: Callable[..., float]) -> None:
    """What is counted is what the caller was told, cell by cell."""
    pictures = [cell_png(size) for size in (120, 140, 160, 180)]
    answer = send(server, "cell_analysis", [*pictures, b"", b"text"], budget=2)
    told = Counter(
        ("none" if label < 0 else CLASSES[label], ("accept", "review")[decision])
        for label, decision in zip(answer["LABEL"], answer["DECISION"], strict=True)
    )
    for name in (*CLASSES, "none"):
        for decision in ("accept", "review"):
            count = change("cytoserve_cells_total", **{"class": name, "decision": decision})
            assert count == told[name, decision], (name, decision)
    reasons = Counter(reason for text in answer["REASONS"] for reason in text.decode().split(",") if reason)
    assert reasons
    for reason, count in reasons.items():
        assert change("cytoserve_review_reasons_total", reason=reason) == count
    assert change("cytoserve_evaluations_total") == answer["EVALUATIONS"].sum()
    assert change("cytoserve_rounds_total") >= 1
    assert change("cytoserve_images_total", model="cell_decoder", outcome="accepted") == 4
    assert change("cytoserve_images_total", model="cell_decoder", outcome="empty") == 1
    assert change("cytoserve_images_total", model="cell_decoder", outcome="not_an_image") == 1


def test_histograms_hold_the_answers_values(server: LocalServer, change: Callable[..., float]) -> None:
    answer = send(server, "cell_analysis", [cell_png(size) for size in (120, 140, 160)], budget=2)
    for family, values in (
        ("cytoserve_confidence_ratio", answer["POSTERIOR"].max(axis=1)),
        ("cytoserve_anomaly_p_value", answer["ANOMALY"][:, 1]),
        ("cytoserve_familiarity_p_value", answer["DOMAIN"][:, 2]),
    ):
        assert change(f"{family}_count", site="home") == change(f"{family}_count") == len(values)
        assert change(f"{family}_sum") == pytest.approx(float(values.sum()), rel=1e-5)
        for bound in next(f for f in FAMILIES if f.name == family).buckets:
            below = change(f"{family}_bucket", le=f"{bound:g}")
            assert below == (values.astype(float) <= bound).sum(), (family, bound)
        assert change(f"{family}_bucket", le="+Inf") == len(values)


def test_field_is_counted_by_kind(server: LocalServer, change: Callable[..., float]) -> None:
    answer = send(server, "smear_analysis", [(ROOT / "examples/synthetic_field.png").read_bytes()], 0, budget=1)
    assert change("cytoserve_fields_total", scale_source=answer["SCALE_SOURCE"][0].decode()) == 1
    for number, kind in enumerate(("white_cell", "red_cell", "platelet")):
        assert change("cytoserve_found_cells_total", kind=kind) == (answer["KIND"] == number).sum()
    assert change("cytoserve_images_total", model="field_decoder", outcome="accepted") == 1
    assert change("cytoserve_cells_total") == len(answer["LABEL"])


@pytest.mark.parametrize(
    ("model", "images", "scale", "parameters", "counted_by", "code"),
    [
        ("smear_analysis", [b"no image"], 0.15, {}, "field_decoder", "not_an_image"),
        ("smear_analysis", [field_png()], -1.0, {}, "field_decoder", "bad_scale"),
        ("smear_analysis", [field_png()], 0.15, {"deadline_ms": 0}, "field_decoder", "deadline"),
        ("cell_analysis", [b"x"] * 513, 0.15, {}, "cell_decoder", "bad_shape"),
        ("cell_analysis", [cell_png()], 0.15, {"budget": 0}, "scorer", "bad_parameter"),
        # which step runs out of time depends on the machine's speed, that it is counted once does not
        ("cell_analysis", [cell_png()] * 200, 0.15, {"deadline_ms": 1500}, None, "deadline"),
    ],
)
def test_refusals_are_counted_by_code(
    server: LocalServer,
    change: Callable[..., float],
    model: str,
    images: list[bytes],
    scale: float,
    parameters: dict[str, object],
    counted_by: str | None,
    code: str,
) -> None:
    with pytest.raises(InferenceServerException, match=f"cytoserve:{code}]"):
        send(server, model, images, scale, **parameters)
    where = {"model": counted_by} if counted_by else {}
    assert change("cytoserve_requests_refused_total", **where, code=code) == 1
    assert change("cytoserve_requests_refused_total") == 1
    if counted_by == "field_decoder" and code != "deadline":
        assert change("cytoserve_images_total", model="field_decoder", outcome=code) == 1


def test_cancelled_call_is_counted(server: LocalServer, change: Callable[..., float]) -> None:
    inputs = [
        tensor("LATENT", np.random.default_rng(0).normal(size=(256, 24, 16, 16)).astype(np.float32)),
        tensor("CELL_FLAGS", np.zeros(256, np.int32)),
    ]
    with grpc.InferenceServerClient(server.grpc_url) as client:
        call = client.async_infer("scorer", inputs, callback=lambda result, error: None)
        for _ in range(600):
            if change("cytoserve_rounds_total") >= 1:
                break
        call.cancel()
        small = [tensor("LATENT", np.zeros((1, 24, 16, 16), np.float32)), tensor("CELL_FLAGS", np.zeros(1, np.int32))]
        # both instances answer, so the cancelled one has let go
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: client.infer("scorer", small, parameters={"budget": 1}), range(8)))
    for _ in range(600):
        if change("cytoserve_requests_refused_total", model="scorer", code="cancelled"):
            break
    assert change("cytoserve_requests_refused_total", model="scorer", code="cancelled") == 1


def test_processes_add_up(server: LocalServer, change: Callable[..., float]) -> None:
    """Two scorer processes and both decoders write to the same series: nothing is lost, nothing is kept apart."""
    with ThreadPoolExecutor(6) as pool:
        told = list(
            pool.map(lambda size: send(server, "cell_analysis", [cell_png(size)] * 3, budget=1), range(120, 132))
        )
    assert change("cytoserve_cells_total") == 36
    assert change("cytoserve_confidence_ratio_count") == 36
    assert change("cytoserve_evaluations_total") == sum(answer["EVALUATIONS"].sum() for answer in told)
    assert change("cytoserve_images_total", model="cell_decoder") == 36
    workers = [p for p in stub_processes(server.pid) if "/models0/scorer/" in p]
    assert len(workers) == 2, "the test means nothing with one process"


def stub_processes(group: int) -> list[str]:
    """Return the command lines of the server's Python stubs."""
    lines = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if int(fields[2]) == group and "triton_python_backend_stub" in line:
                lines.append(line)
    return lines


def test_shared_memory_is_watched(server: LocalServer, change: Callable[..., float]) -> None:
    send(server, "cell_analysis", [cell_png()], budget=1)
    with urllib.request.urlopen(server.metrics_url, timeout=10) as answer:
        samples = parse(answer.read().decode())
    used, size = (samples["cytoserve_shared_memory_bytes", frozenset({("state", s)})] for s in ("used", "size"))
    assert 0 < used < size, "the server's own regions lie there"


def test_evaluations_answered_are_the_rows_the_denoiser_received(
    server: LocalServer, change: Callable[..., float], data_dir: Path
) -> None:
    """Triton's own counter of the denoiser is the authority; real cells, so that near ties are among them."""
    cells = [
        path.read_bytes() for home in sorted((data_dir / "pbc/val").iterdir()) for path in sorted(home.iterdir())[:8]
    ]

    def received() -> int:
        with grpc.InferenceServerClient(server.grpc_url) as client:
            return int(client.get_inference_statistics("denoiser").model_stats[0].inference_count)

    before = received()
    answer = send(server, "cell_analysis", cells)
    told = int(answer["EVALUATIONS"].sum())
    assert told == received() - before == change("cytoserve_evaluations_total")
    assert (answer["EVALUATIONS"] > 8).any(), "no near tie among the cells: the test means little"
