"""Trains the RQ-VAE: principal components and k-means as the start, then Adam on paper A's loss, with unused codes put back to work.

Dimensions as in models/rqvae.py: N items, D content width, Z latent width, L levels, K codes per level.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from features.errors import InputError
from models.config import QuantizerConfig
from models.rqvae import RQVAE, Quantized, nearest

KMEANS_ROUNDS = 20
KMEANS_SAMPLE = 64  # items per code that the codebooks' start is made from


def fit(x_ND: Tensor, config: QuantizerConfig, after_epoch: Callable[[int, RQVAE], None] = lambda epoch, model: None) -> RQVAE:
    """Train a quantizer on content vectors.

    Args:
        x_ND: float32 content vectors, finite, not standardised.
        config: architecture and training.
        after_epoch: called with the number of finished epochs and the model, first with 0 after the initialisation.

    Returns:
        The trained model; the same numbers for the same input, configuration and number of threads.

    Raises:
        InputError: if there are fewer items than codes per level.
    """
    items, dim = x_ND.shape
    if items < config.codebook_size:
        raise InputError(f"quantize.codebook_size {config.codebook_size} is larger than the number of items with content, {items}")
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = RQVAE(dim, config)
    initialise(model, x_ND, generator)
    after_epoch(0, model)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    steps = -(-items // config.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs * steps)
    y_ND = model.standardise(x_ND)
    for epoch in range(config.epochs):
        _train_epoch(model, y_ND, optimizer, schedule, generator, reset=epoch + 1 < config.epochs)
        after_epoch(epoch + 1, model)
    return model


@torch.no_grad()
def initialise(model: RQVAE, x_ND: Tensor, generator: torch.Generator) -> None:
    """Set standardisation, linear maps and codebooks from the data: principal components, then k-means on each level's residuals."""
    config = model.config
    sample_ND = x_ND[torch.randperm(len(x_ND), generator=generator)[: config.codebook_size * KMEANS_SAMPLE]]
    model.mean_D.copy_(sample_ND.mean(0))
    model.scale.copy_((sample_ND - model.mean_D).square().mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny))
    y_ND = model.standardise(sample_ND)
    _, axes_DD = torch.linalg.eigh((y_ND.T @ y_ND).double())  # ascending variance
    axes_ZD = torch.zeros_like(model.encoder.linear.weight)  # a latent wider than the content keeps zeros
    axes_ZD[: model.input_dim] = axes_DD.flip(1)[:, : config.latent_dim].T.float()
    model.encoder.linear.weight.copy_(axes_ZD)
    model.decoder.linear.weight.copy_(axes_ZD.T)
    r_NZ = model.encoder(y_ND)
    for level in range(config.levels):
        codebook_KZ = kmeans(r_NZ, config.codebook_size, generator)
        model.codebooks_LKZ[level] = codebook_KZ
        r_NZ = r_NZ - codebook_KZ[nearest(r_NZ, codebook_KZ)]


def kmeans(points_NZ: Tensor, count: int, generator: torch.Generator, rounds: int = KMEANS_ROUNDS) -> Tensor:
    """Lloyd's algorithm from random points; a cluster that runs empty starts again at a random point. Returns centres [count, Z]."""
    centres_KZ = points_NZ[torch.randperm(len(points_NZ), generator=generator)[:count]].clone()
    for _ in range(rounds):
        assigned_N = nearest(points_NZ, centres_KZ)
        sizes_K = torch.bincount(assigned_N, minlength=count)
        sums_KZ = torch.zeros_like(centres_KZ).index_add_(0, assigned_N, points_NZ)
        empty_K = sizes_K == 0
        centres_KZ = sums_KZ / sizes_K.clamp_min(1)[:, None]
        centres_KZ[empty_K] = _random_rows(points_NZ, int(empty_K.sum()), generator)
    return centres_KZ


def _train_epoch(
    model: RQVAE,
    y_ND: Tensor,
    optimizer: torch.optim.Adam,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    generator: torch.Generator,
    *,
    reset: bool,
) -> None:
    used_LK = torch.zeros(model.codebooks_LKZ.shape[:2], dtype=torch.bool)
    for batch_N in torch.randperm(len(y_ND), generator=generator).split(model.config.batch_size):
        loss, quantized = model.loss(y_ND[batch_N])
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        schedule.step()
        used_LK.scatter_(1, quantized.codes_NL.T, True)
    if reset:
        reset_unused(model, used_LK, quantized, optimizer, generator)


@torch.no_grad()
def reset_unused(model: RQVAE, used_LK: Tensor, quantized: Quantized, optimizer: torch.optim.Adam, generator: torch.Generator) -> None:
    """Move codes that no item chose to residuals of random items of the last batch (paper B does so each step; here each epoch)."""
    for level, used_K in enumerate(used_LK):
        unused = int((~used_K).sum())
        model.codebooks_LKZ[level, ~used_K] = _random_rows(quantized.residuals_LNZ[level], unused, generator)
    for moment in ("exp_avg", "exp_avg_sq"):
        # Moments of the place that a code has left would carry it away from its new one.
        optimizer.state[model.codebooks_LKZ][moment][~used_LK] = 0


def _random_rows(points_NZ: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return points_NZ[torch.randint(len(points_NZ), (count,), generator=generator)]
