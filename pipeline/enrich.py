"""Stage enrich: impressions + store to Parquet with codes, and the dense id map."""

import importlib
import os
import sys
from collections.abc import Mapping

from features.dataset import Dataset, open_dataset
from features.dense_ids import DenseIdMap
from features.dense_statistics import DenseStatistics, measure
from features.engines.job import Engine, EnrichJob
from features.engines.job import run as run_job
from features.enrich import Additions
from features.errors import InputError
from features.representation import Representation
from features.schema import DENSE, columns_with_prefix
from features.store.broadcast import StoreVersion
from pipeline.config import RunConfig
from pipeline.progress import progress_bar, say

ENGINES = {"local": "features.engines.local", "ray": "features.engines.ray_data", "spark": "features.engines.spark"}


def run(config: RunConfig) -> None:
    """Look up the codes of every target and history item, of each of `embed.sources`, in one version of the store; number the items.

    Raises:
        InputError: if an input is missing or damaged, or `enrich.dense_ids_from` is this run's own map.
    """
    older_ids, engine = _older_ids(config), _engine(config)
    impressions = open_dataset(config.location("impressions"))
    store = StoreVersion.current(config.location("store"))
    for source in config.embed.sources:
        store.open().contract(source)  # refused here, and not by the first worker
    additions = additions_of(config, impressions, store)
    job = EnrichJob(impressions, config.location("enriched"), store, additions)
    with progress_bar("enrich", len(impressions.files)) as advance:
        done = run_job(job, engine, config.enrich.processes or len(os.sched_getaffinity(0)), advance=advance)
    DenseIdMap.build(impressions, older_ids).save(config.path("dense_ids"))
    without = ", ".join(f"{count / max(done.lookups, 1):.2%} without a Semantic ID of {source}" for source, count in done.misses.items())
    say(f"enriched {done.rows:,} rows, {done.lookups:,} ids looked up, {without}")


def _engine(config: RunConfig) -> Engine:
    """Imported only where it is used: a run needs no engine but its own."""
    try:
        engine: Engine = importlib.import_module(ENGINES[config.enrich.engine]).run_parts
        return engine
    except ModuleNotFoundError as error:
        raise InputError(
            f"enrich.engine {config.enrich.engine} needs the package {error.name}: pip install 'semid[{config.enrich.engine}]'"
        ) from error


def additions_of(config: RunConfig, impressions: Dataset, store: StoreVersion) -> Additions:
    """The columns that the recipe adds; statistics and vocabularies are those of the impressions."""
    also = config.enrich.also
    return Additions(
        config.embed.sources,
        tuple(_hashed_representations(config, impressions, store)) if "keys" in also else (),
        config.model.context_rows if "context" in also else None,
        _statistics(config, impressions) if "dense" in also else {},
    )


def _hashed_representations(config: RunConfig, impressions: Dataset, store: StoreVersion) -> list[Representation]:
    """All but the individual ones, whose rows no kernel knows."""
    from pipeline.representations import ItemTables  # which imports torch, as only this option needs

    chosen = {name: each for name, each in config.model.representations.items() if each.kind != "individual"}
    hashed = config.model_copy(update={"model": config.model.model_copy(update={"representations": chosen})})
    return list(ItemTables(hashed, store.open().contracts, impressions, store.open()).representations(None))


def _statistics(config: RunConfig, impressions: Dataset) -> Mapping[str, DenseStatistics]:
    columns, where = columns_with_prefix(impressions.schema, DENSE), config.enrich.statistics_from
    if where is None:
        return measure(impressions, columns)
    stored = open_dataset(where).metadata.get("dense_statistics", {})
    missing = [name for name in columns if name not in stored]
    if missing:
        raise InputError(f"enrich.statistics_from {where}: has no statistics of {missing[0]}")
    return {name: DenseStatistics(**stored[name]) for name in columns}


def _older_ids(config: RunConfig) -> DenseIdMap | None:
    path = config.enrich.dense_ids_from
    if path is not None and path.resolve() == config.path("dense_ids").resolve():
        raise InputError(f"enrich.dense_ids_from {path} is the folder that the stage writes; give each day a workdir of its own")
    return None if path is None else DenseIdMap.load(path)


if __name__ == "__main__":
    from pipeline.cli import main

    sys.exit(main(stage="enrich"))
