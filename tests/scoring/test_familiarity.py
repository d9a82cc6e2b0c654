"""Familiar pictures: p-values that are uniform at home, small away, and a cause that names what is unusual."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cytoserve_contract.image_statistics import IMAGE_STATISTIC_NAMES
from cytoserve_scoring.classifier.familiarity import LEAST_CELLS, LEVEL, FamiliarPictures
from cytoserve_scoring.errors import BadShape, CytoserveError
from scipy import stats

SIZE = len(IMAGE_STATISTIC_NAMES)
KINDS = ("lymphocyte", "monocyte", "neutrophil", "platelet")


def site(count: int, seed: int, shift: float = 0.0) -> tuple[np.ndarray, list[str]]:
    """Cells of one site: classes of different centre, width and number, heavy tails, correlated statistics."""
    rng = np.random.default_rng(seed)
    centre = np.random.default_rng(99).normal(0, 2, (len(KINDS), SIZE))
    mixing = np.random.default_rng(98).normal(0, 0.3, (SIZE, SIZE)) + np.eye(SIZE)
    kind = rng.choice(len(KINDS), count, p=(0.4, 0.1, 0.3, 0.2))
    noise = rng.standard_t(6, (count, SIZE)) * np.array([0.6, 1.5, 1.0, 2.0])[kind][:, None]
    return centre[kind] + 0.3 * noise @ mixing + shift, [KINDS[k] for k in kind]


@pytest.fixture(scope="module")
def home() -> FamiliarPictures:
    return FamiliarPictures.fit(*site(1200, 1))


def test_p_values_of_home_cells_are_uniform_also_for_one_class_alone(home: FamiliarPictures) -> None:
    values, labels = site(4000, 2)
    found = home.assess(values)
    assert (found.p_value <= LEVEL).mean() < 0.018
    assert stats.kstest(found.p_value, "uniform").statistic < 0.05
    for kind in KINDS:
        own = found.p_value_of_kind[np.array(labels) == kind]
        assert stats.kstest(own, "uniform").statistic < 0.13, kind


def test_a_statistic_that_moved_is_seen_and_named_with_its_side(home: FamiliarPictures) -> None:
    values, _ = site(300, 3)
    for name, by in (("lamp_blue", -20.0), ("noise", 20.0)):
        moved = values.copy()
        moved[:, IMAGE_STATISTIC_NAMES.index(name)] += by
        found = home.assess(moved)
        assert (found.p_value <= home.level).all()
        assert np.mean([cause == f"{name}{'+' if by > 0 else '-'}" for cause in found.cause]) > 0.95


def test_an_answer_does_not_depend_on_company_nor_on_the_order_of_calibration(home: FamiliarPictures) -> None:
    values, labels = site(1200, 1)
    other = np.random.default_rng(0).permutation(1200)
    again = FamiliarPictures.fit(values[other], [labels[i] for i in other])
    cells, _ = site(50, 4)
    together = home.assess(cells)
    for i in range(50):
        assert home.assess(cells[i : i + 1]).distance[0] == pytest.approx(together.distance[i], rel=1e-9)
    np.testing.assert_allclose(again.centre, home.centre)
    np.testing.assert_allclose(again.precision, home.precision, rtol=1e-6)


def test_what_is_not_a_number_is_never_familiar(home: FamiliarPictures) -> None:
    values, _ = site(3, 5)
    values[0, 3] = np.nan
    values[1, 7] = np.inf
    found = home.assess(values)
    assert (found.p_value[:2] == 1 / (home.cells + 1)).all()
    assert np.isfinite(found.distance).all()


def test_few_calibration_cells_still_reject(home: FamiliarPictures) -> None:
    small = FamiliarPictures.fit(*site(60, 6))
    assert small.level == 1 / 61
    assert (small.assess(site(40, 7, shift=3.0)[0]).p_value <= small.level).all()
    with pytest.raises(BadShape, match=f"{LEAST_CELLS} or more"):
        FamiliarPictures.fit(*site(LEAST_CELLS - 1, 8))


def test_a_statistic_that_never_varies_in_calibration_breaks_nothing() -> None:
    values, labels = site(200, 9)
    values[:, 0] = 0.0
    made = FamiliarPictures.fit(values, labels)
    same = made.assess(values)
    assert np.isfinite(same.distance).all()
    off = values.copy()
    off[:, 0] = 0.5
    assert (made.assess(off).p_value <= made.level).all()


def test_a_class_with_one_calibration_cell_is_allowed() -> None:
    values, labels = site(200, 10)
    made = FamiliarPictures.fit(values, ["basophil", *labels[1:]])
    assert np.isfinite(made.assess(values).distance).all()


def test_it_survives_its_file_and_refuses_another(home: FamiliarPictures) -> None:
    data = json.loads(json.dumps(home.to_json()))
    read = FamiliarPictures.from_json(data)
    values, _ = site(500, 11)
    np.testing.assert_allclose(read.assess(values).p_value, home.assess(values).p_value, atol=2e-3)
    with pytest.raises(CytoserveError, match="another release"):
        FamiliarPictures.from_json({**data, "statistics": ["lamp"]})
    for broken in (
        {"centre": [0.0]},
        {"distances": ["x"]},
        {"usual": None},
        {"precision": [[float("nan")] * SIZE] * SIZE},
    ):
        spoilt = {**data, "classes": {**data["classes"], "monocyte": {**data["classes"]["monocyte"], **broken}}}
        with pytest.raises(CytoserveError, match="calibrate again"):
            FamiliarPictures.from_json(spoilt)


def test_each_calibration_cell_is_assessed_as_a_new_one_would_be() -> None:
    values, labels = site(1200, 1)
    own = FamiliarPictures.cross_fitted(values, labels)
    new = FamiliarPictures.fit(values, labels).assess(site(4000, 2)[0])
    assert own.unfamiliar.mean() == pytest.approx(new.unfamiliar.mean(), abs=0.01)
    assert stats.kstest(own.p_value, "uniform").statistic < 0.06
    assert len(own.cause) == 1200
    odd = values.copy()
    odd[17, IMAGE_STATISTIC_NAMES.index("noise")] += 50.0
    found = FamiliarPictures.cross_fitted(odd, labels)
    assert (found.unfamiliar[17], found.cause[17]) == (True, "noise+")


def test_slides_that_are_left_out_whole_show_what_new_slides_would_get() -> None:
    values, labels = site(600, 1)
    slide = np.arange(600) % 6
    moved = values + np.random.default_rng(0).normal(0, 1.0, (6, SIZE))[slide]
    by_cell = FamiliarPictures.cross_fitted(moved, labels)
    by_slide = FamiliarPictures.cross_fitted(moved, labels, [str(name) for name in slide])
    assert by_slide.unfamiliar.mean() > 5 * by_cell.unfamiliar.mean()
    one_of_two = [str(i % 2) for i in range(600)]
    assert np.isfinite(FamiliarPictures.cross_fitted(values, labels, one_of_two).distance).all()
    for wrong in (["one"] * 600, ["one", "two"]):
        with pytest.raises(BadShape, match="slides"):
            FamiliarPictures.cross_fitted(values, labels, wrong)


def test_classes_of_few_cells_keep_their_centre_where_a_part_of_them_is_left_out() -> None:
    values, _ = site(48, 1)
    labels = [f"class {i % 8}" for i in range(48)]
    found = FamiliarPictures.cross_fitted(values, labels)
    assert np.isfinite(found.distance).all()
    assert found.unfamiliar.mean() < 0.2
    assert FamiliarPictures.fit(values, labels).names == tuple(sorted(set(labels)))


def test_some_cells_of_an_assessment_keep_their_own_values() -> None:
    values, labels = site(200, 1)
    found = FamiliarPictures.cross_fitted(values, labels)
    part = found.take(np.array([5, 3]))
    assert part.cause == [found.cause[5], found.cause[3]]
    np.testing.assert_array_equal(part.columns(), found.columns()[[5, 3]])
    np.testing.assert_array_equal(part.unfamiliar, found.unfamiliar[[5, 3]])


def test_cells_that_make_no_reference_are_refused_with_the_reason() -> None:
    values, labels = site(200, 1)
    spoilt = values.copy()
    spoilt[3, 2] = np.nan
    for cells, names, complaint in (
        (spoilt, labels, "1 of 200 cells have image statistics that are not finite"),
        (np.ones((200, SIZE)), labels, "one and the same picture"),
        (values, [f"class {i // 4}" for i in range(200)], "no class has 5 cells"),
        (values, labels[:-1], "do not fit 199 labels"),
    ):
        for make in (FamiliarPictures.fit, FamiliarPictures.cross_fitted):
            with pytest.raises(BadShape, match=complaint):
                make(cells, names)
