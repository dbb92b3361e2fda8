"""The assign stage: Semantic IDs of all items with content into the entity store, and a shuffled store as the negative control."""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from features.content import given_vectors
from features.dataset import Dataset, iter_row_groups, open_dataset
from features.entity_store import EntityStore
from features.errors import InputError
from features.semantic_id import UNKNOWN_CODE, SidContract
from features.store.broadcast import send
from features.store.publish import Items, items_of, publish
from features.store.snapshot import Snapshot
from features.store.versions import has_store, open_snapshot
from models.quantizers.codebook import Codebook, encode_in_batches, load
from pipeline.config import SHUFFLED, RunConfig
from pipeline.progress import say


def run(config: RunConfig) -> None:
    """Read `content/SOURCE` and `codebook/SOURCE`, publish one version of `store` and one of `store_shuffled`, which have all sources.

    A store elsewhere (`locations.store`) is a copy of the one in workdir. Content is encoded a row group at a time. A Semantic ID, once
    published, is never recomputed: items that the store has under this codebook keep theirs, those that the content has no longer
    included. An item without content of a source has none of it.

    Raises:
        InputError: if an input is missing or damaged, or content and codebook are of different sources or widths.
    """
    started = time.perf_counter()
    inputs = [_opened(config, source) for source in config.embed.sources]
    contracts = [codebook.contract for _, codebook in inputs]
    version = publish(config.path("store"), _items(config, inputs), contracts)
    if "store" in config.locations:
        send(config.path("store"), config.location("store"))
    codes = _publish_shuffled(config, open_snapshot(config.path("store")), contracts)
    for source, codes_NL in codes.items():
        known_NL = codes_NL[codes_NL[:, 0] != UNKNOWN_CODE]
        say(f"assign: {source}: {len(known_NL):,} items, {len(np.unique(known_NL, axis=0)):,} distinct Semantic IDs")
    say(f"assign: store version {version} in {time.perf_counter() - started:.1f} s")


def _opened(config: RunConfig, source: str) -> tuple[Dataset, Codebook]:
    """A source's content and codebook, which must fit."""
    content, path = open_dataset(config.path("content", source)), config.path("codebook", source)
    codebook = load(path)
    if "source" not in content.metadata or "vector" not in content.schema.names:
        raise InputError(f"{content.path}: this is no content data set (its manifest names no source, or it has no column 'vector')")
    has = content.metadata["source"], content.schema.field("vector").type.list_size
    needs = codebook.contract.source, codebook.model.input_dim
    if has != needs:
        raise InputError(
            f"content and codebook do not fit: {content.path} has source '{has[0]}' and width {has[1]}, "
            f"{path} was trained on source '{needs[0]}' and width {needs[1]}"
        )
    return content, codebook


def _items(config: RunConfig, inputs: Sequence[tuple[Dataset, Codebook]]) -> Iterator[Items]:
    """What is to be published, source by source."""
    store = EntityStore(config.path("store")) if has_store(config.path("store")) else None
    for content, codebook in inputs:
        contract = codebook.contract
        known = store is not None and store.snapshot().contracts.get(contract.source) == contract
        yield from _items_of_source(content, codebook, store if known else None, config.assign.batch_size)


def _items_of_source(content: Dataset, codebook: Codebook, published: EntityStore | None, batch_size: int) -> Iterator[Items]:
    source = codebook.contract.source
    if published is not None:
        yield from items_of(published.snapshot(), [source])
    for table in iter_row_groups(content):
        part = given_vectors(table, "vector", str(content.path))
        new = np.ones(len(part.item_ids), bool)
        if published is not None:
            new = published.lookup(part.item_ids, source).codes[:, 0] == UNKNOWN_CODE
        if new.any():
            codes_NL = encode_in_batches(codebook.model, torch.tensor(part.vectors_ND[new]), batch_size)
            yield part.item_ids[new], {source: codes_NL.numpy()}


def _publish_shuffled(config: RunConfig, store: Snapshot, contracts: Sequence[SidContract]) -> dict[str, NDArray[np.uint16]]:
    """The same items with each other's codes, as many shared rows without meaning; returns the codes by source, uint16 [N, L].

    An item gets all its codes from one other item, so that those of several sources go together as they did. The contracts differ in the
    source, so that neither can be taken for the other. All codes are in memory, 4 bytes per code.
    """
    sources = [contract.source for contract in contracts]
    parts = list(items_of(store, sources))
    ids, codes = np.concatenate([ids for ids, _ in parts]), {s: np.concatenate([part[s] for _, part in parts]) for s in sources}
    donors = np.random.default_rng(config.assign.shuffle_seed).permutation(len(ids))
    permuted = {source + SHUFFLED: codes[source][donors] for source in sources}
    controls = [replace(contract, source=contract.source + SHUFFLED, aligned_with=None) for contract in contracts]
    publish(config.path("store_shuffled"), [(ids, permuted)], controls)
    return codes


if __name__ == "__main__":
    from pipeline.cli import main

    sys.exit(main(stage="assign"))
