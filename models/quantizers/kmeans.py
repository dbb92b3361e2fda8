"""Nearest codes and k-means over all ranks: the start of the RQ-VAE's codebooks, and what RQ-KMeans is made of.

Dimensions: N points, Z their width, K centres.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from models.quantizers.collectives import broadcast, share, sum_over_ranks

STEPS, ROUNDS = 10, 10  # numbers of dimensions that k-means goes through, and assignments with each
BLOCK = 4096  # points whose distances to all centres are in memory at once


class Clusters(NamedTuple):
    """Points added up by their nearest centre.

    Attributes:
        codes_N: int64, nearest centre of each point.
        sums_KZ: float64, so that the order in which ranks and batches add hardly matters.
        sizes_K: int64.
    """

    codes_N: Tensor
    sums_KZ: Tensor
    sizes_K: Tensor


def nearest(r_NZ: Tensor, codebook_KZ: Tensor) -> Tensor:
    """Index of the nearest code, int64 [N]; the lowest of equally near ones."""
    # ||r||^2 is the same for all codes of an item, so it is left out of the distance.
    squares_K = codebook_KZ.square().sum(1)
    codes = [torch.addmm(squares_K, block, codebook_KZ.T, alpha=-2.0).argmin(1) for block in r_NZ.split(BLOCK)]
    return codes[0] if len(codes) == 1 else torch.cat(codes)


def cluster(points_NZ: Tensor, centres_KZ: Tensor) -> Clusters:
    """Assign this rank's points to their nearest centres and add them up; the sums are not reduced over the ranks."""
    count = len(centres_KZ)
    codes_N = nearest(points_NZ, centres_KZ)
    sums_KZ = torch.zeros_like(centres_KZ, dtype=torch.float64).index_add_(0, codes_N, points_NZ.double())
    sizes_K = torch.zeros(count, dtype=torch.int64, device=codes_N.device).index_add_(0, codes_N, torch.ones_like(codes_N))
    return Clusters(codes_N, sums_KZ, sizes_K)


def means(sums_KZ: Tensor, sizes_K: Tensor, otherwise_KZ: Tensor) -> Tensor:
    """Centres float32 [K, Z] of clusters that were added up; `otherwise_KZ` where a cluster is empty."""
    centres_KZ = (sums_KZ / sizes_K.clamp_min(1)[:, None]).float()
    return torch.where(sizes_K[:, None] > 0, centres_KZ, otherwise_KZ)


def kmeans(points_NZ: Tensor, count: int, generator: torch.Generator, rounds: int = ROUNDS) -> Tensor:
    """Lloyd's algorithm on the first few principal components, then on ever more of them, each time from the centres found before.

    What tells the coarse clusters apart is settled first, which ends in a much better optimum than starting with all dimensions (FAISS's
    progressive-dimension clustering, after Babenko and Lempitsky 2014). It starts from random points, and a cluster that runs empty starts
    again at a random point.

    Args:
        points_NZ: all points, the same on every rank; each rank assigns its share of them.
        count: K, at most N.
        generator: of the CPU, in the same state on every rank.
        rounds: assignments to make for each number of components.

    Returns:
        Centres [K, Z], the same on every rank.
    """
    width = points_NZ.shape[1]
    mean_Z = points_NZ.mean(0)
    axes_ZZ, _ = principal_axes(points_NZ - mean_Z, width)
    broadcast([mean_Z, axes_ZZ])  # another kind of processor may turn an axis round
    rotated_NZ = (points_NZ - mean_Z) @ axes_ZZ.T
    centres = rotated_NZ[torch.randperm(len(rotated_NZ), generator=generator)[:count], :1]
    for dims in sorted({math.ceil(width ** (step / STEPS)) for step in range(1, STEPS + 1)}):
        points = rotated_NZ[:, :dims].contiguous()
        centres = torch.cat([centres, centres.new_zeros(count, dims - centres.shape[1])], 1)
        mine = points[share(len(points))]
        for _ in range(rounds):
            _, sums, sizes_K = cluster(mine, centres)
            random_K = torch.randint(len(points), (count,), generator=generator)
            centres = means(sum_over_ranks(sums), sum_over_ranks(sizes_K), points[random_K])
    return centres @ axes_ZZ + mean_Z


def principal_axes(y_ND: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The directions of largest variance of centred points, and the standard deviations along them.

    Returns:
        float32 [count, D] and [count]; with count > D the rest are zeros, and ones.
    """
    variances_D, axes_DD = torch.linalg.eigh((y_ND.T @ y_ND).double() / len(y_ND))  # ascending
    found = min(count, y_ND.shape[1])
    axes, deviations = y_ND.new_zeros(count, y_ND.shape[1]), y_ND.new_ones(count)
    axes[:found] = axes_DD.flip(1)[:, :found].T.float()
    deviations[:found] = variances_D.flip(0)[:found].clamp_min(1e-12).sqrt().float()
    return axes, deviations
