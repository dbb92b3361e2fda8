"""Columns that the simulated world has on demand, each from a random stream of its own: likes after clicks, and users' interests."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.schema import CONTEXT, LABEL
from features.sources.topic_tree import tree_sum

LIKE = pa.field(LABEL + "like", pa.int8(), nullable=False)
INTERESTS = pa.field(CONTEXT + "interests", pa.list_(pa.int64()), nullable=False)
LIKE_BIAS, LIKE_EFFECT = -0.8, 1.2  # mean and standard deviation over the leaves, in log-odds
INTERESTED = 1.0  # standard deviations of liking a topic from which on a user is interested in it
WRONG = 0.05  # share of (row, topic) where the interest is told wrongly

Float = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


def like_probability(leaf: Int64, tree: tuple[int, ...], seed: int) -> Float:
    """Probability of a like given a click, of each item [N]: an effect of its topics that is independent of what makes them clicked."""
    odds = LIKE_BIAS + LIKE_EFFECT * tree_sum(tree, 1, np.random.default_rng([seed, 6]))[leaf, 0]
    return 1 / (1 + np.exp(-odds))


def likes(clicks: npt.NDArray[np.bool_], probability: Float, seed: int, chunk: int) -> npt.NDArray[np.int8]:
    """0 or 1 per row [n] of a chunk of the log, 1 only where there was a click; `probability` is of the row's item."""
    return (clicks & (np.random.default_rng([seed, 7, chunk]).random(len(clicks)) < probability)).astype(np.int8)


def topic_loadings(loading: Float, tree: tuple[int, ...]) -> Float:
    """Unit vectors [topics, tastes] of the tree's first level, from those of its leaves [leaves, tastes]."""
    means = loading.reshape(tree[0], -1, loading.shape[1]).mean(axis=1)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def interests(taste: Float, topics: Float, seed: int, chunk: int) -> pa.ListArray:
    """The topics that each row's user likes at the time, some of them told wrongly: n lists of topic numbers, ascending.

    Args:
        taste: of the row's user [n, tastes].
        topics: from `topic_loadings`.
        seed: of the world.
        chunk: number of the part of the log, which takes n * topics floats of memory.
    """
    wrong = np.random.default_rng([seed, 8, chunk]).random((len(taste), len(topics))) < WRONG
    interested = (taste @ topics.T > INTERESTED) ^ wrong
    offsets = np.concatenate([[0], np.cumsum(interested.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.nonzero(interested)[1]))
