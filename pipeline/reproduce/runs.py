"""What has to be computed before anything can be found: stages and trainings, on as many processes as there are cores, resumable."""

import hashlib
import importlib
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from rich.progress import BarColumn, Progress, TextColumn

from features.dataset import open_dataset
from features.dense_ids import DenseIdMap
from features.files import publish_folder
from features.store.versions import open_snapshot
from launch.components import PROCESS_ENV
from pipeline.config import RunConfig
from pipeline.reproduce.world import link
from pipeline.stage import STAGES, TRAINING_CODE, bring_up_to_date, chain, code_fingerprint

PREPARING = ("ingest", "simulate", "embed", "quantize", "assign")
CODING = ("quantize", "assign")
OF_ITEMS = ("content", "codebook", "store", "store_shuffled")  # what these stages write, of the items alone
SLOWER = {"bypass": 1.0, "transformer": 3.0, "pma": 4.0}  # how much longer a training takes by its history arm, for the time left
PROBES = ("pipeline/reproduce/findings/*.py",)  # code that a probed figure depends on


class Task(Protocol):
    """Something to do in a process of its own, once."""

    @property
    def title(self) -> str:
        """For the log."""

    @property
    def cost(self) -> float:
        """In about the same unit for all tasks done together."""

    def is_done(self) -> bool:
        """Whether an earlier reproduction did it."""

    def perform(self) -> None:
        """Do it, going on where an earlier attempt was stopped."""


@dataclass(frozen=True)
class Prepare:
    """Bring a log, its embeddings and its Semantic IDs up to date.

    Attributes:
        config: of the world.
        items_from: workdir of a world with the same items, whose embeddings and Semantic IDs are these ones' too.
    """

    config: RunConfig
    items_from: Path | None = None

    @property
    def title(self) -> str:
        """The workdir's world."""
        return f"{self.config.workdir.parent.name}: log, embeddings, Semantic IDs"

    @property
    def cost(self) -> float:
        """Alike for all worlds."""
        return 1.0

    def is_done(self) -> bool:
        """The stages know for themselves."""
        return False

    def perform(self) -> None:
        """Run the stages, and number the items."""
        for stage in chain(self.config):
            if stage.name in (PREPARING if self.items_from is None else PREPARING[:2]):
                bring_up_to_date(stage, self.config)
        if self.items_from is not None:
            here, there = (open_dataset(workdir / "items").fingerprint for workdir in (self.config.workdir, self.items_from))
            assert here == there, f"{self.config.workdir} and {self.items_from} have different items"
            link(self.config.workdir, self.items_from, OF_ITEMS)
        DenseIdMap.build(open_dataset(self.config.location("impressions"))).save(self.config.path("dense_ids"))


@dataclass(frozen=True)
class Code:
    """Train one more quantizer, and code the items by it."""

    config: RunConfig

    @property
    def title(self) -> str:
        """World and coding."""
        return f"{self.config.workdir.parent.name}: Semantic IDs {self.config.workdir.name}"

    @property
    def cost(self) -> float:
        """A level takes about as long as another."""
        return float(self.config.quantize.levels)

    def is_done(self) -> bool:
        """The stages know for themselves."""
        return False

    def perform(self) -> None:
        """Run the two stages."""
        for name in CODING:
            bring_up_to_date(STAGES[name], self.config)


