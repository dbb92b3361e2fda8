"""Whether items of like content get like Semantic IDs, and the other way round: nearest neighbours by cosine against shared prefixes.

Dimensions: U items compared with each other, Q of them asked for their neighbours, D content width, L levels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK_CELLS = 1 << 24  # cosines in memory at once

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class NeighbourAgreement:
    """Content neighbours against items that share a prefix; the tuples have an entry per prefix length 1 .. L.

    Attributes:
        items: U, items compared with each other.
        queries: Q, items whose neighbours were looked up.
        nearest: k, neighbours per query.
        near_share: share of the k nearest items by content cosine that share the query's prefix.
        random_share: the same of two random items.
        mate_rank: median rank by content, from 1 for the nearest of all, of a random item that shares the query's prefix; null where no
            query shares it with another item. Without any relation it would be half of U.
    """

    items: int
    queries: int
    nearest: int
    near_share: tuple[float, ...]
    random_share: tuple[float, ...]
    mate_rank: tuple[float | None, ...]


def prefix_groups(codes_NL: Int64, codebook_size: int) -> list[Int64]:
    """For each prefix length 0, 1, .. L the number of each item's group, int64 [N]: equal prefixes have equal numbers, from 0 on."""
    groups = [np.zeros(len(codes_NL), np.int64)]
    for codes_N in codes_NL.T:
        # Groups by a prefix are those by the prefix before, divided by one more code.
        groups.append(np.unique(groups[-1] * codebook_size + codes_N, return_inverse=True)[1])
    return groups


@torch.inference_mode()
def neighbour_agreement(x_UD: Tensor, groups: list[Int64], *, queries: int, nearest: int, seed: int) -> NeighbourAgreement:
    """Compare exact content neighbours with prefixes.

    Args:
        x_UD: float32 content vectors, U >= 2.
        groups: of `prefix_groups`, lengths 0 .. L.
        queries: at most this many items, drawn uniformly, are asked for their neighbours.
        nearest: k; at most U - 1 are taken.
        seed: of the draws.
    """
    items = len(x_UD)
    k, rng = min(nearest, items - 1), np.random.default_rng(seed)
    rows_Q = np.sort(rng.choice(items, min(queries, items), replace=False))
    mates_LQ = np.stack([_random_mates(group_U, rows_Q, rng) for group_U in groups[1:]])
    groups_LU = torch.from_numpy(np.stack(groups[1:]))
    unit_UD = torch.nn.functional.normalize(x_UD, dim=1)
    shared_L = torch.zeros(len(groups_LU), dtype=torch.int64)
    ranks = []
    for block in np.array_split(np.arange(len(rows_Q)), -(-len(rows_Q) * items // BLOCK_CELLS)):
        rows = torch.from_numpy(rows_Q[block])
        cosines_BU = unit_UD[rows] @ unit_UD.T
        cosines_BU[torch.arange(len(rows)), rows] = -torch.inf  # an item is not its own neighbour
        near_Bk = cosines_BU.topk(k, dim=1).indices
        shared_L += (groups_LU[:, near_Bk] == groups_LU[:, rows, None]).sum((1, 2))
        ranks.append(torch.stack([_ranks(cosines_BU, torch.from_numpy(mates_B)) for mates_B in mates_LQ[:, block]]))
    return NeighbourAgreement(
        items=items,
        queries=len(rows_Q),
        nearest=k,
        near_share=tuple((shared_L.double() / (len(rows_Q) * k)).tolist()),
        random_share=tuple(_pairs(group_U) / (items * (items - 1)) for group_U in groups[1:]),
        mate_rank=tuple(_median(ranks_Q.numpy()) for ranks_Q in torch.cat(ranks, 1)),
    )


def _random_mates(group_U: Int64, rows_Q: Int64, rng: np.random.Generator) -> Int64:
    """For each row a random other item of its group, int64 [Q]; -1 where it is alone."""
    order_U = np.argsort(group_U, kind="stable")
    place_U = np.empty_like(order_U)
    place_U[order_U] = np.arange(len(order_U))
    sizes_G = np.bincount(group_U)
    size_Q = sizes_G[group_U[rows_Q]]
    start_Q = (np.cumsum(sizes_G) - sizes_G)[group_U[rows_Q]]
    step_Q = rng.integers(1, np.maximum(size_Q, 2))  # 1 .. size - 1 places further, around the group
    return np.where(size_Q > 1, order_U[start_Q + (place_U[rows_Q] - start_Q + step_Q) % size_Q], -1)


def _ranks(cosines_BU: Tensor, mates_B: Tensor) -> Tensor:
    """1 + number of items nearer than the mate, int64 [B]; 0 where there is no mate."""
    mate_B = cosines_BU.gather(1, mates_B.clamp_min(0)[:, None])
    return torch.where(mates_B >= 0, (cosines_BU > mate_B).sum(1) + 1, 0)


def _pairs(group_U: Int64) -> int:
    """Ordered pairs of different items in one group."""
    sizes = np.bincount(group_U)
    return int((sizes * (sizes - 1)).sum())


def _median(ranks_Q: Int64) -> float | None:
    found = ranks_Q[ranks_Q > 0]
    return float(np.median(found)) if len(found) else None
