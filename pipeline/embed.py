"""The embed stage: items to content embeddings, of each source one vector per item that has such content."""

import sys
import time

from features.content import Content, content_schema, content_table, embed_text, given_vectors
from features.dataset import Dataset, DatasetWriter, open_dataset, read_table
from features.errors import InputError
from pipeline.config import EmbedConfig, RunConfig

TEXT = "text"  # the source that is encoded here, and its column


def run(config: RunConfig) -> None:
    """Read `items`, write `content/SOURCE` (columns `item_id` int64 and `vector` float32[D]) for each of `embed.sources`.

    Raises:
        InputError: if the items, their text or vectors, or the model are missing or unreadable.
    """
    items = open_dataset(config.path("items"))
    for source in config.embed.sources:
        if source not in items.schema.names:
            raise InputError(f"{items.path}: column '{source}' is missing; columns are {', '.join(items.schema.names)}")
    for source in config.embed.sources:
        started = time.perf_counter()
        content = _embed(items, source, config.embed)
        dim = content.vectors_ND.shape[1]
        metadata = {
            "source": source,
            "model": config.embed.model if source == TEXT else None,
            "items": items.rows,
            "embedded": len(content.item_ids),
            "left_out": content.left_out,
        }
        with DatasetWriter(config.path("content", source), content_schema(dim), metadata) as writer:
            writer.write(content_table(content))
        told = f"{len(content.item_ids):,} vectors of width {dim} in {time.perf_counter() - started:.1f} s"
        print(f"embed: {source}: {told}; {content.left_out:,} items have none", flush=True)


def _embed(items: Dataset, source: str, settings: EmbedConfig) -> Content:
    table, where = read_table(items, ["item_id", source]), str(items.path)
    if source == TEXT:
        return embed_text(table, where, model=settings.model, max_tokens=settings.max_tokens, batch_size=settings.batch_size)
    return given_vectors(table, source, where)


if __name__ == "__main__":
    from pipeline.cli import main

    sys.exit(main(stage="embed"))
