"""A run goes on with other ranks and another plan: all its state is the same to the bit; a plan that cannot have it is refused.

`python -m tests.soak.plans WORKDIR (some | all)`, where WORKDIR has a toy log: from one choice of ranks and plan to each other one, or
every pair.
"""

import functools
import itertools
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from features.errors import InputError
from pipeline import checkpoint
from tests.soak.jobs import Begun, Job, differences, run_job, scores, state, trainer

ROWS = 12 * 32


class Place(NamedTuple):
    """Ranks, and the sharding type of every table."""

    world: int
    kind: str

    @property
    def changes(self) -> dict[str, object]:
        return {"sharding.types": f"[{self.kind}]", "sharding.column_width": 4}


WHOLE_ROWS = [Place(world, kind) for world, kind in itertools.product((1, 2, 4), ("table_wise", "row_wise", "data_parallel"))]
SOME = (Place(2, "table_wise"), Place(1, "column_wise"))
SPLIT_COLUMNS = [Place(world, "column_wise") for world in (1, 2, 4)]


def main(workdir: Path, which: str) -> None:
    """Exit with an assertion where anything is lost or changed."""
    hops = 0
    for places in (WHOLE_ROWS, SPLIT_COLUMNS):
        for first in places if which == "all" else [place for place in places if place in SOME]:
            root = workdir / f"{first.kind}-{first.world}"
            run_job(first.world, workdir, root, first.changes, rows=ROWS)
            at = first
            for place in (other for other in places if other != first):
                at = place
                go_over(workdir, root, place)
                hops += 1
            going_on(workdir, root, first, at)
    refused(workdir, workdir / "table_wise-2", SPLIT_COLUMNS[1])
    print(f"{hops} changes of ranks and plan, all bit-equal; another split of the columns is refused")


def go_over(workdir: Path, root: Path, place: Place) -> None:
    """Load the run there, save it again elsewhere, and compare."""
    out = root.with_name(f"{root.name}-to-{place.kind}-{place.world}")
    codes = Job(place.world, functools.partial(load_and_save, workdir, root, out, place)).wait()
    assert codes == [0] * place.world, (root.name, place, codes)
    assert not differences(state(out), state(root)), (root.name, place, differences(state(out), state(root)))


def load_and_save(workdir: Path, root: Path, out: Path, place: Place, begun: Begun) -> None:
    run = trainer(workdir, root, **place.changes)
    assert run.resume(), "a change of ranks or plan has begun a new run"
    kinds = {table.type for table in run.model.plan.tables.values()}
    assert kinds == {place.kind}, kinds
    position = checkpoint.Position(run.step, "", {}, run.model.layout())
    checkpoint.save(out / "run" / "checkpoints", run.model.state_dict(), position, keep=1)
    run.close()


def going_on(workdir: Path, root: Path, first: Place, last: Place) -> None:
    """To the end there, where sums are rounded in another order."""
    whole = root.with_name(f"{root.name}-whole")
    run_job(first.world, workdir, whole, first.changes)
    run_job(last.world, workdir, root, last.changes)
    assert np.array_equal(scores(root)[:ROWS], scores(whole)[:ROWS])
    assert np.allclose(scores(root), scores(whole), atol=1e-4)


def refused(workdir: Path, root: Path, place: Place) -> None:
    """One line names the table and both sides."""
    codes = Job(place.world, functools.partial(be_refused, workdir, root, place)).wait()
    assert codes == [0] * place.world, codes


def be_refused(workdir: Path, root: Path, place: Place, begun: Begun) -> None:
    try:
        trainer(workdir, root, **place.changes).resume()
    except InputError as error:
        assert "table 'semantic_id' has a moment per row for rows in the checkpoint but for columns:0,4 " in str(error), error
    else:
        raise AssertionError("nothing was refused")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
