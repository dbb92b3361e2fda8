"""The RQ-VAE against paper A's equation computed by hand in float64, its use of the codes, and the artifact's round trip and damage."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from features.errors import InputError
from models.quantizers.autoencoder_training import RqvaeTraining
from models.quantizers.codebook import DESCRIPTION, TENSORS, Codebook, ContentOrigin, encode_in_batches, load, measure, save
from models.quantizers.config import QuantizerConfig
from models.quantizers.fitting import fit
from models.quantizers.kmeans import kmeans
from models.quantizers.rqvae import RQVAE
from models.quantizers.vectors import TensorVectors

SMALL = QuantizerConfig(levels=3, codebook_size=8, hidden_dims=(16,), latent_dim=6, beta=0.25, encoder_rate=1.0, batch_size=64, epochs=4)


def random_model(input_dim: int = 10) -> RQVAE:
    """A model whose every number is random, the layers that start at zero too."""
    model = RQVAE(input_dim, SMALL)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return model


def clustered(count: int = 1200, dim: int = 20) -> Tensor:
    """Items in 8 far clusters of 6 near ones each."""
    rng = np.random.default_rng(0)
    far, near = rng.normal(size=(8, dim)) * 4, rng.normal(size=(8, 6, dim))
    top, low = rng.integers(0, 8, count), rng.integers(0, 6, count)
    return torch.tensor(far[top] + near[top, low] + rng.normal(size=(count, dim)) * 0.2, dtype=torch.float32)


def by_hand(model: RQVAE, y_ND: Tensor) -> tuple[float, float, list[list[int]]]:
    """Reconstruction, quantization and codes in float64 NumPy, one item and one code at a time, after paper A's equations."""
    weights = {name: tensor.numpy().astype(np.float64) for name, tensor in model.state_dict().items()}

    def coder(name: str, x: np.ndarray) -> np.ndarray:
        hidden = np.maximum(weights[f"{name}.mlp.0.weight"] @ x + weights[f"{name}.mlp.0.bias"], 0)
        return weights[f"{name}.linear.weight"] @ x + weights[f"{name}.mlp.2.weight"] @ hidden + weights[f"{name}.mlp.2.bias"]

    reconstruction = quantization = 0.0
    codes: list[list[int]] = []
    for y in y_ND.numpy().astype(np.float64):
        residual, decoded = coder("encoder", y), np.zeros(model.latent_dim)
        codes.append([])
        for codebook in weights["codebooks_LKZ"]:
            distances = [np.sum((code - residual) ** 2) for code in codebook]
            chosen = int(np.argmin(distances))
            codes[-1].append(chosen)
            quantization += SMALL.beta * distances[chosen] + distances[chosen]
            decoded += codebook[chosen]
            residual = residual - codebook[chosen]
        reconstruction += np.sum((y - coder("decoder", decoded)) ** 2)
    return reconstruction / len(y_ND), quantization / len(y_ND), codes


def test_loss_and_codes_are_those_of_the_paper() -> None:
    model, y_ND = random_model(), torch.randn(40, 10, generator=torch.Generator().manual_seed(2))
    loss, quantized = model.loss(y_ND)
    reconstruction, quantization, codes = by_hand(model, y_ND)
    assert quantized.codes_NL.tolist() == codes
    assert model.encode(y_ND).tolist() == codes
    assert loss.reconstruction.item() == pytest.approx(reconstruction, rel=1e-5)
    assert loss.quantization.item() == pytest.approx(quantization, rel=1e-5)
    assert loss.total.item() == pytest.approx(reconstruction + quantization, rel=1e-5)


def test_gradients_pass_straight_through_and_stop_where_the_paper_stops_them() -> None:
    model, y_ND = random_model(), torch.randn(40, 10, generator=torch.Generator().manual_seed(2))
    encoder, codebooks = model.encoder.linear.weight, model.codebooks_LKZ
    loss, quantized = model.loss(y_ND)
    reached: tuple[Tensor | None, ...] = torch.autograd.grad(
        loss.reconstruction, [encoder, codebooks], retain_graph=True, allow_unused=True
    )
    through_encoder, through_codes = reached
    assert through_encoder is not None
    assert through_encoder.abs().sum() > 0
    assert through_codes is None, "the reconstruction must train the encoder, not the codes"
    (moves_LKZ,) = torch.autograd.grad(loss.quantization, [codebooks], retain_graph=True)
    expected_LKZ = torch.zeros_like(moves_LKZ)
    for level in range(3):
        error_NZ = 2 * (quantized.vectors_LNZ[level] - quantized.residuals_LNZ[level]).detach() / len(y_ND)
        expected_LKZ[level].index_add_(0, quantized.codes_NL[:, level], error_NZ)
    torch.testing.assert_close(moves_LKZ, expected_LKZ)


