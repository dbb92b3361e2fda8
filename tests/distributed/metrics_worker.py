"""Worker: each rank adds up its own share of the rows, with padding, and writes the tables and states that it was given.

python -m tests.distributed.metrics_worker OUT     OUT/RANK.json: tables; OUT/RANK.pt: states in the middle and at the end
"""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from pipeline.metrics import StreamMetrics, as_json
from pipeline.ranks import start_process_group

TASKS = ("click", "buy")
BATCH = 64
SHARES = ((64, 64), (64, 10), (64, 0), (3, 64), (40, 41))  # rows of each rank by step; the rest of its batch is padding
MIDDLE = 3  # steps before the state is saved
REPORT = 2  # steps in the first window


class Rows(NamedTuple):
    """All rows, in the order of steps and then ranks: float32 [N, K], float32 [N, K], int64 [N, V]."""

    logits: torch.Tensor
    labels: torch.Tensor
    segments: torch.Tensor


def all_rows() -> Rows:
    """The same on every rank. Segment 4 has one class of clicks only, segment 9 has no rows."""
    count = sum(map(sum, SHARES))
    generator = np.random.default_rng(0)
    logits = generator.normal(-1, 1.5, (count, 2)).astype(np.float32)
    labels = generator.random((count, 2)) < 1 / (1 + np.exp(-logits))
    segments = np.stack([generator.integers(0, 5, count), generator.integers(5, 9, count)], 1)
    labels[segments[:, 0] == 4, 0] = False
    return Rows(torch.from_numpy(logits), torch.from_numpy(labels.astype(np.float32)), torch.from_numpy(segments))


def main(out: str) -> None:
    """Run all steps; the state of the middle is also taken up by fresh metrics, on as many ranks."""
    rank, rows, start = dist.get_rank(), all_rows(), 0
    metrics, resumed = (StreamMetrics(TASKS, torch.device("cpu")) for _ in range(2))
    tables, states = {}, {}
    for step, share in enumerate(SHARES):
        first = start + sum(share[:rank])
        metrics.update(*padded(Rows(*(values[first : first + share[rank]] for values in rows))))
        start += sum(share)
        if step + 1 == REPORT:
            tables["window"], tables["before"] = map(as_json, metrics.report())
        if step + 1 == MIDDLE:
            states["middle"], tables["middle"] = metrics.state(), as_json(metrics.lifetime())
            resumed.load(states["middle"])
            tables["resumed"] = as_json(resumed.lifetime())
            states["resumed"] = resumed.state()
    states["end"] = metrics.state()
    tables["last"], tables["all"] = map(as_json, metrics.report())
    (Path(out) / f"{rank}.json").write_text(json.dumps(tables))
    torch.save(states, Path(out) / f"{rank}.pt")


def padded(rows: Rows) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A batch as the loader makes it, but with rows of padding that would tell: confident, clicked, of a segment without rows."""
    real = len(rows.logits)
    logit, label = (torch.cat([values, torch.full((BATCH - real, 2), junk)]) for values, junk in ((rows.logits, 7.0), (rows.labels, 1.0)))
    weight = torch.cat([torch.ones(real), torch.zeros(BATCH - real)])
    return logit, label, weight, torch.cat([rows.segments, torch.tensor([[4, 9]]).expand(BATCH - real, 2)])


if __name__ == "__main__":
    start_process_group()
    main(*sys.argv[1:])
    dist.destroy_process_group()
