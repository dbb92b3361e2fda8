"""Stage evaluate: every variant with every seed, judged frozen on the period after training and as a stream, with paired intervals."""

import json
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from features.dataset import Dataset, open_dataset, read_table
from features.errors import InputError
from features.files import fsync_path, write_durably
from features.schema import LABEL, ORACLE
from features.segments import STREAM
from pipeline import checkpoint
from pipeline.config import RunConfig
from pipeline.judge import Log, curve, judge
from pipeline.progress import say
from pipeline.ranks import on_rank_zero, start_process_group
from pipeline.recipe import with_overrides
from pipeline.scores import write_array
from pipeline.segments import by_training_impressions, of_stream
from pipeline.trainer import Trainer


class VariantScores(NamedTuple):
    """One variant's logits over seeds, and its size.

    Attributes:
        frozen_SN: float32 [S, rows after training], by the model as training left it.
        stream_SN: float32 [S, all rows], each batch scored before it was trained on.
        table_rows: rows over all item tables.
    """

    frozen_SN: NDArray[np.float32]
    stream_SN: NDArray[np.float32]
    table_rows: int


def run(config: RunConfig) -> None:
    """Train what is missing, score, and write evaluate/results.json. Raises InputError if the baseline is not among the variants."""
    names = list(config.evaluate.variants)
    if config.evaluate.baseline not in names:
        raise InputError(f"evaluate.baseline '{config.evaluate.baseline}' is not one of evaluate.variants: {', '.join(names)}")
    device = start_process_group()
    variants = {name: _score_variant(config, name, device) for name in names}
    if dist.get_rank() == 0:  # the other ranks are done: none waits for this
        _write_results(config, variants)


def _score_variant(config: RunConfig, name: str, device: torch.device) -> VariantScores:
    frozen, stream, table_rows, task = [], [], 0, config.model.tasks[0]
    for seed in config.evaluate.seeds:
        chosen = with_overrides(config, {**config.evaluate.variants[name], "train.seed": seed})
        trainer = Trainer(chosen, config.path("evaluate") / "runs", device, quiet=True)
        on_rank_zero(partial(_take_over, trainer, config.path("train") / trainer.run_id))
        if trainer.train_rows == trainer.rows:
            raise InputError(f"train.train_fraction {config.train.train_fraction} leaves no rows after training to evaluate on")
        trainer.resume()
        trainer.train(trainer.train_rows)
        frozen.append(_frozen_scores(trainer)[:, 0])
        trainer.train(trainer.rows)
        stream.append(trainer.stream_scores()[:, 0])
        table_rows = sum(trainer.source.builder.schema.item_tables.values())
        final = trainer.metrics.lifetime()[task]["all"]
        say(f"{name}, seed {seed}: NE {final.ne:.4f}  AUC {final.auc:.4f} over the whole stream")
        trainer.close()
    return VariantScores(np.stack(frozen), np.stack(stream), table_rows)


def _take_over(trainer: Trainer, trained: Path) -> None:
    """Start from the run of stage train, where there is the same one; on a copy, since the stream goes on from it.

    The checkpoints come last and all at once: what a kill leaves of the rest before is nothing that a run would go on from.
    """
    if trainer.checkpoints.exists() or checkpoint.latest(trained / trainer.checkpoints.name) is None:
        return
    staging = trainer.folder / f".{trainer.checkpoints.name}.tmp"
    shutil.rmtree(staging, ignore_errors=True)
    for source, copy in (("tensorboard", "tensorboard"), ("scores", "scores"), (trainer.checkpoints.name, staging.name)):
        shutil.copytree(trained / source, trainer.folder / copy, dirs_exist_ok=True)
    for path in trainer.folder.rglob("*"):
        fsync_path(path)
    staging.rename(trainer.checkpoints)
    fsync_path(trainer.folder)


def _frozen_scores(trainer: Trainer) -> NDArray[np.float32]:
    """Logits of the rows after training; kept on disk, since a resumed run may have gone on past the end of training."""
    path = trainer.folder / f"frozen-{trainer.train_rows}.npy"
    if not on_rank_zero(path.is_file):  # one rank decides: over a network they may see a new file at different times
        logits = trainer.score(trainer.train_rows, trainer.rows)
        on_rank_zero(lambda: write_array(path, logits))
    scores: NDArray[np.float32] = np.load(path, allow_pickle=False)
    return scores


def _write_results(config: RunConfig, variants: dict[str, VariantScores]) -> None:
    impressions = open_dataset(config.location("impressions"))
    log = _read_log(impressions, config.model.tasks[0])
    rows = len(log.labels)
    train_rows = rows - next(iter(variants.values())).frozen_SN.shape[1]
    half = rows // 2
    results = {
        "name": config.name,
        "baseline": config.evaluate.baseline,
        "seeds": list(config.evaluate.seeds),
        "data": {
            **impressions.metadata,
            "rows": rows,
            "train_rows": train_rows,
            "evaluation_rows": rows - train_rows,
            "stream_rows": rows - half,
        },
        "table_rows": {name: variant.table_rows for name, variant in variants.items()},
        "frozen": judge(
            config,
            log,
            slice(train_rows, rows),
            {name: v.frozen_SN for name, v in variants.items()},
            [by_training_impressions(log.item_ids, train_rows)],
        ),
        "progressive": judge(
            config,
            log,
            slice(half, rows),
            {name: v.stream_SN[:, half:rows] for name, v in variants.items()},
            of_stream({name: values[half:] for name, values in log.segmented.items()}),
        ),
        "curve": {name: curve(v.stream_SN[:, :rows], log.labels) for name, v in variants.items()},
    }
    write_durably(config.path("evaluate") / "results.json", json.dumps(results, indent=1).encode())


def _read_log(impressions: Dataset, task: str) -> Log:
    names, segmented = ["item_id", "user_id", LABEL + task], [segmentation.column for segmentation in STREAM]
    oracle = [ORACLE.name] if ORACLE.name in impressions.schema.names else []
    table = read_table(impressions, names + segmented + oracle)
    columns = {name: table.column(name).to_numpy() for name in table.column_names}
    items, users, labels = (columns[name] for name in names)
    return Log(items, users, labels.astype(np.float64), {name: columns[name] for name in segmented}, columns.get(ORACLE.name))


if __name__ == "__main__":
    from pipeline.cli import main

    sys.exit(main(stage="evaluate"))
