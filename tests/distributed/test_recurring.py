"""Recurring training: two days, the second started from the first, give the weights and moments of one run over both, to the bit."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from features.dataset import DatasetWriter, open_dataset, read_table
from features.dense_ids import DenseIdMap
from features.errors import InputError
from features.store.publish import publish
from features.store.versions import open_snapshot
from pipeline import enrich
from pipeline import recipe as recipes
from pipeline.ranks import start_process_group
from pipeline.starting_point import find
from pipeline.warm_start import local_shards
from tests.distributed import recurring_worker
from tests.distributed.ranks import run_ranks
from tests.distributed.recurring_worker import BATCH, made
from tests.toy_log import CONTRACT, toy_recipe, write_toy_log

ROWS, DAY_ONE = 3000, 11 * BATCH


def days(folder: Path) -> Path:
    """One log in three workdirs: rows of day one, of day two, whose dense id map extends the first one's, and of both."""
    write_toy_log(folder / "both", rows=ROWS)
    both = open_dataset(folder / "both" / "impressions")
    table = read_table(both)
    for day, rows in (("one", table.slice(0, DAY_ONE)), ("two", table.slice(DAY_ONE))):
        with DatasetWriter(folder / day / "impressions", both.schema, both.metadata, rows_per_group=512) as writer:
            writer.write(rows)
        (folder / day / "store").symlink_to(folder / "both" / "store")
    for day in ("one", "two", "both"):
        enriched(folder / day, folder / "one" / "dense_ids" if day == "two" else None)
    return folder


def enriched(workdir: Path, older_ids: Path | None) -> None:
    """What stage enrich makes of a workdir's impressions and store."""
    changes = {} if older_ids is None else {"enrich.dense_ids_from": older_ids}
    enrich.run(recipes.load("simulated", toy_recipe(workdir, **changes)))


def test_two_days_equal_one_run_over_both_on_one_rank(tmp_path: Path, device: torch.device) -> None:
    recurring_worker.main(days(tmp_path), "table_wise-table_wise")
    assert_equal(tmp_path, "table_wise-table_wise")


def test_two_days_equal_one_run_over_both_on_two_ranks(tmp_path: Path, device: torch.device) -> None:
    cases = ["table_wise-row_wise", "row_wise-data_parallel", "column_wise-column_wise"]
    done = run_ranks(2, "tests.distributed.recurring_worker", str(days(tmp_path)), *cases)
    assert done.returncode == 0, done.stderr[-3000:]
    for case in cases:
        assert_equal(tmp_path, case)
    start = tmp_path / "one" / "train" / "row_wise-data_parallel"
    with made(tmp_path / "two", "one rank", device, **{"train.start_from": start}) as alone:
        assert not alone.resume()
        found, before = flat(alone.model.state_dict()), whole_state(start)
    for name, value in found.items():
        there, here = (each.view(-1, *value.shape[1:]) for each in (before[name], whole(value)))
        assert torch.equal(here[: len(there) - 1], there[:-1]), name
        assert torch.equal(here[-1], there[-1]), name


def assert_equal(workdirs: Path, case: str) -> None:
    """Day two's weights and moments are those of the run over both days; dense id maps differ, so items are compared by their ids."""
    ids = {day: DenseIdMap.load(workdirs / day / "dense_ids") for day in ("two", "both")}
    assert 0 < ids["two"].inherited < len(ids["two"].ids)
    # Items in the order of their ids, then the unknown row.
    rows = {day: torch.from_numpy(np.append(known.table_rows, len(known.ids))) for day, known in ids.items()}
    two, both = (whole_state(workdirs / day / "train" / case) for day in ("two", "both"))
    assert two.keys() == both.keys()
    for name, value in two.items():
        own = name.startswith("tables.own.")
        same = torch.equal(value[rows["two"]], both[name][rows["both"]]) if own else torch.equal(value, both[name])
        assert same, (case, name)


def test_a_start_gives_yesterdays_state_and_leaves_new_rows_as_initialised(day_one: Path, device: torch.device) -> None:
    with made(day_one / "two", "fresh", device) as fresh, made(day_one / "two", "warm", device, **started(day_one)) as warm:
        assert not warm.resume()
        assert warm.step == 0
        assert not any(value.any() for value in warm.metrics.state().values())
        found, initial, before = (
            flat(warm.model.state_dict()),
            flat(fresh.model.state_dict()),
            whole_state(day_one / "one" / "train" / "day"),
        )
    old, new = (len(DenseIdMap.load(day_one / day / "dense_ids").ids) for day in ("one", "two"))
    assert found.keys() == before.keys()
    for name, value in found.items():
        if name.startswith("tables."):
            value, start = whole(value), whole(initial[name])
        if name.startswith("tables.own."):
            assert len(value) == new + 1
            assert torch.equal(value[:old], before[name][:old]), name
            assert torch.equal(value[-1], before[name][-1]), name
            assert torch.equal(value[old:-1], start[old:-1]), name
            assert name != "tables.own.moment" or not value[old:-1].any()
        else:
            assert torch.equal(value, before[name]), name
        assert not torch.equal(value, start if name.startswith("tables.") else initial[name]), f"{name} is as it was initialised"


