"""Which parts of a film are read: real fields that people photographed, and drawings of what they pass over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cytoserve_slides.monolayer import layer_of
from PIL import Image
from slide_files import cells_on_glass

FIELDS = {"bccd": ("smears/bccd/images", 0.0777, 0.95), "chula_wbc": ("chula_wbc/fields/images", 0.15, 0.7)}
"""Folder, micrometres per pixel, least share of monolayers. Those of ``chula_wbc`` are photographs through an eyepiece
in uneven light, many with their red cells in rolls."""


@pytest.mark.parametrize("site", FIELDS)
def test_fields_that_people_photographed_are_monolayers(data_dir: Path, site: str) -> None:
    folder, scale, least = FIELDS[site]
    files = sorted((data_dir / folder).glob("*"))[::3][:80]
    layers = [layer_of(np.asarray(Image.open(file).convert("RGB")), scale) for file in files]
    assert len(layers) >= 50
    assert np.mean([layer.single for layer in layers]) > least, [layer for layer in layers if not layer.single]


@pytest.mark.parametrize("scale", [0.1, 0.25, 0.5])
def test_cells_apart_are_a_monolayer_at_any_scale(scale: float) -> None:
    side = round(200 / scale)
    found = layer_of(cells_on_glass(side, side, scale, share=0.3), scale)
    assert found.single
    assert found.covered == pytest.approx(0.3, abs=0.06)


def test_the_thick_part_and_bare_glass_are_not() -> None:
    thick = cells_on_glass(1000, 1000, 0.25, share=2.0, apart=False)
    assert not layer_of(thick, 0.25, background=235.0).single
    assert layer_of(thick, 0.25, background=235.0).covered > 0.7
    few = cells_on_glass(1000, 1000, 0.25, share=0.01)
    assert not layer_of(few, 0.25).single
    assert layer_of(np.full((300, 300, 3), 235, np.uint8), 0.25) == layer_of(np.full((9, 9, 3), 200, np.uint8), 0.25)