def test_decoding_fewer_levels_is_coarser() -> None:
    x_ND = clustered()
    model = fit(x_ND, SMALL)
    codes_NL = model.encode(x_ND)
    errors = [float((x_ND - model.decode(codes_NL[:, :levels])).square().sum()) for levels in (1, 2, 3)]
    assert errors == sorted(errors, reverse=True)


def test_training_uses_all_codes_lowers_the_loss_and_finds_the_clusters() -> None:
    x_ND = clustered()
    history: list[float] = []
    config = SMALL.model_copy(update={"epochs": 8})
    model = fit(x_ND, config, lambda report, _: history.append(report.figures.reconstruction_error))
    quality = measure(model, x_ND)
    assert len(history) == 8
    assert quality.reconstruction_error < history[0]
    assert min(quality.usage) == 1.0
    cosines = [cosine for cosine in quality.prefix_cosine if cosine is not None]
    assert cosines[0] < 0.1 < 0.4 < cosines[1] < cosines[2]


def test_a_fit_is_repeated_exactly_and_depends_on_the_seed() -> None:
    x_ND = clustered()
    one, same, other = (fit(x_ND, SMALL.model_copy(update={"seed": seed})).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["codebooks_LKZ"], other["codebooks_LKZ"])


def test_a_latent_wider_than_the_content_is_allowed() -> None:
    x_ND = clustered(dim=4)
    assert measure(fit(x_ND, SMALL), x_ND).reconstruction_error < 0.1


@pytest.mark.parametrize("reset", ["step", "epoch"])
def test_unused_codes_are_put_back_to_work(reset: str) -> None:
    x_ND = clustered()
    config = SMALL.model_copy(update={"reset": reset, "batch_size": len(x_ND)})
    training = RqvaeTraining(TensorVectors(x_ND), config, torch.device("cpu"))
    training.initialise()
    assert measure(training.model, x_ND).usage[0] == 1.0
    with torch.no_grad():
        training.model.codebooks_LKZ[0, 4:] = 1e4  # out of everyone's reach
    assert measure(training.model, x_ND).usage[0] == 0.5
    training.train_batch(training.model.standardise(x_ND), len(x_ND))
    if reset == "epoch":
        assert measure(training.model, x_ND).usage[0] == 0.5
        training.epoch = 1
        training.end_epoch(training.tally.total())
    assert measure(training.model, x_ND).usage[0] == 1.0
    moments = training._optimizer.state[training.model.codebooks_LKZ]["exp_avg"][0]
    assert not moments[4:].any()
    assert moments[:4].any()


def test_a_code_is_renamed_without_changing_what_it_means() -> None:
    model, x_ND = random_model(), torch.randn(60, 10, generator=torch.Generator().manual_seed(5))
    before_NL, decoded_ND = model.encode(x_ND), model.decode(model.encode(x_ND))
    new_of_old_K = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    model.relabel(1, new_of_old_K)
    after_NL = model.encode(x_ND)
    assert torch.equal(after_NL[:, 1], new_of_old_K[before_NL[:, 1]])
    assert torch.equal(after_NL[:, [0, 2]], before_NL[:, [0, 2]])
    assert torch.equal(model.decode(after_NL), decoded_ND)


def test_training_ends_after_a_plateau_with_a_step_size_of_zero() -> None:
    """Nothing is learned at this step size, so the plateau begins with the first epoch."""
    rates: list[float | None] = []
    config = SMALL.model_copy(update={"learning_rate": 1e-12, "epochs": 50, "patience": 3})
    fit(clustered(300), config, lambda report, _: rates.append(report.learning_rate))
    assert len(rates) == 1 + 3 + 3, "an epoch that is the best, three that are not, and three in which the step size falls"
    assert rates[3] is not None
    assert rates[3] > 0.9e-12
    assert rates[-1] == 0


def test_kmeans_reseeds_empty_clusters() -> None:
    """Most starts pick the same place twice, and one of the two clusters then has no points."""
    points = torch.tensor([[0.0], [10.0], [20.0]]).repeat(6, 1)
    for seed in range(10):
        centres = kmeans(points, 3, torch.Generator().manual_seed(seed), rounds=50)
        assert sorted(centres.flatten().tolist()) == [0, 10, 20]