def test_what_does_not_fit_is_refused_by_name(day_one: Path, device: torch.device, tmp_path: Path) -> None:
    def refused(told: str, changes: dict[str, object] | None = None, workdir: str = "two") -> None:
        settings = started(day_one) | (changes or {})
        with pytest.raises(InputError, match=told), made(day_one / workdir, "refused", device, **settings) as run:
            run.resume()

    refused("model.context_rows is 53 in .*step-.* but 54 in this run", {"model.context_rows": 54})
    refused("nowhere is no checkpoint, and has no run", {"train.start_from": "nowhere"})
    refused(r"does not extend the one there: item id \d+ has row \d+ in .*one/dense_ids but row \d+ here", workdir="both")
    refused("of codebook toy of generation 1 there, of codebook other .* trained from scratch", workdir="other")
    refused("which was refreshed from it; train.accept_refreshed_codebook: true goes on with it", workdir="refreshed")
    with made(day_one / "refreshed", "warm", device, **started(day_one), **{"train.accept_refreshed_codebook": True}) as accepted:
        assert not accepted.resume()
        assert torch.equal(
            whole(accepted.model.state_dict()["tables"]["sid"]["weight"]),
            whole_state(day_one / "one" / "train" / "day")["tables.sid.weight"],
        )
    damaged = tmp_path / "damaged"
    shutil.copytree(day_one / "one" / "train" / "day", damaged)
    file = next(find(damaged).path.glob("*.distcp"))
    file.write_bytes(file.read_bytes()[:-1])
    refused(f"{file.name}: missing, or its sha256 differs", {"train.start_from": damaged})


def test_another_start_is_another_run(day_one: Path, device: torch.device) -> None:
    (run,) = (day_one / "one" / "train" / "day").iterdir()
    checkpoints = sorted((run / "checkpoints").glob("step-*"))
    assert len(checkpoints) == 2
    names = set()
    for start in ({}, *({"train.start_from": path} for path in (*checkpoints, run, run.parent))):
        with made(day_one / "two", "names", device, **start) as trainer:
            names.add(trainer.run_id)
    assert len(names) == 3


@pytest.fixture(scope="module")
def device() -> Iterator[torch.device]:
    yield start_process_group()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def day_one(tmp_path_factory: pytest.TempPathFactory, device: torch.device) -> Path:
    """`days`, with day one trained on, and day two with the codes of a refreshed codebook and of another one."""
    folder = days(tmp_path_factory.mktemp("days"))
    with made(folder / "one", "day", device, **{"train.checkpoint_every": 8}) as one:
        one.train(one.train_rows)
    store = open_snapshot(folder / "both" / "store")
    for day, before in (("refreshed", CONTRACT.codebook_hash), ("other", None)):
        contract = replace(CONTRACT, codebook_hash=day, generation=2, aligned_with=before)
        shutil.copytree(folder / "two" / "impressions", folder / day / "impressions")
        publish(folder / day / "store", [(store.ids, {"text": store.codes["text"]})], [contract])
        enriched(folder / day, folder / "one" / "dense_ids")
    return folder


def started(folder: Path) -> dict[str, object]:
    """Settings of a run that starts from day one's."""
    return {"train.start_from": folder / "one" / "train" / "day"}


def whole(value: torch.Tensor) -> torch.Tensor:
    """A tensor of a group of one."""
    ((_, shard),) = local_shards(value)
    return shard


def whole_state(start: Path) -> dict[str, torch.Tensor]:
    """The tensors but the metrics in a checkpoint or in the newest one of the only run, by dotted name."""
    newest = find(start).path
    whole_file = newest.parent.with_name("whole.pt")
    dcp_to_torch_save(newest, whole_file)
    state = flat(torch.load(whole_file, weights_only=False))
    return {name: value for name, value in state.items() if not name.startswith("metrics.")}


def flat(value: object, prefix: str = "") -> dict[str, torch.Tensor]:
    if isinstance(value, dict):
        return {name: tensor for key, item in value.items() for name, tensor in flat(item, f"{prefix}{key}.").items()}
    return {prefix.removesuffix("."): value} if isinstance(value, torch.Tensor) else {}
