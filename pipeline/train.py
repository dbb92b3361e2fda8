"""Stage train: the ranker over the training period in one epoch, resumed where an earlier run stopped."""

import json
import sys

import torch.distributed as dist

from features.files import write_durably
from pipeline.config import RunConfig
from pipeline.exact_metrics import table_of_run
from pipeline.metrics import as_json
from pipeline.progress import say
from pipeline.ranks import start_process_group
from pipeline.trainer import Trainer


def run(config: RunConfig) -> None:
    """Train on the earliest `train.train_fraction` of the rows; writes checkpoints, scores, curves, and the exact metrics of all scores.

    Raises:
        InputError: where the input, the settings and an earlier checkpoint do not fit each other.
        Preempted: after SIGTERM, once a checkpoint is published.
    """
    device = start_process_group()
    trainer = Trainer(config, config.path("train"), device)
    say(f"run {trainer.folder}")
    for line in trainer.describe():
        say(f"plan: {line}")
    if trainer.resume():
        say(f"resumed after step {trainer.step}")
    elif trainer.start is not None:
        say(f"started from {trainer.start.path}")
    trainer.train(trainer.train_rows)
    trainer.close()
    if dist.get_rank() == 0:  # the other ranks are done: none waits for this
        _tell_exact_metrics(trainer)


def _tell_exact_metrics(trainer: Trainer) -> None:
    final = table_of_run(trainer.stream_scores()[: trainer.train_rows], trainer.source.dataset, trainer.config.model.tasks)
    for task, segments in final.items():
        ne, auc, calibration, _ = segments["all"]
        say(f"trained on {trainer.train_rows:,} rows: {task}  NE {ne:.4f}  AUC {auc:.4f}  calibration {calibration:.3f}")
    report = {"run": trainer.run_id, "metrics": as_json(final)}
    write_durably(trainer.folder.parent / "metrics.json", json.dumps(report, indent=1).encode())


if __name__ == "__main__":
    from pipeline.cli import main

    sys.exit(main(stage="train"))
