"""Worker: trains on day one, starts day two from it, stops and resumes that, and trains on both days in one run for comparison.

Before day two starts, whatever it must take over is made NaN in its fresh model, so that nothing can be missed unseen.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from features.dense_ids import DenseIdMap
from pipeline import recipe as recipes
from pipeline.ranks import start_process_group
from pipeline.trainer import Trainer
from pipeline.warm_start import local_shards
from tests.toy_log import toy_recipe

WIDTH, BATCH, STOP = 8, 128, 5  # embedding width, rows per step, and the step at which day two is stopped
TABLES = {
    "model.representations": "{sid: {kind: semantic_id, rows: 97}, hash: {kind: random_hash, rows: 61}, own: {kind: individual}}",
    "model.context_rows": 53,
    "model.embedding_dim": WIDTH,
    "train.global_batch": BATCH,
    "train.train_fraction": 1.0,
    "sharding.column_width": WIDTH // 2,
    "train.id_dropout": 0.0,  # it draws by row number, and day two counts its rows from 0
}


def main(workdirs: Path, *cases: str) -> None:
    """Three runs a case in the workdirs one, two and both; a case is the sharding types of the two days, joined by a dash."""
    device = start_process_group()
    for case in cases:
        first, second = ({"sharding.types": f"[{types}]"} for types in case.split("-"))
        with made(workdirs / "one", case, device, **first) as one, made(workdirs / "both", case, device, **first) as both:
            for run in (one, both):
                set_start(run, taken_over=False)
                run.train(one.train_rows)
        with made(workdirs / "both", case, device, **second) as both:
            assert both.resume()
            both.train(both.train_rows)
        start = {"train.start_from": one.folder}
        with made(workdirs / "two", case, device, **second, **start) as two:
            set_start(two, taken_over=True)
            assert not two.resume()
            two.train(STOP * BATCH)
        with made(workdirs / "two", case, device, **second, **start) as resumed:
            assert resumed.run_id == two.run_id
            assert resumed.resume()
            assert resumed.step == STOP
            resumed.train(resumed.train_rows)


@contextmanager
def made(workdir: Path, case: str, device: torch.device, **changes: object) -> Iterator[Trainer]:
    """A trainer of the log in `workdir`, in a folder of runs of the case's name."""
    config = recipes.load("simulated", toy_recipe(workdir, **{**TABLES, "ranks": dist.get_world_size(), **changes}))
    trainer = Trainer(config, workdir / "train" / case, device, quiet=True)
    yield trainer
    trainer.close()


def set_start(trainer: Trainer, *, taken_over: bool) -> None:
    """Make the tables' first weights a function of what a row stands for, whatever the table's size; NaN what is to be taken over."""
    ids = trainer.source.builder.dense_ids
    assert isinstance(ids, DenseIdMap)
    items, inherited = len(ids.ids), ids.inherited
    ids_by_row = np.full(items + 1, -1)
    ids_by_row[ids.table_rows] = ids.ids
    state = trainer.model.state_dict()
    for name, parts in state["tables"].items():
        for kind, value in parts.items():
            for (first, *columns), shard in local_shards(value):
                rows = np.arange(first, first + len(shard))
                means = ids_by_row[rows] if name == "own" else rows
                fresh = torch.from_numpy((name == "own") & (rows >= inherited) & (rows < items) | (not taken_over))[:, None]
                own = start_of(name, means, columns[0], shard.shape[1]) if kind == "weight" else shard.clone()
                shard[:] = torch.where(fresh, own, torch.nan)
    if taken_over:
        for parts in state["dense"].values():
            for value in parts.values():
                value.fill_(torch.nan)
    trainer.model.load_state_dict(state)


def start_of(name: str, means: np.ndarray, column: int, width: int) -> torch.Tensor:
    """float32 [rows, width], of the table's name, what the row stands for and the column."""
    numbers = (means[:, None] * 7919 + np.arange(column, column + width) * 104_729 + len(name)) % 1009
    return torch.from_numpy((numbers / 1009 - 0.5).astype(np.float32))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
    dist.destroy_process_group()
