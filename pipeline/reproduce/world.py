"""One log made ready for the reproduction: its stages run, its items coded by every quantizer that a finding asks for."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.dataset import Dataset, open_dataset, read_table
from features.schema import ORACLE
from features.store.snapshot import Snapshot
from features.store.versions import open_snapshot
from pipeline.config import RunConfig
from pipeline.recipe import with_overrides

SHARED = ("impressions", "items", "content", "dense_ids")  # of a world, by all its codings


@dataclass(frozen=True)
class Coding:
    """A quantizer: its levels L and codes K, and any further settings as dotted keys; the world's own where all are left out.

    Attributes:
        settings: overrides of the world's recipe. With `embed.sources` among them it is a quantizer per source of content, each item then
            having a Semantic ID of each.
        until: share of the log; items that did not exist by then are coded too, but it has not been trained on them.
    """

    settings: tuple[tuple[str, Any], ...] = ()
    until: float = 1.0

    @classmethod
    def of(cls, **quantize: Any) -> "Coding":
        """By the keys of section quantize, e.g. `Coding.of(levels=4, codebook_size=64)`."""
        return cls(tuple(sorted((f"quantize.{key}", value) for key, value in quantize.items())))

    @property
    def name(self) -> str:
        """Of its folder."""
        told = [(key.removeprefix("quantize."), "+".join(value) if isinstance(value, tuple) else value) for key, value in self.settings]
        told += [("until", f"{self.until:g}")] if self.until < 1 else []
        return "-".join(f"{key}_{value}" for key, value in told) or "own"


OWN = Coding()


@dataclass(frozen=True)
class Variant:
    """A ranker to be trained, once with every seed.

    Attributes:
        name: as tables and plots call it; two variants of one name must be equal.
        settings: overrides of the world's recipe, by dotted key.
        coding: whose Semantic IDs.
        log: name of the world's log that it is trained on, of `World.logs`.
        probes: what is measured on the model as training left it, "module:function"; the function takes a Trainer and gives arrays by name.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    coding: Coding = OWN
    log: str = "impressions"
    probes: tuple[str, ...] = ()


class World:
    """A log below a folder of its own: `own` is the workdir of its stages, and each other coding has one that shares what it can."""

    def __init__(self, name: str, config: RunConfig, root: Path) -> None:
        """Args: what it is called, e.g. simulated_80; the recipe, whose workdir is replaced; the reproduction's folder."""
        self.name, self.folder = name, root / name
        self.config = with_overrides(config, {"workdir": str(self.folder / OWN.name), "ranks": 1})

    @property
    def is_simulated(self) -> bool:
        """Whether the true click probabilities are known."""
        return self.config.ingest.source == "simulated"

    def coded(self, coding: Coding) -> RunConfig:
        """The recipe with this quantizer, whose workdir has its codebook and stores."""
        return with_overrides(self.config, {**dict(coding.settings), "workdir": str(self.folder / coding.name)})

    def share(self, coding: Coding) -> None:
        """Let a coding's workdir see what does not depend on it."""
        own_content = any(key.startswith("embed.") for key, _ in coding.settings)
        link(self.folder / coding.name, self.folder / OWN.name, [name for name in SHARED if name != "content" or not own_content])

    def run_config(self, variant: Variant, seed: int) -> RunConfig:
        """What one ranker is trained with; codes are looked up as the log is read, so that one log serves all codings."""
        log = {} if variant.log == "impressions" else {"locations": {"impressions": str(self.log(variant.log))}}
        return with_overrides(self.coded(variant.coding), {"train.input": "impressions", **log, **variant.settings, "train.seed": seed})

    def log(self, name: str) -> Path:
        """Folder of a log."""
        return self.folder / OWN.name / "impressions" if name == "impressions" else self.folder / "logs" / name

    @cached_property
    def impressions(self) -> Dataset:
        """The whole log."""
        return open_dataset(self.log("impressions"))

    @cached_property
    def items(self) -> Dataset:
        """The canonical items."""
        return open_dataset(self.config.path("items"))

    def store(self, coding: Coding = OWN, *, shuffled: bool = False) -> Snapshot:
        """The entity store of a coding."""
        return open_snapshot(self.coded(coding).path("store_shuffled" if shuffled else "store"))

    @cached_property
    def vectors(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Ids of the items with content, int64 [N], and their content embeddings of the recipe's first source, float32 [N, D]."""
        return content_of(self.config)

    def columns(self, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Columns of the log, [N] each, by name; those that it does not have are left out."""
        table = read_table(self.impressions, [name for name in names if name in self.impressions.schema.names])
        return {name: table.column(name).to_numpy() for name in table.column_names}

    @cached_property
    def oracle(self) -> NDArray[np.float64] | None:
        """The true click probabilities, float64 [N]; None on a real log."""
        return self.columns([ORACLE.name]).get(ORACLE.name)


def content_of(config: RunConfig) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """`World.vectors` of a run."""
    table = read_table(open_dataset(config.path("content", config.embed.sources[0])))
    ids, vectors = table.column("item_id").to_numpy(), table.column("vector").combine_chunks()
    known = vectors.is_valid().to_numpy(zero_copy_only=False)
    return ids[known], vectors.flatten().to_numpy().reshape(-1, vectors.type.list_size)  # flatten leaves out items without content


def existing_items(config: RunConfig, until: float) -> NDArray[np.int64]:
    """Ids of the items that were created or shown before a share of the rows had been logged: int64, ascending."""
    log = read_table(open_dataset(config.location("impressions")), ["timestamp", "item_id"])
    items = read_table(open_dataset(config.path("items")), ["item_id", "created_at"])
    row = int(until * log.num_rows)
    created = pc.fill_null(pc.less(items.column("created_at"), log.column("timestamp")[row]), False)
    shown = pc.is_in(items.column("item_id"), log.column("item_id").slice(0, row))
    return np.sort(items.filter(pc.or_(created, shown)).column("item_id").to_numpy())


def link(workdir: Path, other: Path, names: Iterable[str]) -> None:
    """Let a workdir have what another one has."""
    workdir.mkdir(parents=True, exist_ok=True)
    for name in names:
        if not (workdir / name).is_symlink():
            (workdir / name).symlink_to(os.path.relpath(other / name, workdir))
