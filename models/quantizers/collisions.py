"""How many Semantic IDs are shared by how many items; free of torch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COLLISION_EDGES = (1, 2, 3, 4, 11)  # Semantic IDs of 1, 2, 3, 4 to 10 and more items


@dataclass(frozen=True)
class Collisions:
    """Semantic IDs by the number of items that share them: of 1, 2, 3, 4 to 10 and more items.

    Attributes:
        ids: Semantic IDs per bin.
        items: items per bin.
        largest: items that share the commonest Semantic ID.
        unique_share: share of the items whose Semantic ID no other item has.
    """

    ids: tuple[int, ...]
    items: tuple[int, ...]
    largest: int
    unique_share: float


def collisions(sizes_G: NDArray[np.int64]) -> Collisions:
    """How many Semantic IDs are shared by how many items.

    Args:
        sizes_G: int64, items of each Semantic ID that some item has.
    """
    bins_G = np.searchsorted(COLLISION_EDGES, sizes_G, side="right") - 1
    ids, items = (np.bincount(bins_G, weights, len(COLLISION_EDGES)).astype(np.int64) for weights in (None, sizes_G))
    return Collisions(tuple(ids.tolist()), tuple(items.tolist()), int(sizes_G.max()), float(ids[0] / sizes_G.sum()))


def bin_names() -> list[str]:
    """The bins in words: 1, 2, 3, 4-10, >10."""
    names = []
    for first, following in zip(COLLISION_EDGES, (*COLLISION_EDGES[1:], None), strict=True):
        names.append(f">{first - 1}" if following is None else f"{first}" if following == first + 1 else f"{first}-{following - 1}")
    return names
