"""A bundle scores as its trainer does: 10,000 requests made of logged rows, features to the bit, probabilities to 1e-6."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import sklearn.metrics
import torch
from scipy.special import expit
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.batch import Batch, Features
from features.dataset import open_dataset, read_table
from features.entity_store import EntityStore
from features.reader import BatchPlan
from features.schema import CONTEXT, DENSE
from features.semantic_id import UNKNOWN_CODE
from features.store.publish import publish
from features.store.versions import open_snapshot
from pipeline.config import RunConfig
from pipeline.loader import BatchSource
from pipeline.serve.bundle import PROGRAM, Bundle, open_bundle
from pipeline.serve.request import RankRequest, RequestRows
from pipeline.serve.saved_state import SavedState
from pipeline.serve.scorer import Scorer
from tests.exporting import BATCH, CASES, LENGTH, TRAINED, exported, trained

ROWS = TRAINED + 10_240  # the requests are whole global batches


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    trained(folder, ROWS, CASES)
    for case in CASES:
        exported(folder / "export" / case, folder / "bundles" / case)
    return folder


@pytest.fixture(scope="module")
def requests(workdir: Path) -> list[RankRequest]:
    """One of each row after training, from plain Python values."""
    log = read_table(open_dataset(workdir / "impressions")).slice(TRAINED).to_pydict()
    return [
        RankRequest(
            time=microseconds(log["timestamp"][row]),
            candidates=[log["item_id"][row]],
            history_item_ids=log["history_item_ids"][row],
            history_timestamps=[microseconds(time) for time in log["history_timestamps"][row]],
            dense={name: values[row] for name, values in log.items() if name.startswith(DENSE)},
            context={name: [values[row]] for name, values in log.items() if name.startswith(CONTEXT)},
        )
        for row in range(ROWS - TRAINED)
    ]


def microseconds(time: datetime) -> int:
    return int(np.datetime64(time.replace(tzinfo=None), "us").astype(np.int64))


def rows_of(bundle: Bundle, requests: list[RankRequest]) -> list[pa.RecordBatch]:
    """Rows of the requests, in batches of the training's size."""
    maker = RequestRows(bundle.inputs, LENGTH)
    rows = [maker.rows(request) for request in requests]
    return [pa.concat_batches(rows[first : first + BATCH]) for first in range(0, len(rows), BATCH)]


def of_training(workdir: Path, case: str) -> Iterator[Batch]:
    """The batches of the same rows as the trainer makes them on one rank."""
    (config,) = (workdir / "export" / case).glob("*/config.json")
    source = BatchSource(RunConfig.model_validate_json(config.read_text()))
    plan = BatchPlan(TRAINED, ROWS, BATCH)
    return source.batches(plan, 0, training=False, known_before=TRAINED)


@pytest.mark.parametrize("case", CASES)
def test_requests_score_as_the_trainer_does(workdir: Path, requests: list[RankRequest], case: str) -> None:
    bundle = open_bundle(workdir / "bundles" / case)
    scorer = Scorer(bundle, EntityStore(workdir / "store"))
    program = torch.export.load(bundle.path / PROGRAM).module()
    expected = expit(np.load(workdir / "export" / case / "logits.npy"))
    batches = rows_of(bundle, requests)
    assert len(batches) * BATCH == len(expected) == 10_240
    assert expected.std() > 0.02
    for number, (rows, theirs) in enumerate(zip(batches, of_training(workdir, case), strict=True)):
        features = scorer.features(scorer.enriched(rows))
        assert_equal(features, theirs)
        wanted = expected[number * BATCH : (number + 1) * BATCH]
        assert np.abs(scorer.score(rows).probability_NK - wanted).max() <= 1e-6
        with torch.no_grad():
            assert np.abs(program(*inputs_of(features, bundle)).numpy() - wanted).max() <= 1e-6
    for row in range(0, 10_240, 97):  # alone, as a service may score it
        alone = scorer.score(RequestRows(bundle.inputs, LENGTH).rows(requests[row])).probability_NK
        assert np.abs(alone - expected[row]).max() <= 1e-6
    assert len(scorer.score(batches[0].slice(0, 0)).probability_NK) == 0


def assert_equal(ours: Features, theirs: Batch) -> None:
    """To the bit."""
    for field in fields(theirs):
        if field.name in Features._fields:
            one, other = getattr(ours, field.name), getattr(theirs, field.name)
            if isinstance(other, KeyedJaggedTensor):
                assert one.keys() == other.keys()
                assert torch.equal(one.values(), other.values())
                assert torch.equal(one.lengths(), other.lengths())
            else:
                assert (one is None and other is None) or (one.dtype == other.dtype and torch.equal(one, other)), field.name


def inputs_of(features: Features, bundle: Bundle) -> tuple[object, ...]:
    """What the exported program takes."""
    values, lengths = {}, {}
    for kjt in (features.items, features.context):
        for name, bags in {} if kjt is None else kjt.to_dict().items():
            values[name] = bags.values()
            lengths[name] = bags.lengths().view(-1, 1 + LENGTH) if kjt is features.items else bags.lengths()
    return ({name: bundle.tables[name] for name in values}, values, lengths, *features[2:])


