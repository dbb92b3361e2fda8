"""RQ-KMeans against Lloyd's algorithm in NumPy and FAISS's residual quantizer, with and without mini-batches, and its common interface."""

import json
from itertools import pairwise
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from models.quantizers import rqkmeans_training
from models.quantizers.codebook import DESCRIPTION, load, measure, save
from models.quantizers.config import QuantizerConfig
from models.quantizers.fitting import fit
from models.quantizers.rqkmeans import RQKMeans
from models.quantizers.training import EpochReport
from tests.unit.test_rqvae import clustered

CONFIG = QuantizerConfig(kind="rqkmeans", levels=3, codebook_size=16, batch_size=256)


def faiss_error(x_ND: Tensor, config: QuantizerConfig) -> float:
    """Relative reconstruction error of FAISS's residual quantizer with a beam of 1, its codes likewise chosen greedily."""
    x = x_ND.numpy()
    quantizer = faiss.ResidualQuantizer(x.shape[1], config.levels, int(np.log2(config.codebook_size)))
    quantizer.max_beam_size = 1
    quantizer.train(x)
    decoded = quantizer.decode(quantizer.compute_codes(x))
    return float(np.square(x - decoded).sum() / np.square(x - x.mean(0)).sum())


def spread_out(count: int) -> Tensor:
    """Points without clusters, of unequal variance by dimension, far from the origin."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 12, generator=generator) * torch.linspace(2, 0.2, 12) + 5


@pytest.mark.parametrize("sample", [1 << 20, 16], ids=["all items in the sample", "mini-batches"])
def test_about_as_good_as_faiss(monkeypatch: pytest.MonkeyPatch, sample: int) -> None:
    monkeypatch.setattr(rqkmeans_training, "SAMPLE", sample)
    x_ND = spread_out(4000)
    reports: list[EpochReport] = []
    quality = measure(fit(x_ND, CONFIG, lambda report, _: reports.append(report)), x_ND)
    assert quality.reconstruction_error < faiss_error(x_ND, CONFIG) * 1.05
    assert min(quality.usage) == 1.0
    assert [report.level for report in reports] == sorted(report.level or 0 for report in reports)
    assert {len(report.figures.usage) for report in reports} == {1, 2, 3}


def test_an_exact_pass_is_lloyd_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every centre is the mean of the residuals nearest to the centre that it was before; by hand in NumPy."""
    monkeypatch.setattr(rqkmeans_training, "SAMPLE", 16)  # far from the optimum of all items
    x_ND = spread_out(1000)
    before: list[np.ndarray] = []

    def keep(report: EpochReport, model: object) -> None:
        assert isinstance(model, RQKMeans)
        before.append(model.codebooks_LKD[0].numpy().copy())

    config = CONFIG.model_copy(update={"levels": 1, "minibatch_passes": 0, "exact_passes": 3, "min_improvement": 0.0})
    model = fit(x_ND, config, keep)
    y_ND = model.standardise(x_ND).numpy().astype(np.float64)
    assert len(before) == 3
    for start, end in pairwise(before):
        codes_N = np.square(y_ND[:, None] - start[None]).sum(2).argmin(1)
        means_KD = np.stack([y_ND[codes_N == code].mean(0) for code in range(16)])
        np.testing.assert_allclose(end, means_KD, atol=1e-6)


def test_a_fit_is_repeated_exactly_and_codes_are_renamed() -> None:
    x_ND = clustered()
    one, same = fit(x_ND, CONFIG), fit(x_ND, CONFIG)
    assert all(torch.equal(tensor, same.state_dict()[name]) for name, tensor in one.state_dict().items())
    codes_NL, new_of_old_K = one.encode(x_ND), torch.arange(16).roll(3)
    one.relabel(0, new_of_old_K)
    assert torch.equal(one.encode(x_ND)[:, 0], new_of_old_K[codes_NL[:, 0]])
    assert torch.equal(one.decode(one.encode(x_ND)), same.decode(codes_NL))


def test_empty_clusters_are_put_at_items() -> None:
    """Three places, and nearly all items at one of them: random starts leave clusters empty."""
    x_ND = torch.tensor([[0.0, 0.0]] * 60 + [[10.0, 0.0], [0.0, 10.0]] * 2)
    config = CONFIG.model_copy(update={"levels": 1, "codebook_size": 3, "exact_passes": 20, "min_improvement": 0.0})
    assert measure(fit(x_ND, config), x_ND).reconstruction_error < 0.6


def test_settings_of_another_kind_are_refused_unless_they_are_the_default() -> None:
    assert QuantizerConfig(kind="rqkmeans", beta=QuantizerConfig().beta).kind == "rqkmeans"
    for setting in ({"beta": 0.75}, {"hidden_dims": ()}, {"reset": "step"}, {"fsq_levels": (2, 2)}):
        with pytest.raises(ValidationError, match=f"'{next(iter(setting))}' is of rq.* alone: with kind rqkmeans it must keep its default"):
            QuantizerConfig(kind="rqkmeans", codebook_size=4, **setting)


def test_an_artifact_does_not_hold_what_its_kind_does_not_use(tmp_path: Path) -> None:
    """So that it can be loaded when the default of another kind's setting has changed."""
    x_ND = clustered(400)
    model = fit(x_ND, CONFIG)
    save(tmp_path / "codebook", model, measure(model, x_ND), "text")
    stored = json.loads((tmp_path / "codebook" / DESCRIPTION).read_text())["config"]
    assert "beta" not in stored
    assert stored["exact_passes"] == 10
    assert torch.equal(load(tmp_path / "codebook").model.encode(x_ND), model.encode(x_ND))
