"""A ranker sharded over two ranks gives the unsharded one's outputs and table updates to 1e-6, for every sharding type and history arm."""

from pathlib import Path

import pytest

from tests.distributed.ranks import run_ranks
from tests.toy_log import toy_recipe, write_enriched_toy_log

SEVERAL = (
    "{semantic_id: {kind: semantic_id, rows: 97, depth: 3}, own: {kind: individual}, hash: {kind: random_hash, rows: 50, history: false}}"
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    write_enriched_toy_log(folder, rows=1000)
    return folder


@pytest.mark.parametrize(("sharding", "history"), [("table_wise", "pma"), ("row_wise", "transformer"), ("column_wise", "bypass")])
def test_two_ranks_equal_one_unsharded_copy(workdir: Path, sharding: str, history: str) -> None:
    changes = {"model.history": history, "model.representations": SEVERAL, "model.pma_seeds": 4}
    done = run_ranks(2, "tests.distributed.sharded_worker", sharding, *toy_recipe(workdir, **changes))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("equal on rank") == 2
