"""Table 5: are the individually learned embeddings of items that share a Semantic ID more alike than those of a random hash's clusters?"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from features.representation import hashed_rows
from pipeline.config import SHUFFLED
from pipeline.reproduce.clusters import PARTITIONS, Codes, Float, Int64, compared, largest, of_sizes, sizes, spread
from pipeline.reproduce.core import core
from pipeline.reproduce.finding import Finding, Row
from pipeline.reproduce.study import Study, over_seeds
from pipeline.reproduce.world import Variant, World

if TYPE_CHECKING:
    from pipeline.trainer import Trainer

INDIVIDUAL, PROBE = "individual", "item_rows"
IMPRESSIONS = 5  # least in training: a row that is seldom looked up is still near its random start
SMALL = (4, 10)  # items in a cluster
LARGE_SHARE = 1000 / 2048  # the paper's largest clusters, for each code of a level
FACTOR = 5  # items per row of the random hash
FEWEST = 10  # clusters that a comparison takes


def variants(world: World) -> list[Variant]:
    """The individual embeddings that every world has, looked into."""
    (individual,) = (variant for variant in core(world) if variant.name == INDIVIDUAL)
    return [Variant(INDIVIDUAL, individual.settings, probes=(f"{__name__}:{PROBE}",))]


def item_rows(trainer: "Trainer") -> dict[str, NDArray[Any]]:
    """Probe: the items, int64 [N], and their rows of the table as they are, float32 [N, D]."""
    import torch
    from torch.distributed._shard.sharded_tensor import ShardedTensor

    ids, weight = trainer.source.builder.dense_ids, trainer.model.state_dict()["tables"][INDIVIDUAL]["weight"]
    assert ids is not None
    if isinstance(weight, ShardedTensor):
        whole = torch.empty(weight.size(), dtype=weight.dtype, device=trainer.device)
        weight.gather(out=whole)
        weight = whole
    return {"item_ids": np.array(ids.ids), "rows": weight.detach().float().cpu().numpy()[ids.table_rows]}


def find(study: Study) -> Finding:
    """Compare the clusters of Semantic IDs with random ones."""
    probed = study.probed(INDIVIDUAL, PROBE)
    ids = probed[0]["item_ids"]
    judged = np.isin(ids, _often(study.log["item_id"][: study.train_rows]))
    ids, rows = ids[judged], [seed["rows"][judged].astype(np.float64) for seed in probed]
    codes, shuffled = (_codes(study.world, ids, shuffled=shuffled) for shuffled in (False, True))
    length, small = of_sizes(codes, *SMALL)
    count = max(1, round(LARGE_SHARE * study.world.config.quantize.codebook_size))
    large, shuffled_large = largest(codes, count), largest(shuffled, count)
    of_small, of_large = f"clusters of {SMALL[0]} to {SMALL[1]} items", "the largest clusters"
    return Finding(
        5,
        "Table 5: clusters of individually learned embeddings",
        "Every item has an embedding of its own. Are those of items that share a Semantic ID more alike than those of items that a random "
        "hash puts together?",
        (
            *_of_random_hash(rows, ids),
            *_rows(of_small, rows, small, of_sizes(shuffled, *SMALL)[1], ("-14% (1.31 against 1.52)", "+9% (.24 against .22)")),
            *_rows(of_large, rows, large, shuffled_large, ("-19% (1.23 against 1.52)", "-73% (.06 against .22)"), larger=True),
        ),
        _notes(len(ids), length, sizes(small), sizes(large)),
    )


def _often(item_ids: Int64) -> Int64:
    ids, counts = np.unique(item_ids, return_counts=True)
    return ids[counts >= IMPRESSIONS]


def _codes(world: World, ids: Int64, *, shuffled: bool) -> Codes:
    source = world.config.sid_source + (SHUFFLED if shuffled else "")
    return world.store(shuffled=shuffled).lookup(ids, source).codes


def _of_random_hash(rows: list[Float], ids: Int64) -> list[Row]:
    names = [
        f"random hash, {FACTOR} items per cluster: {each}" for each in ("variance within, in thousandths", "distance of two centroids")
    ]
    table_rows = len(ids) // FACTOR
    if table_rows < FEWEST:
        return [Row(name, paper, None, "", why_not=_too_few(table_rows)) for name, paper in zip(names, ("1.52", ".22"), strict=True)]
    found = [spread(each, hashed_rows(ids, table_rows)) for each in rows]
    return [
        Row(names[0], "1.52", over_seeds(1000 * each.variance for each in found), ""),
        Row(names[1], ".22", over_seeds(each.distance for each in found), ""),
    ]


def _rows(what: str, rows: list[Float], cluster: Int64, shuffled: Int64, paper: tuple[str, str], *, larger: bool = False) -> list[Row]:
    """Variance and distance; nothing is claimed about the distance of clusters that are `larger` than the paper's random ones."""
    names = [f"{what}, against random ones of the same sizes: {each}" for each in ("variance within", "distance of two centroids")]
    if len(sizes(cluster)) < FEWEST:
        return [Row(name, each, None, why_not=_too_few(len(sizes(cluster)))) for name, each in zip(names, paper, strict=True)]
    ours = compared(rows, cluster)
    control = compared(rows, shuffled) if len(sizes(shuffled)) >= FEWEST else None
    return [
        Row(names[0], paper[0], ours.variance, expected="negative", control=control and control.variance),
        Row(names[1], paper[1], ours.distance, expected=None if larger else "positive", control=control and control.distance),
    ]


def _too_few(clusters: int) -> str:
    return f"the items with {IMPRESSIONS} impressions or more make {clusters} such clusters"


def _notes(items: int, length: int, small: Int64, large: Int64) -> tuple[str, ...]:
    return (
        f"Judged are the {items:,} items with {IMPRESSIONS} or more impressions in the training period: the rows of others are near their "
        "random start. The paper names no minimum.",
        f"{len(small)} clusters of {SMALL[0]} to {SMALL[1]} items: those of items that share a prefix of {length}, the length "
        f"at which most items are in such clusters. The largest clusters are of items that share the first code: {len(large)} of them, of "
        f"{np.median(large) if len(large) else 0:.0f} items in the median, which stand for the paper's 1,000 as a level's codes do for its "
        "2,048.",
        "The variance is a mean over dimensions, divided by the number of items: so read, the paper's two figures of random hashing fit "
        "each other at 64 dimensions. It grows with the size of a cluster, and the distance of centroids shrinks, whatever the items are. "
        "Therefore the clusters of Semantic IDs are compared with random ones of the same sizes and items, dealt out "
        f"{PARTITIONS} times; the paper compares them with those of a random hash. The smaller distance of its largest clusters may be "
        "theirs by size alone, and nothing is claimed of it here.",
        "Intervals are over seeds of training and over random partitions. The control has the clusters of shuffled Semantic IDs.",
    )
