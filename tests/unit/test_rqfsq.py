"""RQ-FSQ against its recurrence by hand in NumPy and SciPy, its gradients, its use of the grid and the artifact's round trip."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import norm
from torch import Tensor

from models.quantizers.autoencoder_training import RqfsqTraining
from models.quantizers.codebook import load, measure, save
from models.quantizers.config import QuantizerConfig
from models.quantizers.fitting import fit
from models.quantizers.rqfsq import RQFSQ
from models.quantizers.vectors import TensorVectors
from tests.unit.test_rqvae import clustered

GRID = (4, 3, 2)
CONFIG = QuantizerConfig(
    kind="rqfsq",
    levels=3,
    codebook_size=24,
    fsq_levels=GRID,
    hidden_dims=(16,),
    latent_dim=6,
    encoder_rate=1.0,
    batch_size=64,
    epochs=4,
    beta=0.25,
)


def random_model() -> RQFSQ:
    model = RQFSQ(10, CONFIG)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return model


def by_hand(model: RQFSQ, z: np.ndarray) -> tuple[list[int], list[np.ndarray]]:
    """Codes and vectors of one latent, one level and one dimension at a time."""
    weights = {name: tensor.numpy().astype(np.float64) for name, tensor in model.state_dict().items()}
    codes, vectors, residual = [], [], z
    for level in range(CONFIG.levels):
        a = weights[f"projections.{level}.weight"] @ residual + weights[f"projections.{level}.bias"]
        code, values = 0, []
        for number, size in zip(a, GRID, strict=True):
            rounded = int(np.clip(np.round(size * norm.cdf(number) - 0.5), 0, size - 1))
            values.append(norm.ppf((rounded + 0.5) / size))
            code = code * size + rounded
        codes.append(code)
        vectors.append(weights[f"expansions.{level}.weight"] @ values + weights[f"expansions.{level}.bias"])
        residual = residual - vectors[-1]
    return codes, vectors


def test_codes_and_vectors_follow_the_recurrence() -> None:
    model, x_ND = random_model(), torch.randn(50, 10, generator=torch.Generator().manual_seed(2))
    z_NZ = model.latent(x_ND).detach()
    quantized = model.quantize(z_NZ)
    for row, z in enumerate(z_NZ.numpy().astype(np.float64)):
        codes, vectors = by_hand(model, z)
        assert quantized.codes_NL[row].tolist() == codes
        assert model.encode(x_ND[row : row + 1])[0].tolist() == codes
        np.testing.assert_allclose(quantized.vectors_LNZ[:, row].detach(), vectors, atol=1e-5)


def test_the_gradient_passes_through_the_rounding_and_dies_beyond_the_grid() -> None:
    model = random_model()
    near_NZ, far_NZ = torch.zeros(1, 6), torch.full((1, 6), 100.0)
    for r_NZ, reached in ((near_NZ, True), (far_NZ, False)):
        model.zero_grad()
        model.trained_vectors(0, r_NZ, model.code(0, r_NZ)).sum().backward()
        gradient = model.projections[0].bias.grad
        assert isinstance(gradient, Tensor)
        assert bool(gradient.abs().max() > 1e-3) is reached


def test_the_start_uses_the_grid_evenly_and_training_lowers_the_error() -> None:
    x_ND = torch.randn(3000, 8, generator=torch.Generator().manual_seed(0)) * torch.linspace(2, 0.5, 8)
    config = CONFIG.model_copy(update={"codebook_size": 64, "fsq_levels": (4, 4, 4), "latent_dim": 8, "epochs": 8})
    training = RqfsqTraining(TensorVectors(x_ND), config, torch.device("cpu"))
    training.initialise()
    start, end = measure(training.model, x_ND), measure(fit(x_ND, config), x_ND)
    assert start.entropy_bits[0] > 5.9, "of 6 bits, since normal numbers are cut into equally likely parts"
    assert min(start.usage) > 0.95
    assert end.reconstruction_error < start.reconstruction_error * 0.95
    assert min(end.usage) > 0.9


def test_renamed_codes_survive_the_artifact(tmp_path: Path) -> None:
    x_ND = clustered(400)
    model = fit(x_ND, CONFIG)
    before_NL = model.encode(x_ND)
    first, second = (torch.randperm(24, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    model.relabel(2, first)
    model.relabel(2, second)
    after_NL = model.encode(x_ND)
    assert torch.equal(after_NL[:, 2], second[first[before_NL[:, 2]]])
    save(tmp_path / "codebook", model, measure(model, x_ND), "text")
    loaded = load(tmp_path / "codebook").model
    assert torch.equal(loaded.encode(x_ND), after_NL)
    assert torch.equal(loaded.decode(after_NL), fit(x_ND, CONFIG).decode(before_NL))


def test_the_grid_must_make_up_the_codebook() -> None:
    assert QuantizerConfig(kind="rqfsq", codebook_size=2048).fsq_grid() == (2,) * 11
    assert QuantizerConfig(kind="rqfsq", codebook_size=2048, fsq_levels=(8, 8, 8, 4)).fsq_grid() == (8, 8, 8, 4)
    with pytest.raises(ValidationError, match=r"product of 'fsq_levels' \[8, 8\] is not 'codebook_size', 100"):
        QuantizerConfig(kind="rqfsq", codebook_size=100, fsq_levels=(8, 8))
    with pytest.raises(ValidationError, match="'fsq_levels' must be given: 'codebook_size', 100, is no power of two"):
        QuantizerConfig(kind="rqfsq", codebook_size=100)
