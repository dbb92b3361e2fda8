"""The toy log with named items and content beside its store, and what a reader of it would count, in plain dictionaries."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from features.dataset import DatasetWriter, open_dataset, read_table
from features.store.snapshot import Snapshot
from features.store.versions import open_snapshot
from tests.toy_log import CONTRACT, write_toy_log

EVIL = "</script><img src=x onerror=document.title='owned'>&amp; <b>"
DIM = 8
SCHEMA = pa.schema([pa.field("item_id", pa.int64(), nullable=False), ("title", pa.string()), ("text", pa.string())])


@dataclass(frozen=True)
class ToyItems:
    """What the files say: codes of the items that have some, names and vectors of all, impressions and clicks by item."""

    codes: dict[int, tuple[int, ...]]
    names: dict[int, str]
    vectors: dict[int, np.ndarray]
    impressions: Counter[int]
    clicks: Counter[int]

    def with_prefix(self, prefix: tuple[int, ...]) -> list[int]:
        """Ids of the items whose codes begin so."""
        return [item for item, codes in self.codes.items() if codes[: len(prefix)] == prefix]

    def shown(self, items: list[int]) -> tuple[int, int]:
        """Impressions and clicks of some items."""
        return sum(self.impressions[item] for item in items), sum(self.clicks[item] for item in items)

    def cosine(self, items: list[int]) -> float:
        """Mean cosine of two of them, pair by pair."""
        unit = [self.vectors[item] / np.linalg.norm(self.vectors[item]) for item in items]
        return float(np.mean([a @ b for place, a in enumerate(unit) for b in unit[:place]]))


def write_toy_items(workdir: Path, items: int = 300) -> ToyItems:
    """Write impressions/, store/, items/ and content/text/, as a run's folder has them; a tenth of the items has no Semantic ID.

    Item number 7 of the store is called EVIL, every fifth has a text and no title.
    """
    write_toy_log(workdir, items=items)
    log = read_table(open_dataset(workdir / "impressions"), ["item_id", "label_click"]).to_pylist()
    store: Snapshot = open_snapshot(workdir / "store")
    codes = {int(item): tuple(row.tolist()) for item, row in zip(store.ids, store.codes["text"], strict=True)}
    ids = [*codes, *sorted({row["item_id"] for row in log} - set(codes))]
    names = {item: f"Thing {place} of the Kind {place % 13}" for place, item in enumerate(ids)}
    names[ids[7]] = EVIL
    generator = np.random.default_rng(3)
    centres = generator.normal(size=(CONTRACT.codebook_size, DIM))
    vectors = {item: (generator.normal(size=DIM) + 2 * centres[codes.get(item, (0,))[0]]).astype(np.float32) for item in ids}
    texted = {item: place % 5 == 0 for place, item in enumerate(ids)}
    with DatasetWriter(workdir / "items", SCHEMA, {}) as writer:
        titles = [None if texted[item] else names[item] for item in ids]
        writer.write(pa.table({"item_id": ids, "title": titles, "text": [names[item] for item in ids]}, schema=SCHEMA))
    content = pa.schema([SCHEMA.field("item_id"), ("vector", pa.list_(pa.float32(), DIM))])
    with DatasetWriter(workdir / "content" / "text", content, {"source": "text"}) as writer:
        writer.write(pa.table({"item_id": ids, "vector": [vectors[item].tolist() for item in ids]}, schema=content))
    clicks = Counter(row["item_id"] for row in log if row["label_click"])
    return ToyItems(codes, names, vectors, Counter(row["item_id"] for row in log), clicks)
