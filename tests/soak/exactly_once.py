"""Every row is scored and trained on once, whatever the ranks and loader processes: the same scores as on one rank, up to rounding.

`python -m tests.soak.exactly_once WORKDIR RANKSxWORKERS..`, where WORKDIR has a toy log whose rows nothing divides.
"""

import sys
from pathlib import Path

import numpy as np

from tests.soak.jobs import SETTINGS, run_job, scores
from tests.toy_log import rows_of


def main(workdir: Path, *places: str) -> None:
    """Exit with an assertion where a row is missing, twice there, or elsewhere."""
    rows = rows_of(workdir)
    assert all(rows % number for number in (2, 3, 5, 7, int(str(SETTINGS["train.global_batch"]))))
    expected = None
    for place in ("1x0", *places):
        world, workers = map(int, place.split("x"))
        root = workdir / place
        run_job(world, workdir, root, {"train.workers": workers})
        found = scores(root)[:rows]
        expected = found if expected is None else expected
        assert len(found) == rows, (place, len(found))
        assert len(np.unique(found)) > 0.99 * rows  # a row is known by its score
        assert np.abs(found - expected).max() < 1e-4, (place, np.abs(found - expected).max())
    print(f"{rows} rows once each, and the same scores, on {', '.join(places)} ranks x workers as on 1x0")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
