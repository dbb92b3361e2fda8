"""What has to be computed before anything can be found: a log's stages, further quantizers, trainings; each done once, and resumable."""

import ast
import fcntl
import hashlib
import importlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.dataset import DatasetWriter, iter_row_groups, open_dataset
from features.dense_ids import DenseIdMap
from features.files import publish_folder, write_durably
from features.store.versions import open_snapshot
from pipeline.config import RunConfig
from pipeline.recipe import with_overrides
from pipeline.reproduce.world import existing_items, link
from pipeline.stage import ROOT, STAGES, TRAINING_CODE, bring_up_to_date, chain, code_fingerprint, is_current

PREPARING = ("ingest", "simulate", "embed", "quantize", "assign")
OF_ITEMS = ("content", "codebook", "store", "store_shuffled")  # what these stages write, of the items alone
SLOWER = {"bypass": 1.0, "transformer": 3.0, "pma": 4.0}  # how much longer a training takes by its history arm, for the time left
MEASURING_CODE = "pipeline/reproduce/tasks.py"
PACKAGE = "pipeline.reproduce."
# What a ranker is trained with; what it is trained on is told by the contents of the log and the store.
TRAINED_WITH: dict[str, Any] = {"model": True, "sharding": True, "train": True, "embed": {"sources"}, "ingest": {"history_length"}}


class Task(Protocol):
    """Something to do in a process of its own, once."""

    @property
    def title(self) -> str:
        """For the log, and for errors."""

    @property
    def cost(self) -> float:
        """In about the same unit for all tasks done together."""

    def is_done(self) -> bool:
        """Whether an earlier reproduction did it."""

    def perform(self) -> None:
        """Do it, going on where an earlier attempt was stopped."""


@dataclass(frozen=True)
class Prepare:
    """Bring a log, its embeddings and its Semantic IDs up to date.

    Attributes:
        config: of the world.
        items_from: workdir of a world with the same items, whose embeddings and Semantic IDs are these ones' too.
    """

    config: RunConfig
    items_from: Path | None = None

    @property
    def title(self) -> str:
        """The workdir's world."""
        return f"{self.config.workdir.parent.name}: log, embeddings, Semantic IDs"

    @property
    def cost(self) -> float:
        """Alike for all worlds."""
        return 1.0

    def is_done(self) -> bool:
        """The stages know for themselves; the numbers of the items are those of the log that they were made of."""
        if not all(is_current(STAGES[name], self.config) for name in self._stages) or not self._numbered.exists():
            return False
        shared = self.items_from is None or all(self.config.path(name).is_symlink() for name in OF_ITEMS)
        return shared and self._numbered.read_text() == open_dataset(self.config.path("impressions")).fingerprint

    def perform(self) -> None:
        """Run the stages, and number the items."""
        for name in self._stages:
            bring_up_to_date(STAGES[name], self.config)
        if self.items_from is not None:
            here, there = (open_dataset(workdir / "items").fingerprint for workdir in (self.config.workdir, self.items_from))
            assert here == there, f"{self.config.workdir} and {self.items_from} have different items"
            link(self.config.workdir, self.items_from, OF_ITEMS)
        impressions = open_dataset(self.config.path("impressions"))
        self._numbered.unlink(missing_ok=True)
        DenseIdMap.build(impressions).save(self.config.path("dense_ids"))
        write_durably(self._numbered, impressions.fingerprint.encode())

    @property
    def _stages(self) -> list[str]:
        wanted = PREPARING if self.items_from is None else PREPARING[:2]
        return [stage.name for stage in chain(self.config) if stage.name in wanted]

    @property
    def _numbered(self) -> Path:
        return self.config.workdir / "dense_ids_of"


@dataclass(frozen=True)
class Code:
    """Train one more quantizer, or one for each source of content, and code the items by it.

    Attributes:
        config: of the coding.
        until: `Coding.until`.
    """

    config: RunConfig
    until: float = 1.0

    @property
    def title(self) -> str:
        """World and coding."""
        return f"{self.config.workdir.parent.name}: Semantic IDs {self.config.workdir.name}"

    @property
    def cost(self) -> float:
        """A level takes about as long as another."""
        return float(self.config.quantize.levels * len(self.config.embed.sources))

    def is_done(self) -> bool:
        """The stages know for themselves."""
        trained = ("quantize",) if self.until == 1 else ()  # else in a folder of its own, which linked codebooks are of
        return all(is_current(STAGES[name], self.config) for name in ("embed", *trained, "assign"))

    def perform(self) -> None:
        """Run the stages."""
        bring_up_to_date(STAGES["embed"], self.config)  # finds its work done but for codings with sources of their own
        if self.until == 1:
            bring_up_to_date(STAGES["quantize"], self.config)
        else:
            earlier = with_overrides(self.config, {"workdir": str(self.config.workdir / "earlier")})
            self._write_content(earlier)
            bring_up_to_date(STAGES["quantize"], earlier)
            link(self.config.workdir, earlier.workdir, ["codebook"])
        bring_up_to_date(STAGES["assign"], self.config)

    def _write_content(self, earlier: RunConfig) -> None:
        """Content of the items that existed by then alone."""
        existing = pa.array(existing_items(self.config, self.until))
        for source in self.config.embed.sources:
            content = open_dataset(self.config.path("content", source))
            with DatasetWriter(earlier.path("content", source), content.schema, content.metadata) as writer:
                for group in iter_row_groups(content):
                    writer.write(group.filter(pc.is_in(group.column("item_id"), existing)))


