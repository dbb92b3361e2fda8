"""The embed stage: items to content embeddings, one vector per item that has content."""

import sys
import time

import pyarrow as pa

from features.content import Content, content_schema, content_table, embed_text, given_vectors
from features.dataset import DatasetWriter, open_dataset, read_table
from features.errors import InputError
from pipeline.config import RunConfig


def run(config: RunConfig) -> None:
    """Read `items`, write `content` (columns `item_id` int64 and `vector` float32[D]).

    Raises:
        InputError: if the items, their text or vectors, or the model are missing or unreadable.
    """
    started = time.perf_counter()
    dataset = open_dataset(config.path("items"))
    settings = config.embed
    column = "text" if settings.source == "text" else settings.vector
    if column not in dataset.schema.names:
        raise InputError(f"{dataset.path}: column '{column}' is missing; columns are {', '.join(dataset.schema.names)}")
    items = read_table(dataset, ["item_id", column])
    content = _embed(items, config, str(dataset.path))
    dim = content.vectors_ND.shape[1]
    metadata = {
        "source": content.source,
        "model": settings.model if settings.source == "text" else None,
        "items": items.num_rows,
        "embedded": len(content.item_ids),
        "left_out": content.left_out,
    }
    with DatasetWriter(config.path("content"), content_schema(dim), metadata) as writer:
        writer.write(content_table(content))
    seconds = time.perf_counter() - started
    print(
        f"embed: {len(content.item_ids):,} vectors of width {dim} in {seconds:.1f} s; {content.left_out:,} items have none",
        flush=True,
    )


def _embed(items: pa.Table, config: RunConfig, where: str) -> Content:
    settings = config.embed
    if settings.source == "vector":
        return given_vectors(items, settings.vector, where)
    return embed_text(items, where, model=settings.model, max_tokens=settings.max_tokens, batch_size=settings.batch_size)


if __name__ == "__main__":
    from pipeline.cli import main

    sys.exit(main(stage="embed"))
