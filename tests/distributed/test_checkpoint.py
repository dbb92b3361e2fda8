"""Checkpoints on a group of one: published whole, pruned after that, refused when damaged or of another run."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from features.errors import InputError
from features.store.publish import publish
from features.store.versions import open_snapshot
from pipeline import checkpoint
from pipeline import recipe as recipes
from pipeline.ranks import on_rank_zero, start_process_group
from pipeline.trainer import Trainer
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
    made.train(1200)
    made.close()
    return made


def test_the_newest_are_kept_and_nothing_half_done(trained: Trainer) -> None:
    assert sorted(path.name for path in trained.checkpoints.iterdir()) == ["step-000000008", "step-000000010"]


def test_every_moment_of_adam_is_saved(trained: Trainer) -> None:
    """The silent trap: a template made before the first step has no moments, and DCP then drops them without a word."""
    latest = checkpoint.latest(trained.checkpoints)
    assert latest is not None
    saved = checkpoint.FileSystemReader(latest).read_metadata().state_dict_metadata
    dense = [name for name, _ in trained.model.module.named_parameters() if "embedding_bags" not in name]
    assert len(dense) > 5
    assert {f"optimizer.state.dense.{name}.{kind}" for name in dense for kind in ("exp_avg", "exp_avg_sq", "step")} <= set(saved)


def test_a_tensor_missing_from_the_files_is_not_published(trained: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    def lossy(state: dict, storage_writer: object) -> None:
        del state["optimizer"]["state"][next(iter(state["optimizer"]["state"]))]
        real_save(state, storage_writer=storage_writer)

    real_save = checkpoint.dcp.save
    before = checkpoint.latest(trained.checkpoints)
    names = checkpoint._tensor_names
    monkeypatch.setattr(checkpoint.dcp, "save", lossy)
    whole = names(checkpoint._state(trained.model, {}))
    monkeypatch.setattr(checkpoint, "_tensor_names", lambda state: whole)
    with pytest.raises(RuntimeError, match="the checkpoint lacks"):
        checkpoint.save(trained.checkpoints, trained.model, {}, checkpoint.Position(99, "plan", {}), keep=2)
    assert checkpoint.latest(trained.checkpoints) == before


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
    ("change", "told"),
    [
        ({"plan": "another"}, "other data or another global batch"),
        ({"identity": {"sid_contract": {"generation": 2}}}, r"sid_contract is .*'generation': 2.* in the checkpoint but .*'generation': 1"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_naming_both_sides(trained: Trainer, change: dict, told: str) -> None:
    latest = checkpoint.latest(trained.checkpoints)
    assert latest is not None
    meta = json.loads((latest / "meta.json").read_text())
    meta["identity"]["sid_contract"] |= change.get("identity", {}).get("sid_contract", {})
    (latest / "meta.json").write_text(json.dumps({**meta, **{key: value for key, value in change.items() if key == "plan"}}))
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