@dataclass(frozen=True)
class Train:
    """Train one variant with one seed: scores after training, scores of the stream, and what its probes measure.

    Attributes:
        variant: its name, for the log and for errors.
        config: of the run.
        probes: "module:function" each.
        folder: of all results of the world; this one's is below.
    """

    variant: str
    config: RunConfig
    probes: tuple[str, ...]
    folder: Path

    @property
    def title(self) -> str:
        """World, variant and seed."""
        return f"{self.folder.parent.name}: {self.variant}, seed {self.config.train.seed}"

    @property
    def cost(self) -> float:
        """Rows, weighed by the history arm."""
        return open_dataset(self.config.location("impressions")).rows * SLOWER[self.config.model.history]

    @property
    def results(self) -> Path:
        """Folder named by all that the results depend on, and by nothing else: neither by the variant's name nor by where the files lie."""
        config, kinds = self.config, {each.kind for each in self.config.model.representations.values()}
        told = [
            config.model_dump(mode="json", include=TRAINED_WITH),
            open_dataset(config.location("impressions")).fingerprint,
            # The rows of individual embeddings are numbered by the world's own log, whatever is trained on.
            open_dataset(config.path("impressions")).fingerprint if "individual" in kinds else "",
            open_snapshot(config.path(config.train.store)).fingerprint if config.model.shared_prefix or "semantic_id" in kinds else "",
            code_fingerprint([*TRAINING_CODE, MEASURING_CODE]),
            {probe: code_fingerprint(code_behind(probe.partition(":")[0])) for probe in self.probes},
        ]
        return self.folder / hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]

    def is_done(self) -> bool:
        """The folder appears as a whole."""
        return self.results.is_dir()

    def perform(self) -> None:
        """Train, score, and publish the folder."""
        from pipeline.ranks import start_process_group  # torch: the process that hands tasks out does without
        from pipeline.trainer import Trainer

        started, results = time.monotonic(), self.results
        staging = results.with_name(f".{results.name}.tmp")
        staging.mkdir(parents=True, exist_ok=True)
        device = start_process_group()
        self._learn_pieces()
        trainer = Trainer(self.config, staging / "trainer", device, quiet=True)
        try:
            trainer.resume()
            trainer.train(trainer.train_rows)
            if not (staging / "frozen.npy").exists():  # else an earlier attempt has gone on from here
                self._measure(trainer, staging)
            trainer.train(trainer.rows)
            np.save(staging / "stream.npy", trainer.stream_scores()[:, 0])
            table_rows = sum(trainer.source.builder.schema.item_tables.values())
        finally:
            trainer.close()
        about = {"variant": self.variant, "table_rows": table_rows, "seconds": round(time.monotonic() - started, 2)}
        write_durably(staging / "about.json", json.dumps(about).encode())
        shutil.rmtree(staging / "trainer")
        publish_folder(staging, results)

    def _learn_pieces(self) -> None:
        """Vocabularies of scheme spm belong to all seeds, and only one process may learn them."""
        from pipeline.loader import BatchSource

        if any(each.scheme == "spm" for each in self.config.model.representations.values()):
            with alone(self.folder / ".pieces.lock", wait=True):
                BatchSource(self.config).prepare()

    def _measure(self, trainer: Any, staging: Path) -> None:
        for probe in self.probes:
            module, function = probe.split(":")
            measured: dict[str, NDArray[Any]] = getattr(importlib.import_module(module), function)(trainer)
            np.savez(staging / f"{function}.npz", allow_pickle=False, **measured)
        scores = trainer.score(trainer.train_rows, trainer.rows)[:, 0]
        with (staging / ".frozen.tmp").open("wb") as file:
            np.save(file, scores)
        (staging / ".frozen.tmp").rename(staging / "frozen.npy")


@cache
def code_behind(module: str) -> tuple[str, ...]:
    """Files of a module and of those in this package that it imports, and these import, as the repository names them."""
    names, waiting = set[str](), [module]
    while waiting:
        name = waiting.pop()
        file = ROOT / f"{name.replace('.', '/')}.py"
        if name in names or not name.startswith(PACKAGE) or not file.is_file():
            continue
        names.add(name)
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
            elif isinstance(node, ast.Import):
                waiting += [each.name for each in node.names]
    return tuple(f"{name.replace('.', '/')}.py" for name in sorted(names))


@contextmanager
def alone(lock: Path, *, wait: bool) -> Iterator[bool]:
    """Keep other processes out of a block by a locked file; a process that ends, however it does, lets go of it.

    Yields:
        Whether the lock was to be had; always true where `wait`.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
