"""The assign stage: Semantic IDs of all items with content into the entity store, and a shuffled store as the negative control."""

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from features.content import given_vectors
from features.dataset import Dataset, iter_row_groups, open_dataset
from features.entity_store import EntityStore
from features.errors import InputError
from features.semantic_id import UNKNOWN_CODE, SidContract
from features.store.publish import Items, items_of, publish
from features.store.snapshot import Snapshot
from features.store.versions import has_store, open_snapshot
from models.quantizers.codebook import Codebook, encode_in_batches, load
from pipeline.config import RunConfig
from pipeline.progress import say


def run(config: RunConfig) -> None:
    """Read `content` and `codebook`, publish a version of `store` and of `store_shuffled`.

    Content is encoded a row group at a time. A Semantic ID, once published, is never recomputed: items that the store has under this
    codebook keep theirs, those that the content has no longer included.

    Raises:
        InputError: if an input is missing or damaged, or content and codebook are of different sources or widths.
    """
    started = time.perf_counter()
    content, codebook = open_dataset(config.path("content")), load(config.path("codebook"))
    _require_fit(content, codebook, config.path("codebook"))
    items = _items(content, codebook, _published(config.path("store"), codebook.contract), config.assign.batch_size)
    version = publish(config.path("store"), items, [codebook.contract])
    codes_NL = _publish_shuffled(config, open_snapshot(config.path("store")), codebook.contract)
    distinct = len(np.unique(codes_NL, axis=0))
    seconds = time.perf_counter() - started
    say(f"assign: {len(codes_NL):,} items, {distinct:,} distinct Semantic IDs, store version {version} in {seconds:.1f} s")


def _require_fit(content: Dataset, codebook: Codebook, codebook_path: Path) -> None:
    if "source" not in content.metadata or "vector" not in content.schema.names:
        raise InputError(f"{content.path}: this is no content data set (its manifest names no source, or it has no column 'vector')")
    has = content.metadata["source"], content.schema.field("vector").type.list_size
    needs = codebook.contract.source, codebook.model.input_dim
    if has != needs:
        raise InputError(
            f"content and codebook do not fit: {content.path} has source '{has[0]}' and width {has[1]}, "
            f"{codebook_path} was trained on source '{needs[0]}' and width {needs[1]}"
        )


def _published(path: Path, contract: SidContract) -> EntityStore | None:
    """The store, if it has Semantic IDs of this contract."""
    store = EntityStore(path) if has_store(path) else None
    return store if store is not None and store.snapshot().contracts.get(contract.source) == contract else None


def _items(content: Dataset, codebook: Codebook, published: EntityStore | None, batch_size: int) -> Iterator[Items]:
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


def _publish_shuffled(config: RunConfig, store: Snapshot, contract: SidContract) -> np.ndarray:
    """The same items and the same codes, permuted among the items: as many shared rows, without meaning; returns the codes uint16 [N, L].

    Its contract differs in the source, so that neither can be taken for the other. All codes are in memory, 4 L bytes per item.
    """
    codes_NL = np.concatenate([codes[contract.source] for _, codes in items_of(store, [contract.source])])
    permuted_NL = np.random.default_rng(config.assign.shuffle_seed).permutation(codes_NL)
    shuffled = replace(contract, source=f"{contract.source}-shuffled")

    def items() -> Iterator[Items]:
        start = 0
        for ids, _ in items_of(store, [contract.source]):
            yield ids, {shuffled.source: permuted_NL[start : start + len(ids)]}
            start += len(ids)

    publish(config.path("store_shuffled"), items(), [shuffled])
    return codes_NL


if __name__ == "__main__":
    from pipeline.cli import main

    sys.exit(main(stage="assign"))
