"""The figures printed in the README and docs/benchmarks.md are those of the results."""

from __future__ import annotations

import pytest

from benchmarks import figures


@pytest.mark.parametrize("file", figures.FILES, ids=str)
def test_printed_figures_are_those_of_the_results(file):
    text = file.read_text()
    assert figures.MARK.search(text), "the marks were lost"
    assert figures.rewritten(text) == text, "run `make evidence`"


def test_a_changed_figure_is_written_over():
    text = "before <!-- figures: cost -->\n99.9 %\n<!-- end --> after"
    again = figures.rewritten(text)
    assert "99.9" not in again
    assert again.startswith("before <!-- figures: cost -->\n")
    assert again.endswith("<!-- end --> after")


def test_an_unknown_mark_is_no_silent_hole():
    with pytest.raises(KeyError):
        figures.rewritten("<!-- figures: nothing -->\n<!-- end -->")
