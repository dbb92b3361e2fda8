"""Checkpoints on a group of one: published whole, pruned after that, refused when damaged or of another run."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from features.errors import InputError
from features.store.publish import publish
from features.store.versions import open_snapshot
from pipeline import checkpoint, preemption
from pipeline import recipe as recipes
from pipeline.ranks import on_rank_zero, start_process_group
from pipeline.trainer import Trainer
from tests.soak.jobs import differences, scores, state
from tests.toy_log import toy_recipe, write_enriched_toy_log


@pytest.fixture(scope="module")
def device() -> Iterator[torch.device]:
    yield start_process_group()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_enriched_toy_log(folder, rows=1500)
    return folder


def trainer(workdir: Path, root: Path, device: torch.device, **changes: object) -> Trainer:
    config = recipes.load("simulated", toy_recipe(workdir, **{"train.checkpoint_every": 2, "ranks": 1, **changes}))
    return Trainer(config, root, device, quiet=True)


@pytest.fixture
def trained(workdir: Path, tmp_path: Path, device: torch.device) -> Trainer:
    made = trainer(workdir, tmp_path, device)
    made.train(10 * 128)
    made.close()
    return made


def test_the_newest_are_kept_and_nothing_half_done(trained: Trainer) -> None:
    assert sorted(path.name for path in trained.checkpoints.iterdir()) == ["step-000000008", "step-000000010"]


def test_every_moment_is_saved(trained: Trainer) -> None:
    """The silent trap: a template made before the first step has no moments, and DCP then drops them without a word."""
    latest = checkpoint.latest(trained.checkpoints)
    assert latest is not None
    saved = checkpoint.FileSystemReader(latest).read_metadata().state_dict_metadata
    dense = [name for name, _ in trained.model.module.named_parameters() if "embedding_bags" not in name]
    assert len(dense) > 5
    assert {f"dense.{name}.{kind}" for name in dense for kind in ("weight", "exp_avg", "exp_avg_sq", "step")} <= set(saved)
    assert {f"tables.semantic_id.{kind}" for kind in ("weight", "moment")} <= set(saved)


@pytest.mark.parametrize(("fault", "told"), [("drop", "Missing key"), ("flip", "was not written as this rank holds it")])
def test_what_was_not_written_right_is_not_published(trained: Trainer, monkeypatch: pytest.MonkeyPatch, fault: str, told: str) -> None:
    def faulty(state: dict, **options: object) -> None:
        name, values = next(iter(state["dense"].items()))
        wrong = {key: value for key, value in values.items() if key != "exp_avg"}
        if fault == "flip":
            wrong["exp_avg"] = values["exp_avg"] + 1e-7
        real_save({**state, "dense": {**state["dense"], name: wrong}}, **options)

    real_save, before = checkpoint.dcp.save, checkpoint.latest(trained.checkpoints)
    monkeypatch.setattr(checkpoint.dcp, "save", faulty)
    with pytest.raises(RuntimeError, match=told):
        checkpoint.save(trained.checkpoints, trained.model.state_dict(), checkpoint.Position(99, "plan", {}, {}), keep=2)
    assert checkpoint.latest(trained.checkpoints) == before


def test_a_checkpoint_is_of_its_step_though_the_training_goes_on(
    workdir: Path, tmp_path: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(*arguments: Any, **options: Any) -> Path:
        time.sleep(0.3)  # by then the tables are those of a later step
        return real_save(*arguments, **options)

    real_save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", slowly)
    states = []
    for asynchronous in (True, False):
        root = tmp_path / str(asynchronous)
        run = trainer(workdir, root, device, **{"train.async_checkpoint": asynchronous, "train.checkpoint_every": 6})
        run.train(9 * 128)
        shutil.rmtree(run.checkpoints / "step-000000009")
        states.append(state(root))
    assert not differences(*states)


def test_three_resumes_in_one_epoch_and_one_at_its_end(workdir: Path, tmp_path: Path, device: torch.device) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trainer(workdir, whole, device).train(1500)
    for steps, until in ((0, 3), (3, 5), (5, 8), (8, 12), (12, 12)):
        run = trainer(workdir, parts, device)
        assert run.resume() == (steps > 0)
        assert run.step == steps
        run.train(min(until * 128, 1500))
        assert run.step == until
        assert np.array_equal(scores(whole)[: len(scores(parts))], scores(parts))
    assert not differences(state(whole), state(parts))


def test_without_the_optimizers_start_a_resumed_run_is_another(
    workdir: Path, tmp_path: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of all the comparisons: they do see lost moments."""
    monkeypatch.setattr("pipeline.trainer.initialise_optimizer", lambda model: None)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trainer(workdir, whole, device).train(1500)
    for until in (512, 1500):
        run = trainer(workdir, parts, device)
        run.resume()
        run.train(until)
    assert np.array_equal(scores(whole)[:512], scores(parts)[:512])
    assert not np.array_equal(scores(whole), scores(parts))
    assert differences(state(whole), state(parts))


