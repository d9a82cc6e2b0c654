"""Several sites on the real Triton: each request is answered by the calibration that it names."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cytoserve_deploy.errors import DeployError
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_deploy.launch.warmup import cell_png
from cytoserve_scoring.serving import site
from triton_calls import OWN_SERVER, ROOT, Answer, answers, calibration, files, tensor
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

pytestmark = OWN_SERVER

MODEL = json.loads((ROOT / "model_repository/scorer/1/scoring.json").read_text())
LAX, STRICT = 'ward 7, "Müller"', "site\\b"
"""Names that a label must be able to carry."""
BUDGET = 2
THRESHOLDS = {LAX: 1e-6, STRICT: 1.0}
PICTURES = [cell_png(size) for size in (120, 140, 160)]


def of_site(name: str) -> dict[str, Any]:
    """Return the calibration of one of the two sites."""
    threshold = [THRESHOLDS[name]] * MODEL["probes"]
    return calibration(name, accept_threshold=threshold, default_budget=BUDGET, calibrated=[BUDGET])


def as_config_map(folder: Path) -> Path:
    """Write the two sites as Kubernetes mounts a ConfigMap."""
    made = folder / "..2026_11_26_09_00_00.1"
    made.mkdir(parents=True)
    (folder / "..data").symlink_to(made.name)
    for number, name in enumerate(THRESHOLDS):
        (made / f"{number}.json").write_text(json.dumps(of_site(name)))
        (folder / f"{number}.json").symlink_to(f"..data/{number}.json")
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(site.CALIBRATION_ENV, str(as_config_map(tmp_path_factory.mktemp("sites") / "mounted")))
        with LocalServer(model_repository=ROOT / "model_repository") as started:
            yield started


def send(server: LocalServer, model: str = "cell_analysis", **parameters: object) -> Answer:
    images = PICTURES if model == "cell_analysis" else [(ROOT / "examples/synthetic_field.png").read_bytes()]
    with grpc.InferenceServerClient(server.grpc_url) as client:
        inputs = [tensor("IMAGE", files(images)), tensor("UM_PER_PIXEL", np.array([0.18], np.float32))]
        return answers(client.infer(model, inputs, parameters=parameters or None, client_timeout=120))


def low_confidence(answer: Answer) -> list[bool]:
    return ["low_confidence" in text.decode().split(",") for text in answer["REASONS"]]


def metrics(server: LocalServer) -> str:
    with urllib.request.urlopen(server.metrics_url, timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def cells_of(server: LocalServer, label: str) -> float:
    lines = re.findall(r"^cytoserve_cells_total\{(.*)\} (\S+)$", metrics(server), re.MULTILINE)
    return sum(float(value) for labels, value in lines if f'site="{label}"' in labels)


def test_the_same_cell_meets_the_thresholds_of_its_site(server: LocalServer) -> None:
    lax, strict = send(server, site=LAX), send(server, site=STRICT)
    assert np.array_equal(lax["POSTERIOR"], strict["POSTERIOR"])
    assert low_confidence(lax) == [False] * len(PICTURES)
    assert low_confidence(strict) == (strict["POSTERIOR"].max(axis=1) < 1.0).tolist()
    assert any(low_confidence(strict))


def test_no_site_is_the_home_site_although_the_folder_holds_others(server: LocalServer) -> None:
    unnamed, home, other = send(server), send(server, site="home"), send(server, site=LAX)
    for name, values in unnamed.items():
        assert np.array_equal(values, home[name]), name
    assert not np.array_equal(unnamed["SCORES"], other["SCORES"]), "another default budget"
    assert (other["EVALUATIONS"] < unnamed["EVALUATIONS"]).any()


@pytest.mark.parametrize("model", ["cell_analysis", "smear_analysis"])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("south", f"site 'south' is not served here; choose from home, {LAX}, {STRICT}"),
        ("x" * 10_000, "site must be a text of 1 to 100 printable characters"),
        ("ward\n7", "site must be a text of 1 to 100 printable characters"),
        ("\x00", "site must be a text of 1 to 100 printable characters"),
        ("", "site must be a text of 1 to 100 printable characters"),
    ],
)
def test_a_site_that_is_not_served_is_refused_by_the_first_step(
    server: LocalServer, model: str, name: str, says: str
) -> None:
    """By the step that decodes: nothing was scored, or even decoded."""
    first = "cell_decoder" if model == "cell_analysis" else "field_decoder"

    def counted() -> list[str]:
        images = re.findall(rf'^cytoserve_images_total\{{.*model="{first}".*$', metrics(server), re.MULTILINE)
        refused = f'cytoserve_requests_refused_total{{code="bad_parameter",model="{first}"}} '
        return [*images, *(line for line in metrics(server).splitlines() if line.startswith(refused))]

    before = counted()
    with pytest.raises(InferenceServerException) as refusal:
        send(server, model, site=name)
    message = refusal.value.message()
    assert "[cytoserve:bad_parameter]" in message
    assert says in message
    assert len(message) < 1000
    after = counted()
    assert after[:-1] == before[:-1]
    assert float(after[-1].split()[-1]) == float(before[-1].split()[-1]) + 1


def test_the_scorer_refuses_it_too_when_it_is_called_directly(server: LocalServer) -> None:
    with grpc.InferenceServerClient(server.grpc_url) as client:
        inputs = [tensor("LATENT", np.zeros((1, 24, 16, 16), np.float32)), tensor("CELL_FLAGS", np.zeros(1, np.int32))]
        with pytest.raises(InferenceServerException, match="site 'south' is not served here"):
            client.infer("scorer", inputs, parameters={"site": "south"}, client_timeout=120)


def test_metrics_tell_the_sites_apart(server: LocalServer) -> None:
    before = {name: cells_of(server, name) for name in ("home", 'ward 7, \\"Müller\\"', "site\\\\b")}
    assert len(metrics(server)) > 1000
    send(server, site=LAX)
    send(server, site=LAX)
    send(server, site=STRICT)
    after = {name: cells_of(server, name) - count for name, count in before.items()}
    assert after == {"home": 0, 'ward 7, \\"Müller\\"': 2 * len(PICTURES), "site\\\\b": len(PICTURES)}
    text = metrics(server)
    band = of_site(STRICT)["expected_referral"]
    for bound in ("value", "low", "high"):
        line = f'cytoserve_expected_referral_ratio{{bound="{bound}",site="site\\\\b"}} {band[bound]}'
        assert line in text.splitlines(), bound
    assert re.search(r'^cytoserve_running_test_ratio\{scorer="scorer_\w+",site="site\\\\b"\} ', text, re.MULTILINE)
    assert re.search(r'^cytoserve_familiarity_p_value_count\{site="site\\\\b"\} [1-9]', text, re.MULTILINE)


def test_drawn_cells_raise_the_running_tests_alarm(server: LocalServer) -> None:
    """Drawn discs are like no photograph: their site's test sees it, and the answers stay what they were."""

    def alarms() -> float:
        found = re.search(r'^cytoserve_running_test_alarms_total\{site="site\\\\b"\} (\S+)$', metrics(server), re.M)
        assert found is not None
        return float(found[1])

    first = send(server, site=STRICT)
    for _ in range(20):
        last = send(server, site=STRICT)
    assert alarms() >= 1
    for name, values in first.items():
        assert np.array_equal(values, last[name]), name


