"""Content vectors of the simulated world: several noisy views of one topic tree, as an ad's text, image and video embeddings would be."""

import numpy as np
import numpy.typing as npt

from features.sources.topic_tree import tree_sum

NOISE = 0.1  # variance of a vector's own part, against that of its nodes


def view(leaf: npt.NDArray[np.int64], tree: tuple[int, ...], width: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Vectors [N, width] of items given by their leaves [N]: random directions of the leaf's nodes, summed, and noise of the item's own."""
    noise = np.sqrt(NOISE) * rng.standard_normal((len(leaf), width))
    return (tree_sum(tree, width, rng)[leaf] + noise).astype(np.float32)


def further_view(leaf: npt.NDArray[np.int64], tree: tuple[int, ...], width: int, seed: int, number: int) -> npt.NDArray[np.float32]:
    """View `number`, from 2 on, of the world of `seed`, from a stream of its own, so that the world is the same however many there are.

    Of three views in turn one sees the whole tree, the next one all but the last level, and one all but the last two, never less than one.
    """
    depth = max(1, len(tree) - (number - 2) % 3)
    ancestors = leaf // int(np.prod(tree[depth:], dtype=np.int64))
    return view(ancestors, tree[:depth], width, np.random.default_rng([seed, 5, number]))
