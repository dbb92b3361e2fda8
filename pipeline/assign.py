"""The assign stage: Semantic IDs of all items with content into the entity store, and a shuffled store as the negative control."""

import sys
import time
from dataclasses import replace

import numpy as np
import torch

from features.content import read_content
from features.entity_store import EntityStore
from features.errors import InputError
from models.codebook import encode_in_batches, load
from pipeline.config import RunConfig


def run(config: RunConfig) -> None:
    """Read `content` and `codebook`, publish a version of `store` and of `store_shuffled`.

    The shuffled store has the same items and the same codes, permuted among the items: as many shared rows, without meaning. Its contract
    differs in the source, so that neither can be taken for the other.

    Raises:
        InputError: if an input is missing or damaged, or content and codebook are of different sources or widths.
    """
    started = time.perf_counter()
    content = read_content(config.path("content"))
    codebook = load(config.path("codebook"))
    has, needs = (content.source, content.vectors_ND.shape[1]), (codebook.contract.source, codebook.model.input_dim)
    if has != needs:
        raise InputError(
            f"content and codebook do not fit: {config.path('content')} has source '{has[0]}' and width {has[1]}, "
            f"{config.path('codebook')} was trained on source '{needs[0]}' and width {needs[1]}"
        )
    codes_NL = encode_in_batches(codebook.model, torch.tensor(content.vectors_ND), config.assign.batch_size).numpy()
    version = EntityStore.publish(config.path("store"), content.item_ids, codes_NL, codebook.contract)
    permuted_NL = np.random.default_rng(config.assign.shuffle_seed).permutation(codes_NL)
    shuffled = replace(codebook.contract, source=f"{codebook.contract.source}-shuffled")
    EntityStore.publish(config.path("store_shuffled"), content.item_ids, permuted_NL, shuffled)
    distinct = len(np.unique(codes_NL, axis=0))
    seconds = time.perf_counter() - started
    print(f"assign: {len(codes_NL):,} items, {distinct:,} distinct Semantic IDs, store version {version} in {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    from pipeline.cli import main

    sys.exit(main(stage="assign"))
