"""Cohen's kappa against statsmodels and scikit-learn's definition."""

from __future__ import annotations

import numpy as np
import pytest
from cytoserve_statistics.agreement import cohens_kappa
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from statsmodels.stats.inter_rater import cohens_kappa as outside


@settings(deadline=None, max_examples=60)
@given(counts=st.integers(2, 6).flatmap(lambda c: st.lists(st.integers(0, 30), min_size=c * c, max_size=c * c)))
def test_value_and_interval_are_those_of_statsmodels(counts: list[int]) -> None:
    side = int(len(counts) ** 0.5)
    table = np.array(counts).reshape(side, side)
    assume(table.sum() and np.trace(table) < table.sum())
    ours = cohens_kappa(table)
    assume(ours.value is not None)
    theirs = outside(table)
    # Where nothing varies, rounding makes them a negative variance and no number, or one of 1e-16 and a root of 1e-8.
    assume(np.isfinite(theirs.kappa_low))
    assert ours.value == pytest.approx(theirs.kappa)
    assert ours.items == table.sum()
    assert ours.low == pytest.approx(max(-1, theirs.kappa_low), abs=1e-6)
    assert ours.high == pytest.approx(min(1, theirs.kappa_upp), abs=1e-6)


def test_a_table_without_variance_has_an_interval_of_no_width() -> None:
    found = cohens_kappa([[0, 0], [1, 4]])
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_the_order_of_classes_and_of_readers_changes_nothing() -> None:
    table = np.array([[30, 2, 1], [4, 20, 3], [0, 5, 9]])
    shuffled = table[np.ix_([2, 0, 1], [2, 0, 1])]
    for other in (shuffled, table.T):
        assert cohens_kappa(other).value == pytest.approx(cohens_kappa(table).value)
        assert cohens_kappa(other).low == pytest.approx(cohens_kappa(table).low)


def test_readers_who_never_differ_get_no_interval_and_one_class_no_kappa() -> None:
    agreed = cohens_kappa([[7, 0], [0, 3]])
    assert (agreed.value, agreed.low, agreed.high) == (1.0, None, None)
    one_class = cohens_kappa([[5, 0], [0, 0]])
    assert (one_class.observed, one_class.value, one_class.low) == (1.0, None, None)


@pytest.mark.parametrize("table", [[[1, 2]], [[0, 0], [0, 0]], [[1, -1], [0, 2]], [1, 2]])
def test_a_table_that_is_none_is_refused(table: list[object]) -> None:
    with pytest.raises(ValueError, match="square table"):
        cohens_kappa(table)
