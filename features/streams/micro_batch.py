"""What a source of a stream gives: micro-batches of impressions, and where it stands after each."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa


@dataclass(frozen=True)
class MicroBatch:
    """Impressions that are taken together or not at all.

    Attributes:
        origin: the file or entry that they came in, for error messages.
        schema: of the impressions, without metadata.
        batches: the rows in order; decoded while they are iterated, once.
        position: plain values for JSON: where the source goes on once these rows are taken.
    """

    origin: str
    schema: pa.Schema
    batches: Iterable[pa.RecordBatch]
    position: Any


class Source(Protocol):
    """Where impressions come from; `str()` of it is its place, without a password."""

    def arrivals(self, position: Any) -> Iterator[MicroBatch | None]:
        """Yield what comes after a position, in order, until the stream's end; None whenever nothing has come for a while.

        Args:
            position: that of the last micro-batch taken; None at the very beginning.

        Raises:
            InputError: naming what is damaged, or lost, or out of order.
        """
