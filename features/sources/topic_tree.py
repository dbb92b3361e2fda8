"""The topic tree of the simulated world: numbers and texts of its leaves, alike where the leaves share ancestors."""

import math

import numpy as np
import numpy.typing as npt

from features.sources.vocabulary import ASPECTS, PLACES, TOPICS

LEVEL_DECAY = 0.6  # each level of the tree carries this share of the variance of the level above it


def tree_sum(tree: tuple[int, ...], width: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Per leaf [leaves, width]: the sum of its nodes' draws, of mean 0 and variance 1, LEVEL_DECAY from level to level."""
    leaves = int(np.prod(tree))
    shares = LEVEL_DECAY ** np.arange(len(tree))
    total = np.zeros((leaves, width))
    for level, share in enumerate(shares / shares.sum()):
        nodes = rng.standard_normal((int(np.prod(tree[: level + 1])), width))
        if level:
            # Siblings differ around their parent, so that no level carries variance of the levels above.
            families = nodes.reshape(-1, tree[level], width)
            nodes = (families - families.mean(axis=1, keepdims=True)).reshape(nodes.shape)
        else:
            nodes -= nodes.mean(axis=0)
        spread = nodes.std(axis=0)
        total += np.sqrt(share) * np.repeat(nodes / np.where(spread > 0, spread, 1.0), leaves // len(nodes), axis=0)
    return total


def leaf_texts(tree: tuple[int, ...]) -> list[str]:
    """One text per leaf of a topic tree, in order of the leaves, all distinct.

    Args:
        tree: children per node at each level. Level 1 are topics, level 2 subtopics, level 3 aspects, every further one places.

    Returns:
        prod(tree) texts like "bread baking, cooking: beginner guide".
    """
    texts = []
    topics = list(TOPICS)
    for leaf in range(math.prod(tree)):
        path = _path(leaf, tree)
        topic = _phrase(topics, path[0])
        subtopics = TOPICS[topics[path[0] % len(topics)]].split(",")
        head = f"{_phrase(subtopics, path[1])}, {topic}" if len(path) > 1 else topic
        further = [_phrase((ASPECTS if level == 0 else PLACES).split(","), child) for level, child in enumerate(path[2:])]
        texts.append(": ".join([head, *further]))
    return texts


def _path(leaf: int, tree: tuple[int, ...]) -> list[int]:
    path = []
    for children in reversed(tree):
        leaf, child = divmod(leaf, children)
        path.append(child)
    return path[::-1]


def _phrase(words: list[str], index: int) -> str:
    """Word number `index`; past the end of the list two words, then three."""
    rounds, first = divmod(index, len(words))
    return words[first] if rounds == 0 else f"{words[first]} and {_phrase(words, rounds - 1)}"
