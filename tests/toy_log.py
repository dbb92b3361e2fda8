"""A small made-up log for tests: items with codes, a click rate that depends on them, histories, and its store and enriched files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from features.dataset import DatasetWriter, open_dataset
from features.schema import IMPRESSIONS, ORACLE, TIMESTAMP
from features.semantic_id import SidContract
from features.store.publish import publish
from pipeline import enrich
from pipeline import recipe as recipes

CONTRACT = SidContract(levels=3, codebook_size=16, codebook_hash="toy", source="text", generation=1)
IMAGE = SidContract(levels=2, codebook_size=9, codebook_hash="toy image", source="vector_image", generation=1)  # for a log of two sources
SCHEMA = pa.schema([*IMPRESSIONS, ORACLE, pa.field("context_country", pa.int64()), pa.field("label_like", pa.int8(), nullable=False)])


def write_toy_log(
    workdir: Path,
    rows: int = 3000,
    items: int = 300,
    history: int = 6,
    rows_per_group: int = 512,
    seed: int = 0,
    further: tuple[SidContract, ...] = (),
) -> None:
    """Write impressions/, store/ and store_shuffled/ below `workdir`.

    A tenth of the items has no Semantic ID of CONTRACT; of the `further` sources other items have none, and the codes mean nothing.
    """
    generator = np.random.default_rng(seed)
    item_ids = generator.permutation(10**6)[:items].astype(np.int64)
    codes = generator.integers(0, CONTRACT.codebook_size, (items, CONTRACT.levels)).astype(np.uint16)
    effect = 1.5 * generator.normal(size=CONTRACT.codebook_size)[codes[:, 0]]
    item = np.minimum(generator.geometric(0.02, rows) - 1, items - 1)
    probability = 1 / (1 + np.exp(1.0 - effect[item]))
    times = np.sort(generator.integers(0, 10**11, rows)) + 1_600_000_000 * 10**6
    lengths = generator.integers(0, history + 1, rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    history_ids = item_ids[generator.integers(0, items, offsets[-1])]
    history_times = np.repeat(times, lengths) - generator.integers(1, 10**11, offsets[-1])
    past = np.array([np.count_nonzero(item[:row] == item[row]) for row in range(rows)])
    columns = {
        "timestamp": _timestamps(times),
        "user_id": pa.array(generator.integers(0, 100, rows)),
        "item_id": pa.array(item_ids[item]),
        "label_click": pa.array((generator.random(rows) < probability).astype(np.int8)),
        "dense_past_count": pa.array(past.astype(np.float32)),
        "dense_age_hours": pa.array(generator.random(rows).astype(np.float32)),
        "history_item_ids": pa.ListArray.from_arrays(offsets, pa.array(history_ids)),
        "history_timestamps": pa.ListArray.from_arrays(offsets, _timestamps(history_times)),
        "past_impressions": pa.array(past.astype(np.int32)),
        "oracle_probability": pa.array(probability),
        "context_country": pa.array(generator.integers(0, 5, rows)),
        "label_like": pa.array((item % 3 == 0).astype(np.int8)),
    }
    workdir.mkdir(parents=True, exist_ok=True)
    with DatasetWriter(workdir / "impressions", SCHEMA, {"source": "toy", "negatives": None}, rows_per_group=rows_per_group) as writer:
        writer.write(pa.table(columns, schema=SCHEMA))
    known = np.arange(items) >= items // 10
    others = {contract: _random_codes(contract, item_ids, seed) for contract in further}
    publish(workdir / "store", [(item_ids[known], {"text": codes[known]}), *others.values()], [CONTRACT, *others])
    shuffled = codes[known][generator.permutation(known.sum())]
    publish(workdir / "store_shuffled", [(item_ids[known], {"text-shuffled": shuffled})], [replace(CONTRACT, source="text-shuffled")])
    for contract in further:
        control = replace(contract, source=f"{contract.source}-shuffled")
        publish(workdir / "store_shuffled", [_random_codes(control, item_ids, seed + 1)], [control])


def write_enriched_toy_log(workdir: Path, rows: int, further: tuple[SidContract, ...] = ()) -> None:
    """`write_toy_log`, and what stage enrich makes of it."""
    write_toy_log(workdir, rows=rows, further=further)
    sources = ", ".join(contract.source for contract in (CONTRACT, *further))
    enrich.run(recipes.load("simulated", toy_recipe(workdir, **{"embed.sources": f"[{sources}]"})))


def toy_recipe(workdir: Path, **changes: object) -> list[str]:
    """--set arguments that point the simulated recipe at a toy log."""
    values: dict[str, object] = {
        "workdir": workdir,
        "ingest.history_length": 4,
        "train.global_batch": 128,
        "model.embedding_dim": 8,
        "model.representations": "{semantic_id: {kind: semantic_id, rows: 97, depth: 3}}",
        **changes,
    }
    return [f"{key}={value}" for key, value in values.items()]


def rows_of(workdir: Path) -> int:
    """Rows of the toy log."""
    return open_dataset(workdir / "impressions").rows


def _random_codes(contract: SidContract, item_ids: np.ndarray, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Codes of four in five items."""
    generator = np.random.default_rng([seed, contract.levels])
    ids = item_ids[generator.random(len(item_ids)) > 0.2]
    return ids, {contract.source: generator.integers(0, contract.codebook_size, (len(ids), contract.levels)).astype(np.uint16)}


def _timestamps(microseconds: np.ndarray) -> pa.Array:
    return pa.array(microseconds).cast(pa.timestamp("us")).cast(TIMESTAMP)
