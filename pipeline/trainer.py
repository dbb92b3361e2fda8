"""The trainer: one ranker on all ranks, trained over the impressions in time order, scored before each update, resumable."""

import hashlib
import json
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from features.errors import InputError
from features.files import fsync_path, write_durably
from features.reader import BatchPlan
from models.plan import describe, plan_json
from models.sharding import initialise_optimizer
from models.train_pipeline import train_pipeline
from pipeline import checkpoint, preemption
from pipeline.config import RunConfig
from pipeline.loader import BatchSource, Change
from pipeline.metrics import StreamMetrics
from pipeline.model import identity, sharded_ranker
from pipeline.progress import progress_bar
from pipeline.ranks import AnyRank, on_rank_zero
from pipeline.saver import BackgroundSaver
from pipeline.scores import StreamScores, in_row_order
from pipeline.starting_point import chosen, require_fit
from pipeline.training_log import TrainingLog
from pipeline.warm_start import warm_start

ASKED_EVERY = 4  # steps between two rounds of the ranks about SIGTERM and failed saves; what one hears, it was told a round before


class Trainer:
    """A run in progress.

    Attributes:
        folder: the resolved config, checkpoints, scores and TensorBoard curves.
        step: batches trained so far.
        metrics: of all of them, each batch scored before it was trained on.
        start: the checkpoint of an earlier run that this one starts from; None where it starts from its seed.
    """

    def __init__(self, config: RunConfig, root: Path, device: torch.device, *, quiet: bool = False) -> None:
        """Prepare a run at step 0; a collective call.

        Args:
            config: the run's configuration.
            root: folder of runs. Each has a folder of its own there, named by what it is trained on and with, so that a changed setting,
                input or line of the training code starts a new run, and an unchanged one is resumed, on whatever ranks and plan.
            device: of this rank, from `start_process_group`.
            quiet: print no progress.

        Raises:
            InputError: where the global batch, the input, the Semantic IDs and `train.start_from` do not fit each other or the ranks.
        """
        world, batch = dist.get_world_size(), config.train.global_batch
        if batch % world:
            raise InputError(f"train.global_batch {batch} is not a multiple of the {world} ranks that run")
        self.config, self.device = config, device
        self.source = BatchSource(config, on_rank_zero(BatchSource(config).prepare))
        self.start = on_rank_zero(lambda: chosen(config))
        self._plan_id = self._plan(0, self.rows).fingerprint(self.source.dataset)
        self._identity = identity(config, self.source, self.start)
        ids, accept = self.source.builder.dense_ids, config.train.accept_refreshed_codebook
        on_rank_zero(lambda: require_fit(self.start, self._identity, ids, accept_refreshed_codebook=accept))
        self.run_id = hashlib.sha256(json.dumps([self._plan_id, self._identity]).encode()).hexdigest()[:12]
        self.folder = root / self.run_id
        self.model = sharded_ranker(config, self.source, device)
        initialise_optimizer(self.model)
        on_rank_zero(self._write_config)
        self._pipeline = train_pipeline(config.sharding, self.model, device)
        self.step = 0
        self.metrics = StreamMetrics(config.model.tasks, device)
        self._scores = StreamScores(self.folder / "scores", batch)
        self._log = TrainingLog(self.folder / "tensorboard", batch, quiet=quiet)
        self._saver, self._any_rank = BackgroundSaver(device), AnyRank(questions=2)

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
        """Go on to row `until`, in time order, saving on the way and at the end.

        Args:
            until: the end of the log, or of a whole global batch: a step is trained once, with all its rows.

        Raises:
            Preempted: after SIGTERM on any rank, on all of them; the checkpoint of the step that they have reached is published.
        """
        assert until == self.rows or until % self.config.train.global_batch == 0, until
        plan, every = self._plan(0, until), self.config.train
        if self.step >= plan.steps:
            return
        self.model.module.train()
        self._pipeline.reset()
        batches = self.source.batches(plan, self.step, training=True)
        self._log.begin(self.step)
        with progress_bar(self.folder.name, plan.steps, self.step) as advance:
            while self.step < plan.steps:
                if self.step % ASKED_EVERY == 0 and self._told_to_stop():
                    self._stop()
                output = self._pipeline.progress(batches)
                self.step += 1
                self.metrics.update(*output)
                self._scores.add(output.logit_BK)
                advance()
                if self.step % every.log_every == 0 or self.step == plan.steps:
                    self._log.write(self.step, plan.steps, *self.metrics.report())
                if self.step % every.checkpoint_every == 0 or self.step == plan.steps:
                    self.save()
        self._saver.wait()

    def score(self, start: int, stop: int, *, change: Change | None = None, trained_on: bool = False) -> NDArray[np.float32]:
        """Logits [rows, K] of rows [start, stop) by the model as it is, on every rank; items first impressed after `start` are unknown.

        Args:
            start: number of the first row.
            stop: past the last one.
            change: other rows in the place of those of the log.
            trained_on: the rows are those that it was trained on last, and items first impressed before the end of training are known.

        Raises:
            InputError: if it has been trained on rows from `start` on, unless `trained_on` says so.
            Preempted: as `train` does.
        """
        seen = min(self.step * self.config.train.global_batch, self.rows)
        if seen > start and not trained_on:
            raise InputError(f"{self.folder}: has been trained on rows up to {seen}, and cannot score those from {start} on as unseen ones")
        plan, known_before = self._plan(start, stop), seen if trained_on else start
        self.model.module.eval()
        self._pipeline.reset()
        batches, logits = self.source.batches(plan, 0, training=False, known_before=known_before, change=change), []
        with torch.no_grad():
            for step in range(plan.steps):
                if step % ASKED_EVERY == 0 and self._told_to_stop():
                    self._stop()
                logits.append(self._pipeline.progress(batches).logit_BK)
        return in_row_order(logits)[: stop - start]

    def stream_scores(self) -> NDArray[np.float32]:
        """Logits [rows, K] of all rows so far, each made before the row was trained on; read from the run's folder, which ranks share."""
        return self._scores.read()[: self.rows]

    def close(self) -> None:
        """Leave the run; a collective call."""
        self._saver.close()
        self._any_rank.close()
        self._log.close()

    def save(self) -> None:
        """Begin to publish a checkpoint of this step, and before it the scores since the last one; a collective call.

        It is written while the training goes on. What goes wrong there is raised on all ranks a few steps later.
        """
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # a prefetch may still fill the caches that reading the tables empties
        first, scores = self.step - self._scores.pending, self._scores.take()
        position = checkpoint.Position(self.step, self._plan_id, self._identity, self.model.layout())
        keep = self.config.train.keep_checkpoints

        def publish(state: dict[str, Any], group: dist.ProcessGroup) -> None:
            on_rank_zero(lambda: self._scores.write(first, scores), group)
            checkpoint.save(self.checkpoints, state, position, keep, group)

        self._saver.start({**self.model.state_dict(), "metrics": self.metrics.state()}, publish)
        if not self.config.train.async_checkpoint:
            self._saver.wait()

    def resume(self) -> bool:
        """Load the newest checkpoint; False where there is none: step 0 begins with the weights of `start`, or as the seed has them.

        Raises:
            InputError: where what is loaded does not fit this run or is damaged.
        """
        path = on_rank_zero(lambda: checkpoint.latest(self.checkpoints))
        if path is not None:
            metrics = self.metrics.state()
            self.step = checkpoint.load(path, self.model, metrics, self._plan_id, self._identity)
            self.metrics.load(metrics)
        elif self.start is not None:
            warm_start(self.start, self.model)
        on_rank_zero(lambda: self._scores.forget_after(self.step))
        return path is not None

    def describe(self) -> list[str]:
        """The sharding plan, one line per table, and the planner's estimates."""
        return describe(self.model.plan)

    @property
    def checkpoints(self) -> Path:
        """Folder of the published checkpoints."""
        return self.folder / "checkpoints"

    def _told_to_stop(self) -> bool:
        """Whether SIGTERM has come to any rank, the same on all ranks. Raises the error of a save that failed on any."""
        told, failed = self._any_rank.ask(preemption.told_to_stop(), self._saver.failed)
        if failed:
            self._saver.wait()
        return told

    def _stop(self) -> NoReturn:
        if self._scores.pending:
            self.save()
        self.close()
        raise preemption.Preempted(f"stopped by SIGTERM after step {self.step}; run it again to go on from there")

    def _plan(self, start: int, stop: int) -> BatchPlan:
        return BatchPlan(start, stop, self.config.train.global_batch, dist.get_world_size(), dist.get_rank())

    def _write_config(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        fsync_path(self.folder.parent)
        write_durably(self.folder / "config.json", self.config.model_dump_json(indent=1).encode())
        write_durably(self.folder / "plan.json", json.dumps(plan_json(self.model.plan), indent=1).encode())
