"""Worker: trains rankers on the beginning of a toy log, each under its own plan, and keeps what the trainer scores after it."""

import json
import sys
from pathlib import Path

import numpy as np
import torch.distributed as dist

from pipeline import recipe as recipes
from pipeline.ranks import start_process_group
from pipeline.trainer import Trainer


def main(workdir: str, cases: str, *overrides: str) -> None:
    """For each case, a JSON object of overrides by name: train below export/NAME, and write logits.npy [rows after training, K] there."""
    device = start_process_group()
    base = recipes.load("simulated", list(overrides))
    for name, changes in json.loads(cases).items():
        folder = Path(workdir) / "export" / name
        trainer = Trainer(recipes.with_overrides(base, changes), folder, device, quiet=True)
        trainer.train(trainer.train_rows)
        logits = trainer.score(trainer.train_rows, trainer.rows)
        if dist.get_rank() == 0:
            np.save(folder / "logits.npy", logits)
        trainer.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
