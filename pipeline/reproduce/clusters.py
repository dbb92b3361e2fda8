"""Clusters of items by Semantic ID, and how alike embeddings within them are, against clusters of the same sizes dealt out at random."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from features.semantic_id import UNKNOWN_CODE
from pipeline.reproduce.finding import Estimate
from pipeline.reproduce.study import over_seeds

CENTROIDS = 1000  # compared in pairs, at most
PARTITIONS = 50  # random ones
Codes = NDArray[np.uint16]
Float = NDArray[np.float64]
Int64 = NDArray[np.int64]


class Spread(NamedTuple):
    """Of clusters: the mean variance within one (a mean over dimensions, divided by n), and the mean distance of two centroids."""

    variance: float
    distance: float


class Compared(NamedTuple):
    """Changes in percent against random clusters of the same sizes."""

    variance: Estimate
    distance: Estimate


def by_prefix(codes: Codes, length: int) -> Int64:
    """The cluster of each item, by its first codes: int64 [N], numbers from 0; -1 for an item without a Semantic ID."""
    cluster = np.full(len(codes), -1)
    known = codes[:, 0] != UNKNOWN_CODE
    cluster[known] = np.unique(codes[known, :length], axis=0, return_inverse=True)[1].reshape(-1)
    return cluster


def of_sizes(codes: Codes, least: int, most: int) -> tuple[int, Int64]:
    """Clusters of `least` to `most` items that share a prefix.

    Returns:
        The prefix length at which most items are in such clusters; and each item's cluster, int64 [N], -1 for those in no such one.
    """
    found = {}
    for length in range(1, codes.shape[1] + 1):
        cluster = by_prefix(codes, length)
        sizes = np.bincount(cluster + 1, minlength=1)
        fits = (sizes >= least) & (sizes <= most)
        found[length] = np.where(fits[cluster + 1], cluster, -1)
    length = max(found, key=lambda length: int(np.count_nonzero(found[length] >= 0)))
    return length, found[length]


def largest(codes: Codes, count: int) -> Int64:
    """The largest clusters of the first code: int64 [N], -1 for items in others."""
    cluster = by_prefix(codes, 1)
    chosen = np.argsort(-np.bincount(cluster[cluster >= 0]), kind="stable")[:count]
    return np.where(np.isin(cluster, chosen), cluster, -1)


def sizes(cluster: Int64) -> Int64:
    """Items of each cluster, the largest first."""
    counts: Int64 = np.unique(cluster[cluster >= 0], return_counts=True)[1]
    return -np.sort(-counts)


def spread(rows: Float, cluster: Int64) -> Spread:
    """How alike the rows of a cluster are, and how far apart clusters.

    Args:
        rows: float64 [N, D].
        cluster: int64 [N], -1 for a row of no cluster. Clusters of one row are left out: they have nothing to vary.
    """
    order = np.argsort(cluster, kind="stable")
    numbers, first, counts = np.unique(cluster[order], return_index=True, return_counts=True)
    mean, square = (np.add.reduceat(values[order], first) / counts[:, None] for values in (rows, rows**2))
    several = (counts > 1) & (numbers >= 0)
    centroids = mean[several]
    apart = centroids[:: max(1, -(-len(centroids) // CENTROIDS))]
    return Spread(float((square - mean**2)[several].mean()), float(pdist(apart).mean()))


def compared(rows: list[Float], cluster: Int64, seed: int = 0) -> Compared:
    """Against clusters of the same sizes, to which the same items are dealt out at random.

    An interval holds what seeds of training vary by and what random partitions differ from each other by, so that clusters which mean
    nothing have zero in it.

    Args:
        rows: of each seed, float64 [N, D].
        cluster: int64 [N], as `spread` takes it.
        seed: of the random partitions.
    """
    member = cluster >= 0
    rows, cluster = [each[member] for each in rows], cluster[member]
    rng = np.random.default_rng(seed)
    dealt = [rng.permutation(cluster) for _ in range(PARTITIONS)]
    random_SPF = np.array([[spread(each, partition) for partition in dealt] for each in rows])
    mean_SF = random_SPF.mean(1)
    change_SF = 100 * (np.array([spread(each, cluster) for each in rows]) / mean_SF - 1)
    chance_PF = (100 * (random_SPF / mean_SF[:, None] - 1)).mean(0)
    return Compared(*(_interval(over_seeds(change_S), chance_P) for change_S, chance_P in zip(change_SF.T, chance_PF.T, strict=True)))


def _interval(seeds: Estimate, chance_P: Float) -> Estimate:
    half = float(np.hypot(seeds.high - seeds.mean, 1.96 * chance_P.std(ddof=1)))
    return Estimate(seeds.mean, seeds.mean - half, seeds.mean + half)
