"""The stored loss curve: a refactoring proves itself by reproducing it; a change of method stores a new one and says why.

`python -m tests.golden.test_loss_curve` prints the curve of the code as it is.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest

from features.dataset import open_dataset, read_table
from pipeline import enrich
from pipeline import recipe as recipes
from pipeline.intervals import log_losses
from tests.distributed.ranks import run_ranks
from tests.toy_log import toy_recipe, write_toy_log

STORED = Path(__file__).with_name("loss_curve.json")
BATCH = 64
SETTINGS = {
    "train.global_batch": BATCH,
    "model.history": "transformer",
    "model.representations": "{semantic_id: {kind: semantic_id, rows: 97}, own: {kind: individual}, hash: {kind: random_hash, rows: 50}}",
}


def curve(workdir: Path) -> dict[str, list[float]]:
    """Mean log loss of every fourth step, each batch scored before it is trained on, on one rank."""
    write_toy_log(workdir, rows=2000)
    recipe = toy_recipe(workdir, **SETTINGS)
    enrich.run(recipes.load("simulated", recipe))
    done = run_ranks(1, "pipeline.train", "simulated", *(part for text in recipe for part in ("--set", text)))
    assert done.returncode == 0, done.stderr[-3000:]
    scores = np.concatenate([np.load(file) for file in sorted(workdir.glob("train/*/scores/*.npy"))])
    labels = read_table(open_dataset(workdir / "impressions"), ["label_click"]).column(0).to_numpy()[: len(scores)]
    losses = log_losses(scores[:, 0], labels).reshape(-1, BATCH).mean(1)
    return {"log_loss": [round(float(loss), 6) for loss in losses[::4]]}


def test_the_stored_curve_is_reproduced(tmp_path: Path) -> None:
    stored = json.loads(STORED.read_text())["log_loss"]
    assert len(stored) > 5
    assert curve(tmp_path)["log_loss"] == pytest.approx(stored, abs=2e-4)  # other processors round sums in another order


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(curve(Path(folder))))