@pytest.mark.parametrize("when", ["before the first step", "in a save"])
def test_sigterm_saves_and_a_resumed_run_is_the_same(
    workdir: Path, tmp_path: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def told_meanwhile(*arguments: Any, **options: Any) -> Path:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        return real_save(*arguments, **options)

    whole, parts, real_save = tmp_path / "whole", tmp_path / "parts", checkpoint.save
    trainer(workdir, whole, device).train(1500)
    handler = signal.getsignal(signal.SIGTERM)
    preemption.hold_back_sigterm()
    try:
        run = trainer(workdir, parts, device)
        if when == "in a save":
            monkeypatch.setattr(checkpoint, "save", told_meanwhile)
        else:
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(preemption.Preempted, match=r"stopped by SIGTERM after step \d+; run it again"):
            run.train(1500)
        assert 0 < run.step < 12
        assert checkpoint.latest(run.checkpoints) == run.checkpoints / f"step-{run.step:09d}"
    finally:
        preemption.hold_back_sigterm()  # forgets the signal
        signal.signal(signal.SIGTERM, handler)
    monkeypatch.undo()
    again = trainer(workdir, parts, device)
    assert again.resume()
    assert again.step == run.step
    again.train(1500)
    assert np.array_equal(scores(whole), scores(parts))
    assert not differences(state(whole), state(parts))


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_file_is_named(trained: Trainer, damage: str) -> None:
    latest = checkpoint.latest(trained.checkpoints)
    assert latest is not None
    file = next(latest.glob("*.distcp"))
    data = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(data if damage == "flip" else data[:-7])
    with pytest.raises(InputError, match=f"{file.name}: missing, or its sha256 differs"):
        trained.resume()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ("plan", "other data or another global batch"),
        ("contract", r"sid_contracts is .*'generation': 2.* in the checkpoint but .*'generation': 1"),
        ("layout", "table 'semantic_id' has a moment per row for columns:0,4 in the checkpoint but for rows under this run's plan"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_naming_both_sides(trained: Trainer, changed: str, told: str) -> None:
    latest = checkpoint.latest(trained.checkpoints)
    assert latest is not None
    meta = json.loads((latest / "meta.json").read_text())
    if changed == "plan":
        meta["plan"] = "another"
    elif changed == "contract":
        meta["identity"]["sid_contracts"][0]["generation"] = 2
    else:
        meta["layout"]["semantic_id"] = "columns:0,4"
    (latest / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(InputError, match=told):
        trained.resume()


def test_a_changed_setting_starts_a_run_of_its_own(workdir: Path, trained: Trainer, device: torch.device) -> None:
    same, other = (trainer(workdir, trained.folder.parent, device, **changes) for changes in ({}, {"train.seed": 7}))
    assert same.resume()
    assert same.step == 10
    assert not other.resume()
    assert other.folder != trained.folder


def test_a_store_of_other_codes_starts_a_run_of_its_own_where_codes_are_looked_up(
    workdir: Path, tmp_path: Path, device: torch.device
) -> None:
    live = {"train.input": "impressions", "train.store": "store_shuffled"}
    before, again = (trainer(workdir, tmp_path, device, **live).run_id for _ in range(2))
    store = open_snapshot(workdir / "store_shuffled")
    contract = store.contract()
    publish(workdir / "store_shuffled", [(store.ids, {contract.source: store.codes[contract.source][::-1]})], [contract])
    assert before == again
    assert trainer(workdir, tmp_path, device, **live).run_id != before


def test_a_log_smaller_than_one_global_batch_is_refused_by_name(workdir: Path, tmp_path: Path, device: torch.device) -> None:
    small = trainer(workdir, tmp_path, device, **{"train.global_batch": 1400})
    with pytest.raises(InputError, match=r"enriched: 80% of 1500 rows are less than one global batch, 1400"):
        _ = small.train_rows


def test_rank_zeros_error_reaches_every_rank(device: torch.device) -> None:
    def fail() -> None:
        raise InputError("told once")

    with pytest.raises(InputError, match="told once"):
        on_rank_zero(fail)
