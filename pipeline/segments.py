"""Which rows belong to which segment: head, torso, tail, seen and new items after training; impressions so far and age in a stream."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.segments import STREAM

HEAD, TORSO = 0.001, 0.055  # shares of the items, most impressed first (paper A, section 5)

Segments = dict[str, NDArray[np.bool_]]


class Parting(NamedTuple):
    """One way to part the rows.

    Attributes:
        by: what parts them: `training_impressions`, or a column of the impressions.
        segments: name to bool [N].
    """

    by: str
    segments: Segments


def by_training_impressions(item_ids: NDArray[np.int64], train_rows: int) -> Parting:
    """Segments of the rows after training, by what the training period held of their item.

    Head is the most impressed 0.1% of the training period's items (at least one), torso the next 5.5%, tail the rest of them; seen is all
    three, new what training never had.

    Args:
        item_ids: int64 [N], all rows in time order.
        train_rows: number of rows trained on; the segments are of the N - train_rows after them.
    """
    items, counts = np.unique(item_ids[:train_rows], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    head = max(1, round(HEAD * len(items)))
    torso = max(1, round(TORSO * len(items)))
    tier = np.full(len(items), 2)
    tier[order[: head + torso]] = 1
    tier[order[:head]] = 0
    later = item_ids[train_rows:]
    position = np.minimum(np.searchsorted(items, later), len(items) - 1)
    seen = items[position] == later
    tiers = {name: seen & (tier[position] == number) for number, name in enumerate(("head", "torso", "tail"))}
    return Parting("training_impressions", {**tiers, "seen": seen, "new": ~seen})


def of_stream(columns: dict[str, NDArray[np.number]]) -> list[Parting]:
    """Segments of a stream, those that training reports too: by the item's impressions so far, and by its age.

    Args:
        columns: of the impressions, [N] each, by name; those of `features.segments.STREAM`.
    """
    partings = []
    for segmentation in STREAM:
        bins = segmentation.bins(columns[segmentation.column])
        partings.append(Parting(segmentation.column, {name: bins == number for number, name in enumerate(segmentation.names)}))
    return partings
