"""The measurement of familiar pictures: its sample test is Fisher's, and every way of spoiling changes a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.familiarity import group_of, sample_p_value, ways


def test_a_sample_is_judged_by_fishers_method() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 20, 50):
        p_values = rng.uniform(size=size)
        assert sample_p_value(p_values) == pytest.approx(stats.combine_pvalues(p_values, "fisher").pvalue)


@pytest.mark.parametrize("name", sorted(set(ways()) - {"as they are"}))
def test_every_way_of_spoiling_changes_the_picture_or_its_scale(name: str) -> None:
    picture = np.random.default_rng(1).integers(40, 230, (96, 96, 3), dtype=np.uint8)
    factor, change = ways()[name]
    changed = change(picture)
    assert (changed.dtype, changed.shape) == (np.uint8, picture.shape)
    assert factor != 1 or (changed != picture).any()


def test_samples_of_a_site_are_its_subjects_and_slides() -> None:
    assert group_of("bcisc", Path("basophil/baso_10-1_0.jpg")) == "10"
    assert group_of("chula_wbc", Path("basophil/B-30_0047_0_train.jpg")) == "B-30"
    assert group_of("bccd_cells", Path("monocyte/x.jpg")) == "monocyte"
