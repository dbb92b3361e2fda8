"""A ranker sharded over ranks gives the unsharded one's outputs and updates to 1e-6, for every sharding type and history arm."""

import json
from pathlib import Path

import pytest

from tests.distributed.ranks import run_ranks
from tests.toy_log import toy_recipe, write_enriched_toy_log

SEVERAL = (
    "{semantic_id: {kind: semantic_id, rows: 97, depth: 3}, own: {kind: individual}, hash: {kind: random_hash, rows: 50}, "
    "other: {kind: random_hash, rows: 30, history: false}}"
)
# TorchRec gives out what it looked up by sharding type, so semantic_id, hash, own.
MIXED = {"semantic_id": "row_wise", "own": "column_wise", "hash": "row_wise", "other": "data_parallel", "context_country": "table_wise"}
SID: dict[str, object] = {"kind": "semantic_id", "rows": 97, "depth": 3}
GATED: dict[str, object] = {
    "model.fusion": "gate",
    "model.tasks": ["click", "like"],
    "model.representations": {"semantic_id": SID, "own": {"kind": "individual"}},
    "sharding.tables": {"semantic_id": "table_wise", "own": "row_wise", "context_country": "row_wise"},
}
TARGETS_ALONE: dict[str, object] = {
    "model.representations": {
        "semantic_id": {**SID, "history": False},
        "own": {"kind": "individual", "history": False},
        "hash": {"kind": "random_hash", "rows": 50, "target": False},
    },
    "sharding.tables": {"semantic_id": "table_wise", "own": "row_wise", "hash": "row_wise", "context_country": "table_wise"},
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    write_enriched_toy_log(folder, rows=1000)
    return folder


NEAR = [  # overrides, and how far six steps may take the logits, in their own standard deviations
    ({"sharding.communication": "fp16"}, 0.04),
    ({"sharding.communication": "bf16"}, 0.08),
    ({"sharding.types": ["table_wise"], "sharding.communication": "int8"}, 0.1),
    ({"sharding.table_precision": "fp16"}, 0.05),
    ({"sharding.precision": "bf16"}, 0.1),
]
REFUSED = [
    (
        {"sharding.tables": {"semantic": "row_wise"}},
        "sharding.tables: there is no table 'semantic'; the model's are semantic_id, own, hash, other",
    ),
    (
        {"sharding.tables": {"own": "column_wise"}, "sharding.column_width": 8},
        "sharding.tables: table 'own' cannot be column_wise: its width 8 has no divisor below it that is a multiple of 4 and at least 8",
    ),
    ({"sharding.cached": {"own": 0.2}}, "sharding.cached: 'own' can be cached on a GPU, and this rank runs on the CPU"),
    ({"sharding.pipeline": "prefetch"}, "sharding.pipeline: prefetch fills the caches of a GPU, and this rank runs on the CPU"),
    (
        {"train.global_batch": 6, "sharding.types": ["table_wise"], "sharding.communication": "int8"},
        "sharding.communication: int8 goes by blocks of 32, and 3 bags per rank of table 'semantic_id', width 8, are not a multiple",
    ),
    (
        {"sharding.device_memory_gb": 0.0001},
        "sharding: no plan found on 2 ranks of 0.0001 GiB each (sharding.device_memory_gb): Unable to find a plan for this model because "
        "of insufficient storage.",
    ),
]


def equal_to_a_copy(workdir: Path, world: int, ranks_per_node: int, cases: list[dict[str, object]]) -> None:
    settings = toy_recipe(workdir, **{"model.representations": SEVERAL, "model.pma_seeds": 4, "sharding.column_width": 4})
    done = run_ranks(world, "tests.distributed.sharded_worker", str(ranks_per_node), json.dumps(cases), *settings)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("equal on rank") == world * len(cases)


def case(kind: str, history: str) -> dict[str, object]:
    return {"sharding.types": [kind], "model.history": history}


def test_two_ranks_equal_one_unsharded_copy(workdir: Path) -> None:
    kinds = [("data_parallel", "pma"), ("table_wise", "pma"), ("row_wise", "transformer"), ("column_wise", "bypass")]
    equal_to_a_copy(workdir, 2, 2, [*(case(*kind) for kind in kinds), {"sharding.tables": MIXED}, GATED, TARGETS_ALONE])


def test_two_nodes_of_two_ranks_equal_one_unsharded_copy(workdir: Path) -> None:
    """What splits a table within a node needs several of them to differ from what splits it over all ranks."""
    kinds = [("table_row_wise", "bypass"), ("table_column_wise", "transformer"), ("grid_shard", "pma")]
    equal_to_a_copy(workdir, 4, 2, [case(*kind) for kind in kinds])


def test_pipelines_precision_and_refusals_on_two_ranks(workdir: Path) -> None:
    """Also the plan's JSON: shards cover each table once, and their bytes are those of weights and moments."""
    settings = toy_recipe(workdir, **{"model.representations": SEVERAL, "sharding.types": "[table_wise, row_wise]"})
    done = run_ranks(2, "tests.distributed.sharded_options_worker", json.dumps(NEAR), json.dumps(REFUSED), *settings)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("as expected on rank") == 2
    plan = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert list(plan["tables"]) == ["semantic_id", "own", "hash", "other", "context_country"]
    for table in plan["tables"].values():
        assert sum(shard["rows"] * shard["columns"] for shard in table["shards"]) == table["rows"] * table["width"]
        assert sum(shard["bytes"] for shard in table["shards"]) == table["rows"] * (table["width"] + 1) * 4
        assert all(shard["estimated_ms"] > 0 for shard in table["shards"])
    assert sum(plan["per_rank"]["bytes"]) == sum(shard["bytes"] for table in plan["tables"].values() for shard in table["shards"])
