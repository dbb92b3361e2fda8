"""Segments of a stream: which bin of its item's impressions so far, and of its item's age, a row falls into."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class Segmentation(NamedTuple):
    """One way to part the rows.

    Attributes:
        column: of the impressions.
        edges: ascending; bin i holds edges[i-1] <= value < edges[i].
        names: of the bins, one more than edges.
    """

    column: str
    edges: tuple[float, ...]
    names: tuple[str, ...]

    def bins(self, values: NDArray[np.number]) -> NDArray[np.int64]:
        """The bin of each value: int64 [N]."""
        return np.searchsorted(self.edges, values, side="right").astype(np.int64)


PAST_IMPRESSIONS = Segmentation("past_impressions", (1, 10, 50, 200), ("0", "1-9", "10-49", "50-199", "200+"))
# Hours since the item's creation or its first event; an item without either is 0 hours old. The first bin is paper B's.
ITEM_AGE = Segmentation("dense_age_hours", (24, 72, 168, 720), ("under a day", "1-3 days", "3-7 days", "7-30 days", "over 30 days"))
STREAM = (PAST_IMPRESSIONS, ITEM_AGE)  # what training reports
NAMES = tuple(name for segmentation in STREAM for name in segmentation.names)


def stream_segments(rows: pa.Table) -> NDArray[np.int64]:
    """Segments of each row, one per segmentation: int64 [n, V], numbers into `NAMES`."""
    start, columns = 0, []
    for segmentation in STREAM:
        columns.append(start + segmentation.bins(rows.column(segmentation.column).to_numpy()))
        start += len(segmentation.names)
    return np.stack(columns, 1)
