"""Training of any quantizer: interrupted and gone on with, from Parquet in bounded memory, and the alarm of a codebook that collapses."""

import copy
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from features.content import content_schema
from features.dataset import DatasetWriter, open_dataset
from features.errors import InputError
from models.quantizers import codebook_quality, rqkmeans_training
from models.quantizers.codebook import measure
from models.quantizers.config import QuantizerConfig
from models.quantizers.fitting import fit
from models.quantizers.training import EpochReport
from models.quantizers.vectors import BLOCK_ROWS, TensorVectors
from pipeline.quantizer_state import TrainingStateFolder
from pipeline.ranks import start_process_group
from pipeline.vectors import ContentVectors
from tests.unit.test_rqvae import clustered

SMALL: dict[str, Any] = {"levels": 2, "codebook_size": 16, "batch_size": 128, "checkpoint_every": 2}
KINDS: dict[str, dict[str, Any]] = {
    "rqvae": SMALL | {"hidden_dims": (16,), "latent_dim": 6, "epochs": 4},
    "rqvae_step": SMALL | {"hidden_dims": (16,), "latent_dim": 6, "epochs": 3, "reset": "step", "codebook_size": 100},
    "rqkmeans": SMALL | {"kind": "rqkmeans", "exact_passes": 2},
    "rqfsq": SMALL | {"kind": "rqfsq", "hidden_dims": (16,), "latent_dim": 6, "epochs": 3},
}


class Interrupted(Exception):
    """Stands for a process that is killed just after it has saved."""


class StoreThatEnds:
    """Keeps a copy of the newest state and ends the run after `saves` of them."""

    def __init__(self, saves: int) -> None:
        self.saves = saves
        self.state: dict[str, Any] | None = None

    def load(self) -> dict[str, Any] | None:
        return copy.deepcopy(self.state)

    def save(self, state: dict[str, Any]) -> None:
        self.state, self.saves = copy.deepcopy(state), self.saves - 1
        if self.saves == 0:
            raise Interrupted


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rqkmeans_training, "SAMPLE", 4)  # so that there are mini-batches
    config, x_ND = QuantizerConfig(**KINDS[kind]), clustered(700)
    reports: list[EpochReport] = []
    whole = fit(x_ND, config, lambda report, _: reports.append(report)).state_dict()
    store = StoreThatEnds(0)
    again: dict[int, EpochReport] = {}
    for _ in range(100):
        store.saves = 2
        try:
            model = fit(x_ND, config, lambda report, _: again.update({report.epoch: report}), store=store)
            break
        except Interrupted:
            continue
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in whole.items())
    assert list(again.values()) == reports


def written(path: Path, x_ND: Tensor) -> ContentVectors:
    """The vectors in Parquet, read in windows of one block."""
    schema = content_schema(x_ND.shape[1])
    with DatasetWriter(path, schema, {"source": "text"}, rows_per_file=20_000, rows_per_group=1000) as writer:
        for first in range(0, len(x_ND), 10_000):
            part = x_ND[first : first + 10_000].numpy()
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), part.shape[1])
            writer.write(pa.table([pa.array(np.arange(first, first + len(part))), vectors], schema=schema))
    return ContentVectors(open_dataset(path), window_rows=BLOCK_ROWS)


def test_parquet_within_a_window_trains_the_codebook_that_a_tensor_does(tmp_path: Path) -> None:
    x_ND = clustered(3000)
    config = QuantizerConfig(**KINDS["rqvae"])
    streamed, in_memory = (fit(content, config) for content in (written(tmp_path / "content", x_ND), x_ND))
    assert all(torch.equal(tensor, in_memory.state_dict()[name]) for name, tensor in streamed.state_dict().items())


