"""Fuzzing at a small scale: the decoder by Hypothesis and guided by coverage, and every tensor of the server.

The long runs are `make fuzz`; their figures stand in docs/reliability.md.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from cytoserve_deploy.launch.local_server import LocalServer
from cytoserve_scoring.vision import imaging
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from known_cells import ROOT

from benchmarks import fuzz_decoder, fuzz_server, fuzz_target
from benchmarks.fuzz_seeds import mutated, seeds, with_right_sums

FILES = seeds()
CASES = 2000
REQUESTS = 800
QUIET = settings(
    max_examples=400, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty million pixels a case would reach no other code, only later."""
    monkeypatch.setattr(imaging, "MAX_PIXELS", fuzz_target.MAX_PIXELS)


@QUIET
@given(st.sampled_from(FILES), st.integers(0, 2**32))
def test_a_spoilt_file_is_decoded_or_refused_with_a_code(data: bytes, how: int) -> None:
    fuzz_target.outcome(mutated(data, random.Random(how)), whole_path=how % 10 == 0)


@QUIET
@given(st.sampled_from(FILES), st.data())
def test_a_file_cut_off_anywhere(data: bytes, choose: st.DataObject) -> None:
    fuzz_target.outcome(data[: choose.draw(st.integers(0, len(data)))])


@QUIET
@given(st.sampled_from(FILES), st.sampled_from(FILES), st.integers(0, 64))
def test_the_head_of_one_file_on_the_body_of_another(head: bytes, body: bytes, length: int) -> None:
    fuzz_target.outcome(head[:length] + body[length:], whole_path=True)


def test_whole_files_are_judged_as_they_are() -> None:
    """Positive control of the judge: most seeds decode, and each of the others has the code it should have."""
    found = [fuzz_target.outcome(data, whole_path=True) for data in FILES]
    assert found.count("decoded") >= 18
    assert {"empty", "not_an_image", "unsupported_mode"} <= set(found)
    png = bytearray(FILES[0])
    png[20] ^= 1  # the picture's width, so that its checksum is wrong
    assert with_right_sums(bytes(png)) != bytes(png)
    assert with_right_sums(FILES[0]) == FILES[0]


def test_a_decoder_that_fails_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positive control: an exception that is no refusal is not counted as one."""
    monkeypatch.setattr(imaging, "_check_colour", lambda pixels: pixels.no_such_thing)
    with pytest.raises(AttributeError):
        fuzz_target.outcome(FILES[0])


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="atheris has no wheel for this Python")
class TestGuidedByCoverage:
    """libFuzzer through atheris, in processes of its own."""

    def test_a_short_run_reaches_new_code_and_ends_well(self, tmp_path: Path) -> None:
        pytest.importorskip("atheris")
        for part in (1, 2):
            found = fuzz_decoder.fuzz(CASES, 2, seed=part, keep=tmp_path)
            assert found["parts"] == part
            assert found["cases"] >= part * CASES  # each process also runs what the other one found
        assert found["files_kept"] > len(FILES), "nothing new was reached"
        assert found["branches_covered"] > 500
        assert sum(found["outcomes"].values()) == found["cases"]

    def test_a_crash_is_told_with_the_file_that_did_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Positive control: a decoder in the fuzzer's process that fails for some files."""
        pytest.importorskip("atheris")
        faulty = tmp_path / "faulty.py"
        faulty.write_text(
            "from cytoserve_scoring.vision import file_kinds, imaging\n"
            "def fails(data):\n    raise KeyError(len(data))\n"
            "imaging._webp_size = fails\n"
            "from benchmarks import fuzz_target\n"
            "fuzz_target.main()\n"
        )
        usual = fuzz_decoder._command
        monkeypatch.setattr(fuzz_decoder, "_command", lambda *words: [sys.executable, str(faulty), *usual(*words)[3:]])
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        with pytest.raises(SystemExit, match="KeyError") as told:
            fuzz_decoder.fuzz(2000, 1, seed=1, keep=tmp_path / "kept")
        assert "failed-" in str(told.value)


@pytest.mark.integration
def test_every_tensor_of_the_ensembles_and_of_their_steps(server: LocalServer) -> None:
    found = fuzz_server.fuzz(server, REQUESTS)
    assert found["requests"] >= REQUESTS
    assert set(found["models"]) == {*fuzz_server_models()}
    assert found["outcomes"]["answered"] > REQUESTS / 10, "hardly any request reached the models"
    assert len(found["outcomes"]) >= 8, "refusals of many kinds"


def fuzz_server_models() -> tuple[str, ...]:
    from benchmarks.fuzz_requests import ENSEMBLES, STEPS

    return (*ENSEMBLES, *STEPS)
