"""The figures in README.md, in docs and on the model card are those of the results."""

from __future__ import annotations

import pytest

from benchmarks import render
from benchmarks.results import ROOT


def test_printed_figures_are_those_of_the_results():
    assert render.stale() == [], "run `make documents`"


@pytest.mark.parametrize("name", render.MARKED)
def test_every_document_still_has_its_marks(name):
    assert render.MARK.search((ROOT / name).read_text()), "the marks were lost"


def test_every_part_is_shown_somewhere():
    shown = {found[1] for name in render.MARKED for found in render.MARK.findall((ROOT / name).read_text())}
    assert shown == set(render.PARTS)


def test_a_document_with_another_figure_is_out_of_date(monkeypatch, tmp_path):
    text = "before <!-- figures: cost -->\n99.9 %\n<!-- end --> after"
    again = render.filled(text)
    assert "99.9" not in again
    assert again.startswith("before <!-- figures: cost -->\n")
    assert again.endswith("<!-- end --> after")
    (tmp_path / "page.md").write_text(text)
    monkeypatch.setattr(render, "ROOT", tmp_path)
    monkeypatch.setattr(render, "documents", lambda: iter([(tmp_path / "page.md", again)]))
    assert render.stale() == ["page.md"]
    render.write_documents()
    assert render.stale() == []


def test_an_unknown_mark_is_no_silent_hole():
    with pytest.raises(KeyError):
        render.filled("<!-- figures: nothing -->\n<!-- end -->")
