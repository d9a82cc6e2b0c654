"""The kserve package's typed models judge what was sent, in a process of their own (see tests/helm/authorities.py)."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable

import pytest
from fake_api import FakeApi
from installed import LINE, ROOT
from typer.testing import Result


@pytest.mark.skipif(importlib.util.find_spec("kserve") is None, reason="kserve is not installed")
def test_kserves_own_models_take_the_objects(
    install: Callable[[str], None], deploy: Callable[..., Result], api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "tests" / "helm")])
    from authorities import check_typed_apart

    install("Standard")
    assert deploy("apply", "--version", "v2", "--image", "r.example/s:2").exit_code == 0
    green = [api.read(kind, f"{LINE}-v2")["spec"] for kind in ("inferenceservices", "servingruntimes")]
    check_typed_apart(green[0], "V1beta1InferenceServiceSpec")
    check_typed_apart(green[1], "V1alpha1ServingRuntimeSpec")
    with pytest.raises(AssertionError, match="canaryPercent"):
        check_typed_apart({"predictor": {"canaryPercent": 5}}, "V1beta1InferenceServiceSpec")
