"""docs/data_path.md against the code: every function that it names exists, in the promised order, and every number is recomputed."""

import ast
import datetime
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional

import pipeline
from features.batch import Batch, BatchSchema
from features.dataset import DatasetWriter
from features.enrich import Additions, enrich
from features.prefix_ngram import coprime_rows, level_rows, prefix_ngram_keys
from features.reader import BatchPlan
from features.schema import IMPRESSIONS
from features.semantic_id import SidContract
from features.store.publish import publish
from models.config import RankerConfig
from models.history import Bypass
from models.ranker import Ranker
from pipeline import recipe as recipes
from pipeline.loader import BatchSource
from pipeline.metrics import StreamMetrics

ROOT = Path(pipeline.__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "data_path.md").read_text()
ORDER = (
    "features/reader.py",
    "features/enrich.py",
    "features/prefix_ngram.py",
    "features/kjt.py",
    "models/ranker.py",
    "pipeline/metrics.py",
)
STORE = {101: [1, 3, 0], 102: [1, 2, 3], 103: [0, 3, 2]}


def named() -> list[tuple[str, str]]:
    return re.findall(r"`([\w/]+\.py):([\w.]+)`", DOCUMENT)


def stated() -> dict[str, Any]:
    """The `name = value` lines of the document's blocks."""
    lines = [line for block in re.findall(r"```text\n(.*?)```", DOCUMENT, re.DOTALL) for line in block.splitlines()]
    return {name.strip(): ast.literal_eval(value.strip()) for name, value in (line.split(" = ") for line in lines)}


