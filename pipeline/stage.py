"""What all stages share: the list of stages, and the stamp that lets a second run skip one whose inputs have not changed."""

import hashlib
import importlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from features import dense_ids
from features.dataset import MANIFEST
from features.location import Location
from pipeline.config import RunConfig
from pipeline.starting_point import chosen

ROOT = Path(__file__).parents[1]
ALL_CODE = ("features/**/*.py", "models/**/*.py", "pipeline/**/*.py", "pipeline/templates/*")
BY_SOURCE = ("content", "codebook")  # outputs that have a folder per source of Semantic IDs
# What a trained weight depends on.
TRAINING_CODE = (
    "features/*.py",
    "features/store/*.py",
    "models/*.py",
    "pipeline/loader.py",
    "pipeline/metrics.py",
    "pipeline/model.py",
    "pipeline/representations.py",
    "pipeline/trainer.py",
    "pipeline/warm_start.py",
)


@dataclass(frozen=True)
class Stage:
    """One box of the chain.

    Attributes:
        name: the subcommand and the module `pipeline.NAME`.
        summary: one line for --help.
        reads: outputs of earlier stages, below the run's workdir.
        writes: its own outputs, below the run's workdir; the first one holds the stamp.
        settings: sections of the configuration that it depends on.
        distributed: runs on one rank or several, under torchrun.
    """

    name: str
    summary: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    settings: tuple[str, ...]
    distributed: bool = False


STAGES = {
    stage.name: stage
    for stage in (
        Stage("ingest", "raw files as published to canonical Parquet", (), ("impressions", "items"), ("ingest",)),
        Stage("simulate", "the simulated world as canonical Parquet", (), ("impressions", "items"), ("ingest", "simulate")),
        Stage("embed", "item text or given vectors to content embeddings", ("items",), ("content",), ("embed",)),
        Stage("quantize", "train a quantizer on content embeddings", ("content",), ("codebook",), ("quantize",), True),
        Stage(
            "assign", "Semantic IDs of all items into the entity store", ("content", "codebook"), ("store", "store_shuffled"), ("assign",)
        ),
        Stage(
            "enrich", "impressions + store to Parquet with codes", ("impressions", "store"), ("enriched", "dense_ids"), ("embed", "enrich")
        ),
        Stage("train", "train the ranker", ("enriched", "dense_ids"), ("train",), ("model", "sharding", "train", "ranks"), True),
        Stage(
            "evaluate",
            "compare the representations after training and as a stream",
            ("impressions", "enriched", "dense_ids", "store", "store_shuffled", "train"),
            ("evaluate",),
            ("model", "sharding", "train", "evaluate", "ranks"),
            True,
        ),
        Stage("report", "one HTML file with the tables and plots", ("items", "impressions", "codebook", "evaluate"), ("report",), ()),
    )
}


def chain(config: RunConfig) -> list[Stage]:
    """The stages of a whole run, in order: the simulated world stands in for ingestion where the recipe says so."""
    first = "simulate" if config.ingest.source == "simulated" else "ingest"
    skipped = "ingest" if first == "simulate" else "simulate"
    return [stage for stage in STAGES.values() if stage.name != skipped]


def is_current(stage: Stage, config: RunConfig) -> bool:
    """Whether the stage has finished before with the same settings, inputs and code, and what it wrote is there."""
    if not all(folder.exists() for name in stage.writes for folder in _folders(name, config)):
        return False
    try:
        return _stamp_file(stage, config).read().to_pybytes().decode() == _stamp(stage, config)
    except FileNotFoundError:  # never finished, or another rank is just about to run it again
        return False


def bring_up_to_date(stage: Stage, config: RunConfig, *, force: bool = False) -> None:
    """Run a stage unless its outputs are current; on several ranks a call of all."""
    first = os.environ.get("RANK", "0") == "0"
    if is_current(stage, config) and not force:
        if first:
            print(f"{stage.name}: up to date", flush=True)
        return
    if first:
        mark_outdated(stage, config)
    importlib.import_module(f"pipeline.{stage.name}").run(config)
    if first:
        mark_current(stage, config)


def mark_outdated(stage: Stage, config: RunConfig) -> None:
    """Forget that the stage has finished; called first of all, lest a run that stops halfway leaves outputs under an older stamp."""
    _stamp_file(stage, config).remove()


def mark_current(stage: Stage, config: RunConfig) -> None:
    """Record that the stage has finished; called last of all."""
    _stamp_file(stage, config).write(_stamp(stage, config).encode())


def code_fingerprint(patterns: Sequence[str]) -> str:
    """Identifies the code in the files of the repository that match."""
    return _hash_those_there(sorted(file for pattern in patterns for file in ROOT.glob(pattern)))


def _stamp_file(stage: Stage, config: RunConfig) -> Location:
    return config.location(stage.writes[0]) / "stage.json"


def _stamp(stage: Stage, config: RunConfig) -> str:
    settings = config.model_dump(mode="json")
    return json.dumps(
        {
            "stage": stage.name,
            "settings": {name: settings[name] for name in stage.settings},
            "inputs": {name: _identity(name, config) for name in stage.reads} | _raw_identity(stage, config),
            "code": code_fingerprint(ALL_CODE),
        },
        indent=1,
    )


def _identity(name: str, config: RunConfig) -> str:
    """An input's identity: the hash of its manifest, or of an entity store's pointer, and of the stamp of the stage that wrote it."""
    files = [folder / file for folder in _folders(name, config) for file in (MANIFEST, "CURRENT", "stage.json")]
    return _hash_files([file for file in files if file.size() is not None])


def _folders(name: str, config: RunConfig) -> list[Location]:
    """An output's folder, and those of its parts."""
    folder = config.location(name)
    return [folder, *(folder / source for source in config.embed.sources if name in BY_SOURCE)]


def _raw_identity(stage: Stage, config: RunConfig) -> dict[str, str]:
    """What a stage reads that no stage of this run has written."""
    old = config.quantize.refresh_from
    if stage.name == "quantize" and old is not None:
        return {
            "refresh_from": _hash_those_there(
                [folder / "codebook.json" for folder in (old, *(old / source for source in config.embed.sources))]
            )
        }
    if stage.name == "enrich":
        return _enrich_identity(config)
    if "train" in stage.settings:
        start = chosen(config)
        return {} if start is None else {"start_from": start.sha256}
    raw = config.ingest.raw
    if stage.name != "ingest" or raw is None:
        return {}
    return {"raw": _hash_those_there(sorted(raw.rglob("*")) if raw.is_dir() else [raw])}


def _enrich_identity(config: RunConfig) -> dict[str, str]:
    """The day before, and what the further columns depend on."""
    enrich, told = config.enrich, {}
    if enrich.dense_ids_from is not None:
        told["dense_ids_from"] = _hash_those_there([enrich.dense_ids_from / dense_ids.META])
    if enrich.statistics_from is not None:
        told["statistics_from"] = _hash_files([Location.of(enrich.statistics_from) / MANIFEST])
    if enrich.also:
        told["model"] = config.model.model_dump_json(include={"representations", "rows", "context_rows"})
    return told


def _hash_those_there(files: Sequence[Path]) -> str:
    return _hash_files([Location.of(file) for file in files if file.is_file()])


def _hash_files(files: Sequence[Location]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.path.rpartition("/")[2].encode())
        digest.update(bytes.fromhex(file.sha256()))
    return digest.hexdigest()
