"""What a recurring run may start from: finding the checkpoint, and every refusal with both sides; no model needed."""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.dense_ids import DenseIdMap
from features.errors import InputError
from features.semantic_id import SidContract
from pipeline import recipe as recipes
from pipeline.starting_point import StartingPoint, chosen, find, require_fit

OLD = SidContract(levels=3, codebook_size=16, codebook_hash="0" * 64, source="text", generation=1)
REFRESHED = SidContract(levels=3, codebook_size=16, codebook_hash="1" * 64, source="text", generation=2, aligned_with=OLD.codebook_hash)
IMAGE = SidContract(levels=2, codebook_size=9, codebook_hash="2" * 64, source="image", generation=1)
IDS = DenseIdMap(np.array([5, 9, 30]), np.arange(3), np.zeros(3, np.int64))
GROWN = DenseIdMap(np.array([5, 7, 9, 30]), np.array([0, 3, 1, 2]), np.array([-1, 0, -1, -1]))
YESTERDAY: dict[str, Any] = {
    "sid_contracts": [OLD.to_json()],
    "store": None,
    "pieces": {},
    "model": {
        "embedding_dim": 8,
        "representations": {"sid": {"kind": "semantic_id", "rows": 97, "depth": 3}, "own": {"kind": "individual"}},
        "tasks": ["click"],
        "history": "bypass",
        "context_rows": 50,
        "history_length": 4,
    },
    "columns": {"dense": ["dense_age_hours"], "context": ["context_country"]},
    "dense_ids": IDS.describe(),
    "learning": {"seed": 0, "table_learning_rate": 0.1},
    "code": "abc",
}
START = StartingPoint(Path("yesterday"), YESTERDAY, "sha")


def today(**changes: Any) -> dict[str, Any]:
    """Yesterday's identity with dotted keys replaced, or removed where the value is None."""
    changed = copy.deepcopy(YESTERDAY)
    for key, value in changes.items():
        *parents, last = key.split(".")
        place = changed
        for parent in parents:
            place = place[parent]
        place[last] = value
        if value is None:
            del place[last]
    return changed


SAME = DenseIdMap(IDS.ids, IDS.table_rows, np.full(3, -1))  # extends it by nothing


def fits(changed: dict[str, Any], ids: DenseIdMap = SAME, accept: bool = False) -> None:
    require_fit(START, changed, ids, accept_refreshed_codebook=accept)


def test_data_learning_rates_seed_and_code_may_differ_and_the_map_may_grow() -> None:
    fits(today(), accept=True)
    fits(today(store="other", code="def", learning={"seed": 7}, dense_ids=GROWN.describe()), GROWN)
    require_fit(None, today(), IDS, accept_refreshed_codebook=False)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model.history": "pma"}, "model.history is bypass in yesterday but pma in this run"),
        ({"model.embedding_dim": 16}, "model.embedding_dim is 8 in yesterday but 16 in this run"),
        ({"model.context_rows": 60}, "model.context_rows is 50 in yesterday but 60 in this run"),
        ({"model.history_length": 5}, "model.history_length is 4 in yesterday but 5 in this run"),
        ({"model.tasks": ["click", "buy"]}, r"model.tasks is \['click'\] in yesterday but \['click', 'buy'\] in this run"),
        ({"model.representations.sid.rows": 98}, "model.representations.sid.rows is 97 in yesterday but 98 in this run"),
        ({"model.representations.sid.depth": 2}, "model.representations.sid.depth is 3 in yesterday but 2 in this run"),
        (
            {"model.representations.hash": {"kind": "random_hash"}},
            "model.representations.hash is absent in yesterday but {'kind': 'random_hash'}",
        ),
        ({"model.representations.sid": None}, r"model.representations.sid is \{.*\} in yesterday but absent in this run"),
        (
            {"model.representations": dict(reversed(YESTERDAY["model"]["representations"].items()))},
            "model.representations is in the order sid, own in yesterday but in the order own, sid in this run",
        ),
        (
            {"columns.dense": ["dense_age_hours", "dense_price"]},
            r"columns.dense is \['dense_age_hours'\] in yesterday but \['dense_age_hours', 'dense_price'\]",
        ),
        ({"columns.context": []}, r"columns.context is \['context_country'\] in yesterday but \[\] in this run"),
        ({"pieces": {"spm": "abc"}}, "pieces.spm is absent in yesterday but abc in this run"),
        ({"sid_contracts": [OLD.to_json(), IMAGE.to_json()]}, "sources of Semantic IDs are text there but text, image in this run"),
    ],
)
def test_what_would_change_the_meaning_of_rows_or_weights_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=f"^train.start_from.*{told}"):
        fits(today(**changes), accept=True)


def contracts(new: SidContract, **changes: Any) -> dict[str, Any]:
    return today(sid_contracts=[{**new.to_json(), **changes}])


