"""A study on a toy log whose scores are made up: logits of known quality for each variant and seed, put where training would put them."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.dataset import DatasetWriter, open_dataset, read_table
from features.schema import ITEMS
from pipeline import recipe as recipes
from pipeline.reproduce.core import core
from pipeline.reproduce.study import Study
from pipeline.reproduce.world import OWN, Variant, World
from tests.toy_log import toy_recipe, write_toy_log

ROWS, BATCH = 3000, 128
NOISE = {
    "no_item": 3.0,
    "random_hash": 1.0,
    "individual": 0.8,
    "semantic_id": 0.3,
    "semantic_id_and_random_hash": 0.3,
    "shuffled_semantic_id": 1.0,
}


def toy_world(root: Path, settings: Mapping[str, object] | None = None) -> World:
    """A world on a toy log, with items; `settings` of the recipe, by dotted key."""
    workdir = root / "toy" / "own"
    world = World("toy", recipes.load("simulated", toy_recipe(workdir, **(settings or {}))), root)
    write_toy_log(workdir, rows=ROWS)
    ids = np.unique(read_table(open_dataset(workdir / "impressions"), ["item_id"]).column("item_id").to_numpy())
    items = {field.name: pa.array(ids) if field.name == "item_id" else pa.nulls(len(ids), field.type) for field in ITEMS}
    with DatasetWriter(workdir / "items", ITEMS, {"source": "toy"}) as writer:
        writer.write(pa.table(items, schema=ITEMS))
    return world


def toy_study(root: Path, variants: list[Variant] | None = None, seeds: tuple[int, ...] = (0, 1, 2)) -> Study:
    """Every core variant, and others that are asked for, as if they were trained: worse the more NOISE their logits have."""
    world = toy_world(root)
    study = Study(world, [*core(world), *(variants or [])], seeds)
    for coding in {variant.coding for variant in study.variants} - {OWN}:
        world.share(coding)
        shutil.copytree(world.config.path("store"), world.coded(coding).path("store"))
    for task in study.tasks():
        put_scores(study, task.results, made_up_logits(study, task.variant, task.config.train.seed))
    return study


def made_up_logits(study: Study, variant: str, seed: int) -> NDArray[np.float32]:
    """The true logits of all rows and noise: float32 [N]."""
    assert study.world.oracle is not None
    generator, noise = np.random.default_rng([seed, *variant.encode()]), NOISE.get(variant, 0.5)
    truth = np.log(study.world.oracle) - np.log1p(-study.world.oracle)
    logits: NDArray[np.float32] = (truth + noise * generator.normal(size=len(truth))).astype(np.float32)
    return logits


def put_scores(study: Study, folder: Path, logits: NDArray[np.float32], probed: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """What a training leaves behind."""
    folder.mkdir(parents=True)
    np.save(folder / "stream.npy", logits)
    np.save(folder / "frozen.npy", logits[study.train_rows :])
    (folder / "about.json").write_text(json.dumps({"variant": "any", "table_rows": 98, "seconds": 1.5}))
    for function, arrays in (probed or {}).items():
        np.savez(folder / f"{function}.npz", allow_pickle=False, **arrays)