def test_an_epoch_has_every_row_once_in_another_order_each_time(tmp_path: Path) -> None:
    rows = 5 * BLOCK_ROWS + 123
    x_ND = torch.arange(rows, dtype=torch.float32)[:, None].repeat(1, 2)
    vectors = written(tmp_path / "content", x_ND)
    epochs = [[batch[:, 0] for batch in vectors.batches(epoch, 7, 1000)] for epoch in (0, 0, 1)]
    assert [len(batch) for batch in epochs[0]] == [1000] * (rows // 1000) + [rows % 1000]
    assert torch.equal(torch.cat(epochs[0]).sort().values, x_ND[:, 0])
    assert torch.equal(torch.cat(epochs[0]), torch.cat(epochs[1]))
    assert not torch.equal(torch.cat(epochs[0]), torch.cat(epochs[2]))
    assert {int(batch[0]) // BLOCK_ROWS for batch in epochs[0]} == {0, 1, 2, 3, 4, 5}
    later = [batch[:, 0] for batch in vectors.batches(0, 7, 1000, first_step=17)]
    assert torch.equal(torch.cat(later), torch.cat(epochs[0][17:]))
    assert torch.equal(vectors.sample(500, 3), TensorVectors(x_ND).sample(500, 3))
    assert torch.equal(torch.cat(list(vectors.blocks())), x_ND)


def test_reading_takes_no_more_memory_for_more_items(tmp_path: Path) -> None:
    peaks = []
    for blocks in (4, 16):
        vectors = written(tmp_path / str(blocks), torch.randn(blocks * BLOCK_ROWS, 16))
        tracemalloc.start()
        pa.default_memory_pool().release_unused()
        before = pa.total_allocated_bytes()
        arrow = 0
        for _ in vectors.batches(0, 0, 512):
            arrow = max(arrow, pa.total_allocated_bytes() - before)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        window = BLOCK_ROWS * 16 * 4
        assert arrow < window * 7  # a window of vectors, its copy, and the row groups of a block and of the next one
    assert peaks[1] < peaks[0] * 1.1
    assert peaks[1] < BLOCK_ROWS * 16 * 4 * 6


def test_a_vector_that_is_not_finite_is_named(tmp_path: Path) -> None:
    x_ND = torch.zeros(9000, 2)
    x_ND[8500, 1] = torch.nan
    with pytest.raises(InputError, match=r"content: row 8500 has no finite vector"):
        measure(fit(clustered(100, 2), QuantizerConfig(**KINDS["rqkmeans"])), written(tmp_path / "content", x_ND))


def test_quality_from_parquet_is_that_of_the_tensor(tmp_path: Path) -> None:
    x_ND = clustered(BLOCK_ROWS + 500)
    model = fit(x_ND, QuantizerConfig(**KINDS["rqkmeans"]))
    assert measure(model, written(tmp_path / "content", x_ND)) == measure(model, x_ND)


def test_the_share_of_unique_ids_of_a_sample_is_about_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample of the items would have fewer that share an id; the sample is of the ids, with all items of each."""
    x_ND = torch.randn(40_000, 8, generator=torch.Generator().manual_seed(0))
    model = fit(x_ND, QuantizerConfig(kind="rqkmeans", levels=3, codebook_size=32, exact_passes=1))
    exact = measure(model, x_ND).unique_share
    monkeypatch.setattr(codebook_quality, "UNIQUE_ITEMS", 5000)
    monkeypatch.setattr(codebook_quality, "PENDING_BATCHES", 2)
    sampled = measure(model, x_ND).unique_share
    assert 0.2 < exact < 0.8
    assert sampled != exact
    assert sampled == pytest.approx(exact, abs=0.03)


@pytest.mark.parametrize("kind", ["rqvae", "rqkmeans", "rqfsq"])
def test_a_collapse_is_told_by_level(kind: str) -> None:
    """Four different vectors cannot make use of sixteen codes."""
    x_ND = torch.eye(4).repeat(200, 1)
    told: dict[int, str] = {}
    config = QuantizerConfig(**KINDS[kind])
    fit(x_ND, config, lambda report, _: told.update(report.collapsed(config)))
    assert set(told) == {1, 2}
    assert told[1].startswith("level 1 uses ")
    assert kind != "rqkmeans" or told[1] == "level 1 uses 25.0% of its 16 codes"
    reports: list[EpochReport] = []
    fit(clustered(700), config, lambda report, _: reports.append(report))
    assert kind == "rqfsq" or reports[-1].collapsed(config) == {}
    lopsided = torch.cat([torch.zeros(500, 4), torch.randn(40, 4, generator=torch.Generator().manual_seed(0)) * 10])
    config = config.model_copy(update={"min_usage": 0.0})
    told.clear()
    fit(lopsided, config, lambda report, _: told.update(report.collapsed(config)))
    assert "of the items" in told[1]


def test_a_state_is_found_by_its_identity_alone_and_checked(tmp_path: Path) -> None:
    start_process_group()
    folder = tmp_path / "state"
    store = TrainingStateFolder(folder, "mine")
    assert store.load() is None
    for epoch in (1, 2):
        store.save({"epoch": epoch, "step": 0, "model": {"weight": torch.arange(3)}})
    assert len(list(folder.iterdir())) == 1
    state = TrainingStateFolder(folder, "mine").load()
    assert state is not None
    assert state["epoch"] == 2
    assert TrainingStateFolder(folder, "another's").load() is None
    (file,) = folder.glob("state-*/state.pt")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match=r"state\.pt: missing, or its sha256 differs"):
        TrainingStateFolder(folder, "mine").load()
    store.clear()
    assert not folder.exists()