@cache
def definitions(file: str) -> set[str]:
    """Names at a module's top level, and methods as Class.method."""
    found = set()
    for node in ast.parse((ROOT / file).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize(("file", "name"), named())
def test_what_is_named_exists(file: str, name: str) -> None:
    assert name in definitions(file)


def test_the_files_come_in_the_data_s_order() -> None:
    files = [file for file, _ in named()]
    places = [files.index(file) for file in ORDER]
    assert places == sorted(places)
    assert len(files) >= 25
    assert DOCUMENT.count(".py`") == 1  # this test's own file; all other names of files say what to read in them


def test_every_number_is_what_the_code_computes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    write_inputs(tmp_path)
    source = BatchSource(recipes.load("simulated", recipe(tmp_path)))
    batch, computed = computed_batch(source)
    computed |= computed_scores(batch, source.builder.schema, source.config.model)
    expected = stated()
    assert computed.keys() == expected.keys()
    for name, value in expected.items():
        assert_near(computed[name], value, name)


def write_inputs(workdir: Path) -> None:
    contract = SidContract(levels=3, codebook_size=4, codebook_hash="example", source="text", generation=1)
    publish(workdir / "store", [(np.array(list(STORE)), {"text": np.array(list(STORE.values()))})], [contract])
    with DatasetWriter(workdir / "impressions", IMPRESSIONS, {"source": "example"}) as writer:
        writer.write(impressions())


def computed_batch(source: BatchSource) -> tuple[Batch, dict[str, Any]]:
    """Steps 1 to 4, by the run's own loader."""
    plan = BatchPlan(0, source.dataset.rows, global_batch=2)
    (batch,) = source.batches(plan, 0, training=True)
    assert batch.items is not None
    rows = source.rows(0, 2)
    looked_up = enrich(impressions().to_batches()[0], source.store, Additions(("text",)))
    codes = np.array(list(STORE.values()))
    keys = batch.items.values().tolist()
    paper = prefix_ngram_keys(codes[:1], depth=3, codebook_size=4)[0].tolist()
    return batch, {
        "steps": plan.steps,
        "step_rows": plan.step_rows(0),
        "rank_rows": plan.rank_rows(0),
        "target_codes_text": rows["target_codes_text"].to_pylist(),
        "history_codes_text": rows["history_codes_text"].to_pylist(),
        "lookups": looked_up.lookups,
        "misses": looked_up.misses["text"],
        "level_rows": level_rows(depth=3, codebook_size=4, rows=14),
        "keys_of_101": keys[:3],
        "keys_of_102": keys[3:6],
        "keys_of_999": keys[6:9],
        "keys_of_103": keys[9:],
        "coprime_rows": coprime_rows(14, 4),
        "paper_keys_of_101": paper,
        "paper_keys_of_101_modulo": prefix_ngram_keys(codes[:1], depth=3, codebook_size=4, rows=15)[0].tolist(),
        "values": keys,
        "lengths": batch.items.lengths().tolist(),
        "history_mask": batch.history_mask_BT.tolist(),
        "history_age_hours": batch.history_age_BT.tolist(),
        "dense": batch.dense_BF.tolist(),
        "label": batch.label_BK.tolist(),
        "weight": batch.weight_B.tolist(),
    }


def computed_scores(batch: Batch, schema: BatchSchema, config: RankerConfig) -> dict[str, Any]:
    """Steps 5 to 7, by the run's own ranker with the weights that the document assumes."""
    ranker = example_ranker(schema, config)
    assert ranker.item_embeddings is not None
    seen: dict[str, torch.Tensor] = {}
    ranker.history_arm.age.register_forward_hook(lambda module, given, result: seen.update(buckets=given[0]))
    ranker.interaction.register_forward_hook(lambda module, given, result: seen.update(sparse=given[1], pairs=result))
    ranker.over_arch.register_forward_hook(lambda module, given, result: seen.update(features=given[0]))
    loss, output = ranker(batch)
    metrics = StreamMetrics(["click"], torch.device("cpu"))
    metrics.update(*output)
    final = metrics.lifetime()["click"]["all"]
    return {
        "pooled": ranker.item_embeddings(batch.items).values().view(2, 3, 2).tolist(),
        "age_buckets": seen["buckets"][0].tolist(),
        "summary_of_row_0": seen["sparse"][0, 1].tolist(),
        "target_dot_summary": seen["pairs"][:, -1].tolist(),
        "target_dot_tokens": seen["features"][:, -2:].tolist(),
        "logit": output.logit_BK.tolist(),
        "loss_of_rows": functional.binary_cross_entropy_with_logits(output.logit_BK, batch.label_BK, reduction="none").tolist(),
        "loss": loss.item(),
        "ne": final.ne,
        "auc": final.auc,
        "calibration": final.calibration,
    }


def example_ranker(schema: BatchSchema, config: RankerConfig) -> Ranker:
    ranker = Ranker(schema, config)
    assert ranker.item_embeddings is not None
    table = ranker.item_embeddings.embedding_bags["semantic_id"].weight
    bypass = ranker.history_arm.aggregate
    assert isinstance(bypass, Bypass)
    with torch.no_grad():
        table.copy_(torch.stack([torch.arange(15) / 10, torch.ones(15)], 1))
        ranker.history_arm.age.weight.zero_()
        bypass.weight.weight.copy_(torch.eye(2))
        for parameter in ranker.over_arch.parameters():
            parameter.zero_()
        list(ranker.over_arch.parameters())[-1].fill_(0.5)
    return ranker


def recipe(workdir: Path) -> list[str]:
    values = {
        "workdir": workdir,
        "ranks": 1,
        "ingest.history_length": 2,
        "train.global_batch": 2,
        "train.input": "impressions",
        "model.embedding_dim": 2,
        "model.representations": "{semantic_id: {kind: semantic_id, rows: 14, depth: 3}}",
    }
    return [f"{key}={value}" for key, value in values.items()]


def impressions() -> pa.Table:
    noon = datetime.datetime(2026, 1, 2, 12, tzinfo=datetime.UTC)
    hour = datetime.timedelta(hours=1)
    columns = {
        "timestamp": [noon, noon + hour / 12],
        "user_id": [7, 8],
        "item_id": [101, 103],
        "label_click": [1, 0],
        "dense_past_count": [3, 0],
        "dense_age_hours": [7, 1],
        "history_item_ids": [[102, 999, 103], []],
        "history_timestamps": [[noon - hour, noon - 24 * hour, noon - 25 * hour], []],
        "past_impressions": [5, 0],
    }
    return pa.table(columns, schema=IMPRESSIONS)


def assert_near(computed: Any, expected: Any, name: str) -> None:
    """Equal, floats to the four decimals of the document."""
    if isinstance(expected, list | tuple):
        assert len(computed) == len(expected), name
        for one, other in zip(computed, expected, strict=True):
            assert_near(one, other, name)
    else:
        assert computed == pytest.approx(expected, abs=5e-5), name


def test_the_tables_of_the_document_are_the_example() -> None:
    for item, codes in STORE.items():
        assert f"| {item} | {', '.join(map(str, codes))} |" in DOCUMENT
    for row in impressions().to_pylist():
        times = ", ".join(f"{time:%Y-%m-%d %H:%M}" for time in row["history_timestamps"])
        cells = [f"{row['timestamp']:%Y-%m-%d %H:%M}", row["user_id"], row["item_id"], row["label_click"]]
        cells += [f"{row['dense_past_count']:g}", f"{row['dense_age_hours']:g}", ", ".join(map(str, row["history_item_ids"])), times]
        line = "| " + " | ".join(map(str, cells)) + " |"
        assert re.sub(" +", " ", line) in DOCUMENT
