"""Which rows belong to which segment: head, torso, tail, seen and new items after training; impressions so far in a stream."""

import numpy as np
from numpy.typing import NDArray

from features.segments import PAST_IMPRESSIONS

HEAD, TORSO = 0.001, 0.055  # shares of the items, most impressed first (paper A, section 5)

Segments = dict[str, NDArray[np.bool_]]


def by_training_impressions(item_ids: NDArray[np.int64], train_rows: int) -> Segments:
    """Segments of the rows after training, by what the training period held of their item.

    Head is the most impressed 0.1% of the training period's items (at least one), torso the next 5.5%, tail the rest of them; seen is all
    three, new what training never had.

    Args:
        item_ids: int64 [N], all rows in time order.
        train_rows: number of rows trained on.

    Returns:
        name to bool [N - train_rows].
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
    return {"all": np.ones(len(later), bool), **tiers, "seen": seen, "new": ~seen}


def by_past_impressions(past_impressions: NDArray[np.integer]) -> Segments:
    """Segments of a stream by the item's impressions so far (int [N]): all, 0, 1-9, 10-49, 50-199, 200+."""
    bins = PAST_IMPRESSIONS.bins(past_impressions)
    return {"all": np.ones(len(bins), bool), **{name: bins == number for number, name in enumerate(PAST_IMPRESSIONS.names)}}