def test_quality_agrees_with_counting_by_hand() -> None:
    model, x_ND = random_model(), torch.randn(60, 10, generator=torch.Generator().manual_seed(5))
    quality, codes = measure(model, x_ND), [tuple(row) for row in model.encode(x_ND).tolist()]
    unit = (x_ND / x_ND.norm(dim=1, keepdim=True)).double()
    for level in range(3):
        column = [row[level] for row in codes]
        shares = np.array([column.count(code) / 60 for code in set(column)])
        assert quality.usage[level] == pytest.approx(len(shares) / 8)
        assert quality.entropy_bits[level] == pytest.approx(-(shares * np.log2(shares)).sum())
    assert quality.unique_share == pytest.approx(sum(codes.count(row) == 1 for row in codes) / 60)
    for length, cosine in enumerate(quality.prefix_cosine):
        pairs = [float(unit[i] @ unit[j]) for i in range(60) for j in range(i) if codes[i][:length] == codes[j][:length]]
        assert cosine == (pytest.approx(np.mean(pairs), abs=1e-6) if pairs else None)


def test_too_few_items_are_refused() -> None:
    with pytest.raises(InputError, match="codebook_size 8 is larger than the number of items with content, 7"):
        fit(torch.randn(7, 10), SMALL)


@pytest.fixture
def artifact(tmp_path: Path) -> tuple[Path, RQVAE]:
    """A saved codebook and the model it was saved from."""
    model = fit(clustered(400), SMALL)
    assert isinstance(model, RQVAE)
    save(tmp_path / "codebook", model, measure(model, clustered(400)), "text")
    return tmp_path / "codebook", model


def test_round_trip_is_bit_equal(artifact: tuple[Path, RQVAE]) -> None:
    path, model = artifact
    loaded: Codebook = load(path)
    state = loaded.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(encode_in_batches(loaded.model, clustered(400)), encode_in_batches(model, clustered(400)))
    assert (loaded.contract.levels, loaded.contract.codebook_size, loaded.contract.source, loaded.contract.generation) == (3, 8, "text", 1)
    assert loaded.quality.items == 400
    assert (loaded.content, loaded.contract.aligned_with) == (None, None)
    assert sorted(file.name for file in path.iterdir()) == [DESCRIPTION, TENSORS]


def test_a_refreshed_codebook_tells_what_it_follows(artifact: tuple[Path, RQVAE]) -> None:
    path, model = artifact
    origin = ContentOrigin("../content", "abc")
    save(path, model, load(path).quality, "text", generation=2, aligned_with="old", content=origin)
    loaded = load(path)
    assert (loaded.contract.generation, loaded.contract.aligned_with, loaded.content) == (2, "old", origin)


def test_the_hash_follows_every_tensor(artifact: tuple[Path, RQVAE]) -> None:
    path, model = artifact
    before = load(path).contract.codebook_hash
    quality = measure(model, clustered(400))
    assert save(path, model, quality, "text").codebook_hash == before
    model.mean_D[0] += 1e-6
    assert save(path, model, quality, "text").codebook_hash != before


def test_damage_is_refused_with_the_file_s_name(artifact: tuple[Path, RQVAE]) -> None:
    path, _ = artifact
    tensors, description = (path / TENSORS).read_bytes(), (path / DESCRIPTION).read_text()
    for damaged, message in (
        (tensors[:-4] + b"\1\2\3\4", "tensors have hash"),
        (tensors[: len(tensors) // 2], "not a readable safetensors file"),
        (b"", "not a readable safetensors file"),
    ):
        (path / TENSORS).write_bytes(damaged)
        with pytest.raises(InputError, match=f"{TENSORS}: {message}"):
            load(path)
    (path / TENSORS).write_bytes(tensors)
    wider = json.loads(description)
    wider["config"]["latent_dim"] = 7
    coarser = json.loads(description)
    coarser["config"]["codebook_size"] = 4
    for text, message in (
        ("{", f"{DESCRIPTION}: damaged"),
        ("[]", f"{DESCRIPTION}: damaged"),
        (json.dumps(wider), "tensors do not fit"),
        (json.dumps(coarser), "disagree"),
    ):
        (path / DESCRIPTION).write_text(text)
        with pytest.raises(InputError, match=message):
            load(path)
    (path / DESCRIPTION).unlink()
    with pytest.raises(InputError, match=f"{DESCRIPTION}: no such file"):
        load(path)
