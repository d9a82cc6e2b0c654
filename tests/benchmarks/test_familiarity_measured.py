"""The measurement of familiar pictures judges samples as the client does; its ways of spoiling change pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cytoserve_client.familiarity import judge_sample
from cytoserve_client.results import Cell, Familiarity
from cytoserve_contract.image_statistics import IMAGE_STATISTIC_NAMES
from cytoserve_scoring.classifier.familiarity import FamiliarPictures

from benchmarks.familiarity import group_of, is_rejected, ways


def test_a_sample_is_judged_as_the_client_judges_it() -> None:
    rng = np.random.default_rng(0)
    known = FamiliarPictures.fit(rng.normal(size=(400, len(IMAGE_STATISTIC_NAMES))), ["monocyte"] * 400)
    for shift, expected in ((0.0, False), (0.6, True)):
        found = known.assess(rng.normal(shift, 1, (50, len(IMAGE_STATISTIC_NAMES))))
        cells = [
            Cell(
                **{
                    **dict.fromkeys(("box", "kind", "uncertainty", "anomaly", "evaluations", "probability")),
                    "reasons": (),
                },
                label="monocyte",
                decision="accept",
                familiarity=Familiarity(
                    distance=found.distance[i],
                    p_value=found.p_value[i],
                    p_value_of_kind=found.p_value_of_kind[i],
                    cells_of_kind=int(found.cells_of_kind[i]),
                    cause=found.cause[i],
                ),
            )
            for i in range(50)
        ]
        judged = judge_sample(cells, "home")
        assert judged is not None
        assert judged.rejected == is_rejected(found, np.arange(50)) == expected


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
