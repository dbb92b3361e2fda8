"""Items whose Semantic IDs begin alike: their codes, and the groups that they form at each prefix length."""

import numpy as np
from numpy.typing import NDArray

from features.semantic_id import UNKNOWN_CODE
from pipeline.config import SHUFFLED
from pipeline.reproduce.world import OWN, Coding, World


def codes_of(world: World, item_ids: NDArray[np.int64], coding: Coding = OWN, *, shuffled: bool = False) -> NDArray[np.uint16]:
    """Codes of the recipe's first source: uint16 [N, L], UNKNOWN_CODE in each level of an item without a Semantic ID."""
    source = world.config.embed.sources[0] + (SHUFFLED if shuffled else "")
    return world.store(coding, shuffled=shuffled).lookup(item_ids, source).codes


def is_coded(codes: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Which items have a Semantic ID: bool [N], of uint16 [N, L]."""
    return codes[:, 0] != UNKNOWN_CODE


def prefix_groups(codes: NDArray[np.uint16], length: int) -> NDArray[np.int64]:
    """The group of each item by its first `length` codes: int64 [N], numbered from 0 without a gap; one group for length 0."""
    if length == 0:
        return np.zeros(len(codes), np.int64)
    return np.unique(codes[:, :length], axis=0, return_inverse=True)[1].ravel().astype(np.int64)


def codes_in_words(count: int) -> str:
    """So many codes, as tables say it."""
    return f"{count} code{'s' * (count > 1)}"
