"""The trainer: one ranker on all ranks, trained over the impressions in time order, scored before each update, resumable."""

import hashlib
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter
from torchrec.distributed.train_pipeline import TrainPipelineBase, TrainPipelineSparseDist

from features.errors import InputError
from features.files import write_durably
from features.reader import BatchPlan
from models.ranker import Ranker
from models.sharding import describe, initialise_optimizer, shard
from pipeline import checkpoint
from pipeline.config import RunConfig
from pipeline.loader import BatchSource
from pipeline.metrics import StreamMetrics
from pipeline.progress import progress_bar, say
from pipeline.ranks import on_rank_zero
from pipeline.stage import TRAINING_CODE, code_fingerprint


class Trainer:
    """A run in progress.

    Attributes:
        folder: the resolved config, checkpoints, scores and TensorBoard curves.
        step: batches trained so far.
        metrics: of all of them, each batch scored before it was trained on.
    """

    def __init__(self, config: RunConfig, root: Path, device: torch.device, *, quiet: bool = False) -> None:
        """Prepare a run at step 0; a collective call.

        Args:
            config: the run's configuration.
            root: folder of runs. Each has a folder of its own there, named by what it is trained on and with, so that a changed setting,
                input or line of the training code starts a new run, and an unchanged one is resumed.
            device: of this rank, from `start_process_group`.
            quiet: print no progress.

        Raises:
            InputError: where the global batch, the input and the Semantic IDs do not fit each other or the ranks.
        """
        world, batch = dist.get_world_size(), config.train.global_batch
        if batch % world:
            raise InputError(f"train.global_batch {batch} is not a multiple of the {world} ranks that run")
        self.config, self.device, self._quiet = config, device, quiet
        self.source = BatchSource(config, on_rank_zero(BatchSource(config).prepare))
        self._plan_id, self._identity = self._plan(0, self.rows).fingerprint(self.source.dataset), self._identify()
        self.run_id = hashlib.sha256(json.dumps([self._plan_id, self._identity]).encode()).hexdigest()[:12]
        self.folder = root / self.run_id
        on_rank_zero(self._write_config)
        torch.manual_seed(config.train.seed)
        self.model = shard(
            Ranker(self.source.builder.schema, config.model, torch.device("meta")),
            config.sharding,
            table_learning_rate=config.train.table_learning_rate,
            dense_learning_rate=config.train.dense_learning_rate,
            batch=batch // world,
            device=device,
        )
        initialise_optimizer(self.model)
        pipeline = TrainPipelineSparseDist if device.type == "cuda" else TrainPipelineBase
        self._pipeline = pipeline(self.model.module, self.model.optimizer, device)
        self.step = 0
        self.metrics = StreamMetrics(config.model.tasks, device)
        self._scores: list[torch.Tensor] = []  # float32 [B, K] per step since the last checkpoint
        self._board = SummaryWriter(str(self.folder / "tensorboard")) if dist.get_rank() == 0 else None
        self._logged = (0, 0.0)  # step and time of the last progress line

    @property
    def rows(self) -> int:
        """Rows of the impressions."""
        return self.source.dataset.rows

    @property
    def train_rows(self) -> int:
        """Rows of the training period: `train.train_fraction` of all, in whole global batches. Raises InputError if that is none."""
        settings = self.config.train
        rows = int(self.rows * settings.train_fraction) // settings.global_batch * settings.global_batch
        if not rows:
            where = self.source.dataset.path
            raise InputError(
                f"{where}: {settings.train_fraction:.0%} of {self.rows} rows are less than one global batch, {settings.global_batch}"
            )
        return rows

    def train(self, until: int) -> None:
        """Go on to row `until`, in time order, saving on the way and at the end."""
        plan = self._plan(0, until)
        if self.step >= plan.steps:
            return
        self.model.module.train()
        self._pipeline.reset()
        batches = self.source.batches(plan, self.step, training=True)
        every = self.config.train
        self._logged = (self.step, time.perf_counter())
        with progress_bar(self.folder.name, plan.steps, self.step) as advance:
            while self.step < plan.steps:
                output = self._pipeline.progress(batches)
                self.step += 1
                self.metrics.update(*output)
                self._scores.append(output.logit_BK)
                advance()
                if self.step % every.log_every == 0 or self.step == plan.steps:
                    self._log(plan)
                if self.step % every.checkpoint_every == 0 or self.step == plan.steps:
                    self.save()

    def score(self, start: int, stop: int) -> NDArray[np.float32]:
        """Logits [rows, K] of rows [start, stop) by the model as it is, on every rank; items first impressed after `start` are unknown."""
        plan = self._plan(start, stop)
        self.model.module.eval()
        self._pipeline.reset()
        batches = self.source.batches(plan, 0, training=False, known_before=start)
        with torch.no_grad():
            logits = [self._pipeline.progress(batches).logit_BK for _ in range(plan.steps)]
        return _in_row_order(logits)[: stop - start]

    def stream_scores(self) -> NDArray[np.float32]:
        """Logits [rows, K] of all rows so far, each made before the row was trained on; read from the run's folder, which ranks share."""
        files = sorted((self.folder / "scores").glob("*.npy"))
        return np.concatenate([np.load(file, allow_pickle=False) for file in files])[: self.rows]

    def close(self) -> None:
        """Finish the TensorBoard file."""
        if self._board is not None:
            self._board.close()

    def save(self) -> None:
        """Publish a checkpoint, and the scores since the last one; a collective call."""
        scores = _in_row_order(self._scores)
        first = self.step - len(self._scores)
        on_rank_zero(lambda: write_array(self.folder / "scores" / f"{first:09d}.npy", scores))
        self._scores = []
        position = checkpoint.Position(self.step, self._plan_id, self._identity)
        checkpoint.save(self.checkpoints, self.model, self.metrics.state(), position, self.config.train.keep_checkpoints)

    def resume(self) -> bool:
        """Load the newest checkpoint; False where there is none. Raises InputError where it does not fit this run or is damaged."""
        path = checkpoint.latest(self.checkpoints)
        if path is None:
            return False
        metrics = self.metrics.state()
        self.step = checkpoint.load(path, self.model, metrics, self._plan_id, self._identity)
        self.metrics.load(metrics)
        return True

    def describe(self) -> list[str]:
        """The plan, one line per table."""
        return describe(self.model.plan)

    @property
    def checkpoints(self) -> Path:
        """Folder of the published checkpoints."""
        return self.folder / "checkpoints"

    def _plan(self, start: int, stop: int) -> BatchPlan:
        return BatchPlan(start, stop, self.config.train.global_batch, dist.get_world_size(), dist.get_rank())

    def _identify(self) -> dict[str, Any]:
        """What a trained weight depends on besides the rows and their order."""
        contract = self.source.contract
        settings = self.config.model_dump(mode="json")
        learning = {name: settings["train"][name] for name in ("seed", "table_learning_rate", "dense_learning_rate", "id_dropout")}
        model = {**settings["model"], "history_length": settings["ingest"]["history_length"]}
        return {
            "sid_contract": contract.to_json() if contract else None,
            "store": self.source.store.fingerprint if self.source.looks_up_codes else None,
            "pieces": self.source.pieces,
            "model": model,
            "learning": learning,
            "code": code_fingerprint(TRAINING_CODE),
        }

    def _write_config(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_durably(self.folder / "config.json", self.config.model_dump_json(indent=1).encode())

    def _log(self, plan: BatchPlan) -> None:
        window, lifetime = self.metrics.report()
        (step, clock), self._logged = self._logged, (self.step, time.perf_counter())
        rate = (self.step - step) * plan.global_batch / (self._logged[1] - clock)
        if self._board is None:
            return
        if not self._quiet:
            for task in window:
                now, ever = window[task]["all"], lifetime[task]["all"]
                say(
                    f"step {self.step}/{plan.steps}{f'  {task}' if len(window) > 1 else ''}  NE {now.ne:.4f} (all so far {ever.ne:.4f})  "
                    f"AUC {now.auc:.4f}  calibration {now.calibration:.3f}  {rate:,.0f} examples/s"
                )
        for span, table in (("window", window), ("lifetime", lifetime)):
            for task, segments in table.items():
                for segment, metrics in segments.items():
                    for metric, value in metrics._asdict().items():
                        self._board.add_scalar(f"{task}/{metric}/{span}/{segment}", value, self.step)
        self._board.add_scalar("examples_per_second", rate, self.step)


def _in_row_order(logits: list[torch.Tensor]) -> NDArray[np.float32]:
    """Per-step slices [B, K] of all ranks to one array in row order, on every rank."""
    mine = torch.stack(logits)  # [steps, B, K]
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, mine)
    return torch.stack(parts, 1).flatten(0, 2).cpu().numpy()


def write_array(path: Path, array: NDArray[np.float32]) -> None:
    """Write one .npy file that is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_durably(path, buffer.getvalue())
