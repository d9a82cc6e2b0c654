"""The program that the coverage-guided fuzzer runs: one file after another through the decoder of the service.

    python -m benchmarks.fuzz_target COUNTS.json CORPUS -runs=1000 -seed=1

``atheris`` (libFuzzer for Python) measures the coverage of our decoder and of Pillow's readers, and keeps what reaches
something new. It ends the process by itself; `benchmarks.fuzz_decoder` starts it and reads the counts.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from cytoserve_files import write_text

MAX_PIXELS: Final = 16_384
"""Limit of a picture while fuzzing. The service's own, 50 million, makes a case cost a second without reaching other
code."""

WHOLE_PATH_EVERY: Final = 50
"""Of the pictures that decode, each so-manyth also goes through scale, crop, statistics and the field's preparation."""

SLOW_S: Final = 5.0
RUNS: Final = "-runs="


class FuzzCases:
    """What came of the cases so far, and what must hold for each."""

    def __init__(self, path: Path, cases: int) -> None:
        self.path, self.cases = path, cases
        self.seen = 0
        self.slowest = 0.0
        self.outcomes: Counter[str] = Counter()

    def one(self, data: bytes) -> None:
        """Decode one file; whatever is not a picture or a refusal with a code of ours ends the process."""
        began = time.perf_counter()
        self.outcomes[outcome(data, self.outcomes["decoded"] % WHOLE_PATH_EVERY == 0)] += 1
        took = time.perf_counter() - began
        self.seen += 1
        self.slowest = max(self.slowest, took)
        assert took < SLOW_S, f"{took:.1f} s for {len(data)} bytes"
        if self.seen % 5000 == 0 or self.seen >= self.cases:
            self.write()

    def write(self) -> None:
        """Write the counts; libFuzzer ends the process without a word to Python."""
        found = {"cases": self.seen, "slowest_s": round(self.slowest, 3), "outcomes": dict(self.outcomes.most_common())}
        write_text(self.path, json.dumps(found))


def outcome(data: bytes, whole_path: bool = False) -> str:
    """Return ``decoded`` or the code of the refusal of one file.

    Raises
    ------
    AssertionError
        The picture is not one that the service promises, or the refusal cannot travel.
    Exception
        Whatever the decoder raises that is no refusal: a defect.
    """
    import numpy as np
    from cytoserve_scoring.errors import CytoserveError, InvalidImage
    from cytoserve_scoring.vision.cells import decode_cells
    from cytoserve_scoring.vision.imaging import decode_picture
    from cytoserve_scoring.vision.scale import prepare_field

    try:
        picture = decode_picture(data)
    except InvalidImage as refused:
        return _code(refused)
    pixels = picture.pixels
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.flags.c_contiguous
    assert picture.um_per_pixel is None or 0 < picture.um_per_pixel < float("inf")
    if whole_path:
        cells = decode_cells([data], np.array([0.18], np.float32))
        assert cells.error == [""] or cells.error[0].startswith("[cytoserve:")
        assert np.isfinite(cells.statistics).all()
        try:
            prepare_field(pixels, 0.0, picture.um_per_pixel)
        except CytoserveError as refused:
            _code(refused)
    return "decoded"


def _code(refused: Any) -> str:
    """Return the code of a refusal, which must be one of the contract and short enough for the wire."""
    from cytoserve_contract.codes import CODES, MESSAGE_BYTES

    assert refused.code in CODES
    assert len(refused.wire().encode()) <= MESSAGE_BYTES + len(refused.code) + 20
    return str(refused.code)


def main() -> None:
    """Run libFuzzer with the arguments behind the first."""
    import atheris

    counts, *words = sys.argv[1:]
    with atheris.instrument_imports(include=["PIL", "cytoserve_scoring"]):
        from cytoserve_scoring.vision import imaging

    from benchmarks.fuzz_seeds import with_right_sums

    vars(imaging)["MAX_PIXELS"] = MAX_PIXELS
    cases = next(int(word[len(RUNS) :]) for word in words if word.startswith(RUNS))
    judged = FuzzCases(Path(counts), cases)

    def mutate(data: bytes, size: int, seed: int) -> bytes:
        changed = bytes(atheris.Mutate(data, size))
        return with_right_sums(changed)[:size] if random.Random(seed).random() < 0.8 else changed

    settings: dict[str, Any] = {"custom_mutator": mutate}
    atheris.Setup([sys.argv[0], *words], judged.one, **settings)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
