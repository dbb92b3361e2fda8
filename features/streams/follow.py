"""The loop that joins a source to a sink: take what comes, publish when it is time, until the stream ends or the caller stops it."""

from collections.abc import Callable

from features.errors import InputError
from features.streams.micro_batch import Source
from features.streams.sink import Sink


def follow(source: Source, sink: Sink, *, stopped: Callable[[], bool] = lambda: False, advance: Callable[[], None] = lambda: None) -> bool:
    """Append a stream to a data set, from the sink's position on; the rows are those of one batch job over all of it.

    Args:
        source: where micro-batches come from.
        sink: where their rows go.
        stopped: asked after each micro-batch, and whenever none has come for a while; what was taken is published before the end.
        advance: called after each publish.

    Returns:
        Whether the stream has ended; False if it was stopped, and goes on from there when it is followed again.

    Raises:
        InputError: from source or sink, or if the stream ends without a single micro-batch, and so without columns.
    """
    with sink:
        for arrived in source.arrivals(sink.position):
            if arrived is not None:
                sink.take(arrived)
            stop = stopped()
            if (stop or sink.due) and sink.publish():
                advance()
            if stop:
                return False
        if sink.publish():
            advance()
        if not sink.parts:
            raise InputError(f"{source}: ended before anything came, so that nothing says which columns its rows have")
        return True