@dataclass(frozen=True)
class Train:
    """Train one variant with one seed: scores after training, scores of the stream, and what its probes measure.

    Attributes:
        config: of the run.
        probes: "module:function" each.
        folder: of all results of the world; this one's is below.
    """

    config: RunConfig
    probes: tuple[str, ...]
    folder: Path

    @property
    def title(self) -> str:
        """The tables and the seed."""
        return f"{self.folder.parent.name}: {', '.join(self.config.model.representations)}, seed {self.config.train.seed}"

    @property
    def cost(self) -> float:
        """Rows, weighed by the history arm."""
        return open_dataset(self.config.location("impressions")).rows * SLOWER[self.config.model.history]

    @property
    def results(self) -> Path:
        """Folder named by all that the results depend on."""
        stores = [open_snapshot(self.config.path(self.config.train.store)).fingerprint] if self._uses_codes else []
        told = [
            self.config.model_dump(mode="json", exclude={"workdir", "evaluate", "quantize", "assign"}),
            open_dataset(self.config.location("impressions")).fingerprint,
            stores,
            code_fingerprint(TRAINING_CODE),
            [*self.probes, code_fingerprint(PROBES) if self.probes else ""],
        ]
        return self.folder / hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]

    def is_done(self) -> bool:
        """The folder appears as a whole."""
        return self.results.is_dir()

    def perform(self) -> None:
        """Train, score, and publish the folder."""
        from pipeline.ranks import start_process_group  # torch: the process that hands tasks out does without
        from pipeline.trainer import Trainer

        staging = self.results.with_name(f".{self.results.name}.tmp")
        staging.mkdir(parents=True, exist_ok=True)
        trainer = Trainer(self.config, staging / "trainer", start_process_group(), quiet=True)
        trainer.resume()
        try:
            trainer.train(trainer.train_rows)
            if not (staging / "frozen.npy").exists():  # else an earlier attempt has gone on from here
                self._measure(trainer, staging)
            trainer.train(trainer.rows)
            np.save(staging / "stream.npy", trainer.stream_scores()[:, 0])
            (staging / "about.json").write_text(json.dumps({"table_rows": sum(trainer.source.builder.schema.item_tables.values())}))
        finally:
            trainer.close()
        shutil.rmtree(staging / "trainer")
        publish_folder(staging, self.results)

    @property
    def _uses_codes(self) -> bool:
        return self.config.model.shared_prefix or any(each.kind == "semantic_id" for each in self.config.model.representations.values())

    def _measure(self, trainer: Any, staging: Path) -> None:
        for probe in self.probes:
            module, function = probe.split(":")
            measured: dict[str, NDArray[Any]] = getattr(importlib.import_module(module), function)(trainer)
            np.savez(staging / f"{function}.npz", allow_pickle=False, **measured)
        scores = trainer.score(trainer.train_rows, trainer.rows)[:, 0]
        with (staging / ".frozen.tmp").open("wb") as file:
            np.save(file, scores)
        (staging / ".frozen.tmp").rename(staging / "frozen.npy")


def perform_all(title: str, tasks: Sequence[Task], processes: int, logs: Path) -> None:
    """Do what is not done yet, the costliest first.

    Args:
        title: of all of them, for the progress.
        tasks: independent of each other.
        processes: at a time.
        logs: folder of what the processes print.

    Raises:
        Exception: what the first task that failed raised, InputError for what the user can mend.
    """
    left = sorted((task for task in tasks if not task.is_done()), key=lambda task: -task.cost)
    if not left:
        if tasks:
            print(f"{title}: up to date", flush=True)
        return
    logs.mkdir(parents=True, exist_ok=True)
    # A process per core, each on one thread, gets more done than ranks that wait for each other.
    os.environ |= {**PROCESS_ENV, "OMP_NUM_THREADS": "1"}  # read when the processes start
    with (
        _progress(title, len(left), sum(task.cost for task in left)) as advance,
        ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _print_to, (logs,)) as pool,
    ):
        waiting: dict[Future[None], Task] = {pool.submit(_perform, task): task for task in left}
        try:
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    task = waiting.pop(future)
                    future.result()
                    advance(task)
        finally:
            pool.shutdown(cancel_futures=True)


def _perform(task: Task) -> None:
    print(f"--- {task.title}", flush=True)
    task.perform()


def _print_to(logs: Path) -> None:
    """Called first in each process, whose output would break up the progress."""
    log = os.open(logs / f"{os.getpid()}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(log, stream.fileno())


@contextmanager
def _progress(title: str, count: int, cost: float) -> Iterator[Any]:
    """Yields the function that counts a finished task: a bar on a terminal, else a line for every tenth part, both with the time left."""
    started, done, finished, told = time.monotonic(), 0, 0.0, 0

    def words() -> str:
        gone = time.monotonic() - started
        left = f", about {_minutes(gone * (cost - finished) / finished)} left" if finished else ""
        return f"{title}: {done} of {count}, {_minutes(gone)} gone{left}"

    with Progress(TextColumn("{task.description}"), BarColumn(), disable=not sys.stdout.isatty()) as bar:
        shown = bar.add_task(words(), total=cost)

        def advance(task: Task) -> None:
            nonlocal done, finished, told
            done, finished = done + 1, finished + task.cost
            bar.update(shown, advance=task.cost, description=words())
            if not sys.stdout.isatty() and 10 * done // count > told:
                told = 10 * done // count
                print(words(), flush=True)

        yield advance


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
