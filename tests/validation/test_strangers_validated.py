"""Strangers, kind by kind: what is referred, what is referred whatever the picture, and what the report says of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cytoserve_statistics.resampling import draw
from cytoserve_validation.anomalies import describe_anomalies, kinds, sentences
from scipy import stats
from synthetic_answers import answers


def strangers(reasons: list[tuple[str, ...]], names: list[str]):
    found = answers(len(names))
    return replace(
        found,
        names=tuple(names),
        truth=np.full(len(names), -1),
        accepted=np.array([not one for one in reasons]),
        reasons=tuple(reasons),
    )


def described(reasons: list[tuple[str, ...]], names: list[str]):
    cells = answers(80)
    resampler = draw([str(t) for t in cells.truth], None, None)
    return describe_anomalies(strangers(reasons, names), cells, resampler, None)


def test_each_kind_is_counted_by_itself():
    reasons = [("anomalous",)] * 18 + [()] * 2 + [("unfamiliar_image",)] * 5
    names = [f"odd/blast/{i}.png" for i in range(20)] + [f"odd/smudge/{i}.png" for i in range(5)]
    found = described(reasons, names)["by_kind"]
    blast, smudge = found["blast"], found["smudge"]
    assert blast["referred"]["value"] == pytest.approx(0.9)
    low, high = stats.binomtest(18, 20).proportion_ci(method="exact")
    assert (blast["referred"]["low"], blast["referred"]["high"]) == (pytest.approx(low), pytest.approx(high))
    assert blast["reasons"] == {"anomalous": 18}
    assert smudge["referred"]["value"] == 1
    assert smudge["referred_whatever_the_picture"]["value"] == 0, (
        "a picture of another scanner is no sense for strangers"
    )


def test_a_folder_without_folders_is_one_kind():
    found = strangers([()] * 3, [f"odd/{i}.png" for i in range(3)])
    assert kinds(found) == ["odd"]


def test_the_sentences_say_when_strangers_come_from_another_scanner():
    names = [f"odd/blast/{i}.png" for i in range(10)]
    same = sentences(described([("anomalous",)] * 10, names))
    assert same[0].startswith("blast: 10 cell(s), referred 100.0%")
    assert not any("another scanner" in text for text in same)
    other = sentences(described([("unfamiliar_image",)] * 10, names))
    assert "Pictures of blast are unlike the calibration's" in other[-1]
    assert sentences(None) == []
