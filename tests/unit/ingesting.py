"""Runs stage ingest on a small raw folder and opens what it wrote."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from features.dataset import open_dataset, read_table
from pipeline import ingest
from pipeline.config import RunConfig
from pipeline.recipe import validate


@dataclass(frozen=True)
class Ingested:
    items: pa.Table
    impressions: pa.Table
    quarantine: list[tuple[str, int, str]]
    metadata: dict[str, Any]

    def column(self, name: str) -> list[Any]:
        return self.impressions[name].to_pylist()


def configuration(workdir: Path, simulate: dict[str, Any] | None = None, **settings: Any) -> RunConfig:
    values = {"name": "test", "workdir": str(workdir), "ingest": settings, "simulate": simulate or {}}
    return validate(values | {"model": {"representations": {"random_hash": {"kind": "random_hash", "rows": 1000}}}}, "test")


def ingested(raw: Path, source: str, **settings: Any) -> Ingested:
    """Ingest `raw`; every file's accepted and quarantined rows must add up to those read."""
    workdir = raw.parent / f"{raw.name}-out"
    config = configuration(workdir, source=source, raw=str(raw), **settings)
    ingest.run(config)
    items, impressions, quarantine = (open_dataset(config.path(name), verify=True) for name in ("items", "impressions", "quarantine"))
    rejected = [tuple(row.values()) for row in read_table(quarantine).to_pylist()]
    counts = impressions.metadata["counts"]
    for file, count in counts.items():
        assert count["read"] == count["accepted"] + count["quarantined"], file
        assert count["quarantined"] == sum(row[0] == file for row in rejected)
    return Ingested(read_table(items), read_table(impressions), rejected, impressions.metadata)