@pytest.mark.parametrize("case", CASES)
def test_weights_are_the_checkpoints_to_the_bit(workdir: Path, tmp_path: Path, case: str) -> None:
    """Read another way: PyTorch puts the whole checkpoint together in memory."""
    (checkpoint,) = (workdir / "export" / case).glob("*/checkpoints/*")
    dcp_to_torch_save(checkpoint, tmp_path / "whole.pt")
    whole = torch.load(tmp_path / "whole.pt", weights_only=False)
    bundle = open_bundle(workdir / "bundles" / case)
    assert bundle.tables.keys() == whole["tables"].keys()
    assert bundle.dense.keys() == whole["dense"].keys()
    saved = SavedState(checkpoint)
    for name, weight in bundle.tables.items():
        assert torch.equal(weight, whole["tables"][name]["weight"]), name
        blocks = list(saved.blocks(f"tables.{name}.weight", 7))
        assert [len(block) for block in blocks[:-1]] == [7] * (len(blocks) - 1)
        assert torch.equal(torch.cat(blocks), weight), name
    for name, weight in bundle.dense.items():
        assert torch.equal(weight, whole["dense"][name]["weight"]), name


def test_candidates_of_a_request_score_as_rows_of_their_own(workdir: Path, requests: list[RankRequest]) -> None:
    bundle = open_bundle(workdir / "bundles" / "several")
    scorer = Scorer(bundle, open_snapshot(workdir / "store"))
    user = max(requests, key=lambda request: len(request.history_item_ids))
    assert len(user.history_item_ids) > LENGTH, "no history is cut"
    counts = [float(number) for number in range(50)]
    together = replace(
        user,
        candidates=[request.candidates[0] for request in requests[:50]],
        dense={"dense_past_count": counts, "dense_age_hours": 3},
        context={"context_country": 2},
    )
    scores = scorer.score(RequestRows(bundle.inputs, LENGTH).rows(together)).probability_NK
    assert scores.shape == (50, 2)
    for item, count, score in zip(together.candidates, counts, scores, strict=True):
        alone = replace(together, candidates=[item], dense={"dense_past_count": count, "dense_age_hours": [3.0]})
        assert np.abs(scorer.score(RequestRows(bundle.inputs, LENGTH).rows(alone)).probability_NK - score).max() <= 1e-6


def test_a_new_item_is_scored_by_its_semantic_id_once_the_store_has_it(workdir: Path, tmp_path: Path, requests: list[RankRequest]) -> None:
    bundle = open_bundle(workdir / "bundles" / "plain")
    store = EntityStore(Path(shutil.copytree(workdir / "store", tmp_path / "store")))
    scorer = Scorer(bundle, store)
    snapshot = store.snapshot()
    alike, new = int(snapshot.ids[0]), 10**9
    user = requests[0]

    def scores() -> tuple[np.ndarray, list[bool]]:
        asked = RankRequest(user.time, [alike, new, new + 1], (), (), user.dense, {name: value[0] for name, value in user.context.items()})
        found = scorer.score(RequestRows(bundle.inputs, LENGTH).rows(asked))
        return found.probability_NK[:, 0], found.known_N.tolist()

    before, known = scores()
    assert known == [True, False, False]
    assert before[1] == before[2] != before[0]
    store.append(np.array([new]), {"text": snapshot.codes["text"][:1]}, [store.contract("text")])
    after, known = scores()
    assert known == [True, True, False]
    assert after[1] == after[0] == before[0]
    assert after[2] == before[2]


def test_an_item_is_known_by_a_row_of_its_own_only_if_that_was_trained(workdir: Path, tmp_path: Path, requests: list[RankRequest]) -> None:
    whole = open_snapshot(workdir / "store")
    few = np.flatnonzero(whole.codes["text"][:, 0] != UNKNOWN_CODE)[:40]
    publish(tmp_path / "store", [(whole.ids[few], {"text": whole.codes["text"][few]})], list(whole.contracts.values()))
    bundle = open_bundle(workdir / "bundles" / "several")
    items = read_table(open_dataset(workdir / "impressions"), ["item_id"]).column(0).to_pylist()
    asked = [*dict.fromkeys(items), 10**9]
    context = {"context_country": 1}
    request = RankRequest(requests[0].time, asked, dense={"dense_past_count": 0, "dense_age_hours": 0}, context=context)
    known = Scorer(bundle, open_snapshot(tmp_path / "store")).score(RequestRows(bundle.inputs, LENGTH).rows(request)).known_N
    expected = [item in whole.ids[few] or item in items[:TRAINED] for item in asked]
    assert known.tolist() == expected
    assert any(item in whole.ids[few] and item not in items[:TRAINED] for item in asked)
    assert any(item in items[TRAINED:] for item, told in zip(asked, expected, strict=True) if not told)


def test_int8_tables_cost_little_and_what_they_cost_is_told(
    workdir: Path, tmp_path: Path, requests: list[RankRequest], capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = open_bundle(exported(workdir / "export" / "several", tmp_path / "int8", "int8", judge=5000))
    told = re.findall(r"NE of (\w+) on 5,000 rows after training, tables in (\w+): (\S+) ", capsys.readouterr().out)
    entropies = {(task, tables): float(entropy) for task, tables, entropy in told}
    assert len(entropies) == 4
    assert bundle.described.no_program == "torch.export takes float32 tables alone"
    logits = np.load(workdir / "export" / "several" / "logits.npy")
    log = read_table(open_dataset(workdir / "impressions")).slice(TRAINED, 5000)
    for number, task in enumerate(("click", "like")):
        labels = log.column(f"label_{task}").to_numpy()
        loss = sklearn.metrics.log_loss(labels, expit(logits[:5000, number].astype(np.float64)))
        assert entropies[task, "fp32"] == pytest.approx(loss / sklearn.metrics.log_loss(labels, np.full(5000, labels.mean())), abs=2e-6)
        assert entropies[task, "int8"] == pytest.approx(entropies[task, "fp32"], rel=2e-3)
    scorer = Scorer(bundle, open_snapshot(workdir / "store"))
    off = np.abs(scorer.score(rows_of(bundle, requests[:BATCH])[0]).probability_NK - expit(logits[:BATCH])).max()
    assert 0 < off < 0.01