def test_service_info_lists_the_sites(server: LocalServer) -> None:
    with grpc.InferenceServerClient(server.grpc_url) as client:
        answer = client.infer("service_info", [tensor("QUERY", files([b"info"]))])
    told = json.loads(answer.as_numpy("INFO")[0])
    assert [one["site"] for one in told["sites"]] == ["home", LAX, STRICT]
    for key in ("created", "content_sha256", "promise", "expected_referral"):
        assert told["sites"][1][key] == of_site(LAX)[key], key
    assert (told["sites"][0]["default_budget"], told["sites"][1]["default_budget"]) == (MODEL["default_budget"], BUDGET)


@pytest.mark.parametrize(
    ("second", "complaint"),
    [
        (calibration(LAX.upper()), "are both of the site"),
        ({**calibration("south"), "site": "north"}, "was changed after it was made"),
    ],
)
def test_one_bad_file_stops_the_start_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: dict[str, Any], complaint: str
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(calibration(LAX)))
    (tmp_path / "b.json").write_text(json.dumps(second))
    monkeypatch.setenv(site.CALIBRATION_ENV, str(tmp_path))
    with (
        pytest.raises(DeployError, match=rf"b\.json.*{complaint}"),
        LocalServer(model_repository=ROOT / "model_repository", warm_up=False),
    ):
        pass
