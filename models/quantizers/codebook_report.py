"""The quality report's measurements: use of every level, collisions, what shared prefixes mean in content, examples, and what is wrong.

Dimensions: N items, D content width, L levels, K codes per level.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.quantizers.codebook_quality import CodebookQuality, collapsed, measure
from models.quantizers.collisions import Collisions, collisions
from models.quantizers.config import QuantizerConfig
from models.quantizers.neighbours import NeighbourAgreement, neighbour_agreement, prefix_groups
from models.quantizers.quantizer import Quantizer
from models.quantizers.vectors import Vectors, as_vectors, sampled_rows

NEIGHBOUR_ITEMS, NEIGHBOUR_QUERIES, NEAREST = 50_000, 2_000, 10
EXAMPLES, EXAMPLE_ITEMS = 2, 5  # large and middling prefixes per length, and items of each
MIN_UNIQUE = 0.5  # below this share of unique ids we call it a fault

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class LevelUse:
    """How a level uses its codes.

    Attributes:
        usage: share of the K codes that some item has.
        entropy_bits: entropy of the codes' distribution.
        entropy_share: of log2 K, its maximum.
        largest: items that have the commonest code.
        largest_share: their share of all items.
    """

    usage: float
    entropy_bits: float
    entropy_share: float
    largest: int
    largest_share: float


@dataclass(frozen=True)
class PrefixClusters:
    """Items that share a prefix of one length (paper B, table 1).

    Attributes:
        length: codes shared, 0 .. L.
        clusters: number of different prefixes.
        cosine: mean content cosine of two items that share one; null where no two do.
        mean, median, p90, largest: of the clusters' sizes, in items.
    """

    length: int
    clusters: int
    cosine: float | None
    mean: float
    median: float
    p90: float
    largest: int


@dataclass(frozen=True)
class Example:
    """Some items of one prefix: `prefix` are its codes, `size` its number of items, `rows` row numbers of the content data set."""

    prefix: tuple[int, ...]
    size: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class CodebookReport:
    """All that the quality report tells; `problems` are sentences, none where nothing is wrong."""

    items: int
    reconstruction_error: float
    levels: tuple[LevelUse, ...]
    collisions: Collisions
    prefixes: tuple[PrefixClusters, ...]
    neighbours: NeighbourAgreement | None
    examples: tuple[Example, ...]
    problems: tuple[str, ...]


def inspect(model: Quantizer, content: Tensor | Vectors) -> CodebookReport:
    """Measure a quantizer on content vectors.

    Args:
        model: of any kind.
        content: float32 [N, D], N >= 1. All are encoded; the mean cosines are of at most 200,000 of them, the neighbours of
            `NEIGHBOUR_QUERIES` among `NEIGHBOUR_ITEMS`, drawn uniformly.

    Returns:
        The report. It has no neighbours where there is one item only.
    """
    vectors, config = as_vectors(content), model.config
    codes_NL = torch.cat([model.encode(block) for block in vectors.blocks()]).numpy()
    quality = measure(model, vectors)
    groups = prefix_groups(codes_NL, config.codebook_size)
    levels = tuple(_level_use(codes_N, config.codebook_size) for codes_N in codes_NL.T)
    found, cosines = collisions(np.bincount(groups[-1])), quality.prefix_cosine
    return CodebookReport(
        items=len(codes_NL),
        reconstruction_error=quality.reconstruction_error,
        levels=levels,
        collisions=found,
        prefixes=tuple(_clusters(length, np.bincount(group_N), cosines[length]) for length, group_N in enumerate(groups)),
        neighbours=_neighbours(vectors, groups, config.seed),
        examples=_examples(codes_NL, groups, config.seed),
        problems=_problems(levels, found, quality, config),
    )


def _level_use(codes_N: Int64, codebook_size: int) -> LevelUse:
    counts_K = np.bincount(codes_N, minlength=codebook_size)
    shares = counts_K[counts_K > 0] / len(codes_N)
    bits = float(-(shares * np.log2(shares)).sum())
    largest = int(counts_K.max())
    most = np.log2(codebook_size)
    return LevelUse(float((counts_K > 0).mean()), bits, float(bits / most) if most else 1.0, largest, largest / len(codes_N))


def _clusters(length: int, sizes_G: Int64, cosine: float | None) -> PrefixClusters:
    median, p90 = np.percentile(sizes_G, (50, 90)).tolist()
    return PrefixClusters(length, len(sizes_G), cosine, float(sizes_G.mean()), median, p90, int(sizes_G.max()))


def _neighbours(vectors: Vectors, groups: list[Int64], seed: int) -> NeighbourAgreement | None:
    if vectors.rows < 2:
        return None
    rows_U = sampled_rows(vectors.rows, NEIGHBOUR_ITEMS, seed)  # those that `sample` gives the vectors of
    # Numbers of groups need no order or density but start at 0, so those of the sample serve as they are.
    sampled = [group_N[rows_U] for group_N in groups]
    return neighbour_agreement(vectors.sample(NEIGHBOUR_ITEMS, seed), sampled, queries=NEIGHBOUR_QUERIES, nearest=NEAREST, seed=seed)


def _examples(codes_NL: Int64, groups: list[Int64], seed: int) -> tuple[Example, ...]:
    """For each prefix length the largest clusters and, beside them, those in the middle of the clusters of two items and more."""
    rng, examples = np.random.default_rng(seed), []
    for length, group_N in enumerate(groups[1:], start=1):
        sizes_G = np.bincount(group_N)
        by_size = np.argsort(-sizes_G, kind="stable")[: int((sizes_G > 1).sum())]
        middle = max(len(by_size) // 2, EXAMPLES)
        for group in (*by_size[:EXAMPLES], *by_size[middle : middle + EXAMPLES]):
            rows = np.flatnonzero(group_N == group)
            shown = np.sort(rng.choice(rows, min(EXAMPLE_ITEMS, len(rows)), replace=False))
            examples.append(Example(tuple(codes_NL[rows[0], :length].tolist()), len(rows), tuple(shown.tolist())))
    return tuple(examples)


def _problems(levels: tuple[LevelUse, ...], found: Collisions, quality: CodebookQuality, config: QuantizerConfig) -> tuple[str, ...]:
    problems = list(collapsed([level.usage for level in levels], [level.largest_share for level in levels], config).values())
    if found.unique_share < MIN_UNIQUE:
        problems.append(f"only {found.unique_share:.1%} of the items have a Semantic ID of their own; one is shared by {found.largest:,}")
    known = [(length, cosine) for length, cosine in enumerate(quality.prefix_cosine) if cosine is not None]
    for (_, shorter), (length, longer) in pairwise(known):
        if longer <= shorter:
            problems.append(
                f"items that share {length} codes are no more alike (cosine {longer:.2f}) than those that share fewer ({shorter:.2f})"
            )
    return tuple(problems)
