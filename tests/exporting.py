"""What the tests of bundles share: runs on two ranks under every plan, their bundles, and bundles that were tampered with."""

import json
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import pyarrow as pa

from features.dataset import DatasetWriter, open_dataset, read_table
from pipeline import enrich, export
from pipeline import recipe as recipes
from pipeline.serve.bundle import MANIFEST, manifest_of
from tests.distributed.ranks import run_ranks
from tests.toy_log import IMAGE, toy_recipe, write_toy_log

TRAINED, BATCH, LENGTH = 2560, 512, 4
SID: dict[str, object] = {"kind": "semantic_id", "rows": 97, "depth": 3}
# Between them: every representation, history arm and fusion; one task and two; every kind of sharding; codes read and looked up.
CASES: dict[str, dict[str, object]] = {
    "several": {
        "model.history": "transformer",
        "model.tasks": ["click", "like"],
        "model.shared_prefix": True,
        "model.representations": {
            "semantic_id": SID,
            "own": {"kind": "individual"},
            "hash": {"kind": "random_hash", "rows": 50, "hashes": 2},
            "other": {"kind": "individual", "unknown": "untrained", "history": False},
            "image": {"kind": "semantic_id", "source": "vector_image", "scheme": "unigram", "rows": 20, "target": False},
        },
        "sharding.tables": {
            "semantic_id": "row_wise",
            "own": "column_wise",
            "hash": "table_wise",
            "other": "row_wise",
            "image": "data_parallel",
            "context_country": "row_wise",
        },
    },
    "pieces": {
        "train.input": "impressions",
        "model.history": "pma",
        "model.fusion": "gate",
        "model.representations": {"pieces": {"kind": "semantic_id", "scheme": "spm", "rows": 97}, "own": {"kind": "individual"}},
        "sharding.types": ["row_wise"],
    },
    "plain": {"model.representations": {"semantic_id": SID}, "sharding.types": ["column_wise"]},
}


def trained(workdir: Path, rows: int, cases: dict[str, dict[str, object]]) -> None:
    """Write a toy log of two sources, and train the cases on its beginning on two ranks."""
    write_toy_log(workdir, rows, further=(IMAGE,))
    _order_histories(workdir / "impressions")
    settings: dict[str, object] = {
        "embed.sources": "[text, vector_image]",
        "ingest.history_length": LENGTH,
        "train.global_batch": BATCH,
        "train.train_fraction": (TRAINED + 1) / rows,
        "sharding.column_width": 4,
        "evaluate.variants": "{}",
        "ranks": 2,
    }
    recipe = toy_recipe(workdir, **settings)
    enrich.run(recipes.load("simulated", recipe))
    done = run_ranks(2, "tests.distributed.export_worker", str(workdir), json.dumps(cases), *recipe)
    assert done.returncode == 0, done.stderr[-3000:]


def _order_histories(impressions: Path) -> None:
    """Most recent first, as in a canonical log, and as a request's must be."""
    dataset = open_dataset(impressions)
    table = read_table(dataset)
    times = [sorted(row, reverse=True) for row in table.column("history_timestamps").to_pylist()]
    place = table.schema.get_field_index("history_timestamps")
    ordered = table.set_column(place, table.schema.field(place), pa.array(times, table.schema.field(place).type))
    with DatasetWriter(impressions, dataset.schema, dataset.metadata, rows_per_group=512) as writer:
        writer.write(ordered)


def exported(run: Path, bundle: Path, tables: str = "fp32", judge: int = 0) -> Path:
    """What `semid export` makes of a run."""
    export.run(Namespace(run=str(run), bundle=str(bundle), tables=tables, judge=judge))
    return bundle


def copied(bundle: Path, to: Path) -> Path:
    """A bundle that may be changed."""
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(bundle, to))


def signed(bundle: Path) -> Path:
    """The bundle, its manifest made to fit what lies there: what someone with bad intent would do."""
    (bundle / MANIFEST).unlink()
    data = manifest_of(bundle)
    (bundle / MANIFEST).write_bytes(data)
    return bundle


def described(bundle: Path, **changes: Any) -> Path:
    """The bundle with other values in bundle.json, signed."""
    file = bundle / "bundle.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return signed(bundle)
