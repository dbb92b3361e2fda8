"""Stage evaluate on a group of one: stopped anywhere, it ends with the uninterrupted run's results, and scores no row it has seen."""

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from features.errors import InputError
from pipeline import evaluate, preemption, train
from pipeline import recipe as recipes
from pipeline.config import RunConfig
from pipeline.ranks import start_process_group
from pipeline.trainer import Trainer
from tests.toy_log import toy_recipe, write_enriched_toy_log

ROWS, BATCH = 1500, 64
VARIANTS = "{random_hash: {model.representations: {hash: {kind: random_hash, rows: 97}}}, semantic_id: {}}"


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    start_process_group()
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    write_enriched_toy_log(folder, rows=ROWS)
    return folder


def configuration(workdir: Path, **changes: object) -> RunConfig:
    settings = {
        "train.global_batch": BATCH,
        "train.checkpoint_every": 5,
        "evaluate.seeds": "[0]",
        "evaluate.variants": VARIANTS,
        "ranks": 1,
    }
    return recipes.load("simulated", toy_recipe(workdir, **{**settings, **changes}))


def results(workdir: Path) -> bytes:
    return (workdir / "evaluate" / "results.json").read_bytes()


def test_stopped_in_each_of_its_parts_it_ends_with_the_same_results(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(self: Trainer, start: int, stop: int) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return score(self, start, stop)

    def killed_before_the_stream(self: Trainer, until: int) -> None:
        if until == self.rows:
            raise KeyboardInterrupt
        train_until(self, until)

    def killed_in_the_stream(self: Trainer, until: int) -> None:
        train_until(self, min(until, 21 * BATCH))
        if until == self.rows:
            raise KeyboardInterrupt

    score, train_until = Trainer.score, Trainer.train
    whole, parts = (configuration(shutil.copytree(log, tmp_path / name)) for name in ("whole", "parts"))
    evaluate.run(whole)
    train.run(parts)
    (trained,) = (folder.parent for folder in parts.path("train").glob("*/checkpoints"))
    (trained / "tensorboard" / "of train").touch()
    half = parts.path("evaluate") / "runs" / trained.name / ".checkpoints.tmp"
    (half / "step-000000005").mkdir(parents=True)  # as a kill in the midst of taking over leaves it
    for method, stopped, error in (
        ("score", told, preemption.Preempted),
        ("train", killed_before_the_stream, KeyboardInterrupt),
        ("train", killed_in_the_stream, KeyboardInterrupt),
    ):
        with sigterm_held_back(), monkeypatch.context() as patch, pytest.raises(error):
            patch.setattr(Trainer, method, stopped)
            evaluate.run(parts)
    evaluate.run(parts)
    assert results(parts.workdir) == results(whole.workdir)
    assert not half.exists()
    assert (half.parent / "tensorboard" / "of train").exists(), "the run of stage train was not taken over"


@contextlib.contextmanager
def sigterm_held_back() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGTERM)
    preemption.hold_back_sigterm()
    yield
    preemption.hold_back_sigterm()  # forgets the signal
    signal.signal(signal.SIGTERM, handler)


def test_another_training_period_is_another_run(log: Path, tmp_path: Path) -> None:
    workdir = shutil.copytree(log, tmp_path / "log")
    train.run(configuration(workdir, **{"train.train_fraction": 0.8}))
    evaluate.run(configuration(workdir, **{"train.train_fraction": 0.6}))
    fresh = configuration(shutil.copytree(log, tmp_path / "fresh"), **{"train.train_fraction": 0.6})
    evaluate.run(fresh)
    assert results(workdir) == results(fresh.workdir)


def test_rows_that_were_trained_on_are_not_scored(log: Path, tmp_path: Path) -> None:
    run = Trainer(configuration(log), tmp_path, start_process_group(), quiet=True)
    run.train(10 * BATCH)
    with pytest.raises(InputError, match="has been trained on rows up to 640, and cannot score those from 576 on as unseen ones"):
        run.score(9 * BATCH, ROWS)
    assert len(run.score(10 * BATCH, ROWS)) == ROWS - 10 * BATCH
    run.close()