def test_a_refreshed_codebook_needs_the_flag() -> None:
    told = (
        "codebook 000000000000 of generation 1 there, of codebook 111111111111 of generation 2 in this run, which was refreshed from it; "
    )
    with pytest.raises(InputError, match=f"{told}train.accept_refreshed_codebook: true"):
        fits(contracts(REFRESHED))
    fits(contracts(REFRESHED), accept=True)


@pytest.mark.parametrize("accept", [False, True])
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"aligned_with": None}, "which was trained from scratch: its codes, and so the tables' rows, mean something else"),
        ({"aligned_with": "f" * 64}, "which was refreshed from codebook ffffffffffff: its codes"),
        ({"generation": 1}, "of generation 1 there, of codebook 111111111111 of generation 1"),
        ({"levels": 4}, "levels of source 'text' is 3 there but 4 in this run"),
        ({"codebook_size": 32}, "codebook_size of source 'text' is 16 there but 32 in this run"),
    ],
)
def test_another_codebook_is_refused_whatever_the_flag(changes: dict[str, Any], told: str, accept: bool) -> None:
    with pytest.raises(InputError, match=told):
        fits(contracts(REFRESHED, **changes), accept=accept)


def test_a_map_that_is_no_extension_is_refused_and_the_item_named_where_yesterdays_map_is_still_there(tmp_path: Path) -> None:
    shuffled = DenseIdMap(GROWN.ids, np.arange(4), GROWN.first_rows)
    lacking = DenseIdMap(np.array([5, 7, 30]), np.array([0, 1, 2]), np.zeros(3, np.int64))
    for other in (shuffled, IDS):  # a map made anew knows its items only from their first impressions of today
        with pytest.raises(InputError, match=r"does not extend the one there \(3 items there, . here\); enrich with enrich.dense_ids_from"):
            fits(today(), other)
    IDS.save(tmp_path / "dense_ids")
    run = tmp_path / "train" / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"workdir": str(tmp_path)}))
    start = StartingPoint(run / "checkpoints" / "step-000000001", YESTERDAY, "sha")
    for ids, told in (
        (shuffled, "item id 9 has row 1 in .*dense_ids but row 2 here"),
        (lacking, "item id 9 has row 1 in .* but none here"),
    ):
        with pytest.raises(InputError, match=told):
            require_fit(start, today(), ids, accept_refreshed_codebook=False)
    GROWN.save(tmp_path / "dense_ids")  # another map lies there by now
    with pytest.raises(InputError, match="3 items there, 4 here"):
        require_fit(start, today(), shuffled, accept_refreshed_codebook=False)


def test_a_checkpoint_a_run_and_a_folder_with_one_run_are_found(tmp_path: Path) -> None:
    run = tmp_path / "train" / "one"
    for step in (2, 10):
        meta = checkpoint(run, step)
    newest = run / "checkpoints" / "step-000000010"
    expected = StartingPoint(newest, YESTERDAY, hashlib.sha256(meta).hexdigest())
    assert find(newest) == find(run) == find(tmp_path / "train") == expected
    assert find(run / "checkpoints" / "step-000000002").path.name == "step-000000002"
    (run / "checkpoints" / "step-000000020").mkdir()
    assert find(run) == expected
    checkpoint(tmp_path / "train" / "two", 1)
    with pytest.raises(InputError, match="train has the runs one, two: name one of them"):
        find(tmp_path / "train")
    with pytest.raises(InputError, match="nowhere is no checkpoint, and has no run"):
        find(tmp_path / "nowhere")
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    with pytest.raises(InputError, match="empty: the run has no checkpoint"):
        find(tmp_path / "empty")
    (newest / "meta.json").write_text("{")
    with pytest.raises(InputError, match=r"step-000000010/meta\.json is damaged"):
        find(run)


def test_the_folder_that_the_run_itself_writes_is_no_start(tmp_path: Path) -> None:
    checkpoint(tmp_path / "train" / "yesterday", 3)
    config = recipes.load("simulated", [f"workdir={tmp_path}"])
    assert chosen(config) is None
    with pytest.raises(InputError, match="train is the folder that the stage writes; name yesterday's run in it"):
        chosen(recipes.with_overrides(config, {"train.start_from": str(tmp_path / "train")}))
    start = chosen(recipes.with_overrides(config, {"train.start_from": str(tmp_path / "train" / "yesterday")}))
    assert start is not None
    assert start.path.name == "step-000000003"


def checkpoint(run: Path, step: int) -> bytes:
    folder = run / "checkpoints" / f"step-{step:09d}"
    folder.mkdir(parents=True)
    meta = json.dumps({"step": step, "identity": YESTERDAY}).encode()
    (folder / "meta.json").write_bytes(meta)
    return meta
