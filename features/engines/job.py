"""An enrichment job: each file of the input becomes one part of the output, on whatever engine, and a job that died goes on."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from features.dataset import Dataset, publish, row_groups_of
from features.engines.mapper import Enricher
from features.enrich import Additions
from features.location import Location
from features.parquet_append import append_columns
from features.part_file import DataFile, PartFile
from features.store.broadcast import StoreVersion

_CODE = sorted(Path(__file__).parents[1].glob("*.py"))  # what a part's bytes depend on


@dataclass(frozen=True)
class EnrichJob:
    """What is to be done; names and numbers alone, so that it travels to the workers of any engine.

    Attributes:
        impressions: as one process opened them for all; what its manifest said then holds.
        output: the enriched data set's folder.
        store: whose codes.
        additions: the columns to add.
    """

    impressions: Dataset
    output: Location
    store: StoreVersion
    additions: Additions


@dataclass(frozen=True)
class Part:
    """A finished part: its file, the ids looked up in it, and source to how many of them have no codes of it."""

    index: int
    file: DataFile
    lookups: int
    misses: dict[str, int]

    def to_json(self) -> str:
        """As text, for the file that tells of it or the engine's way back."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Part":
        """What `to_json` has written."""
        told = json.loads(text)
        return cls(**(told | {"file": DataFile(**told["file"])}))


# Runs `run_part(job, index)` for each index, on `processes` workers, and yields the results as they come, in any order.
Engine = Callable[[EnrichJob, Sequence[int], int], Iterator[Part]]


@dataclass
class Totals:
    """What a job has done, over all its parts, those of an earlier start among them."""

    rows: int = 0
    lookups: int = 0
    misses: Counter[str] = field(default_factory=Counter)


def run(job: EnrichJob, engine: Engine, processes: int, *, advance: Callable[[], None] = lambda: None) -> Totals:
    """Run what is left of a job, and publish its output when all parts are there.

    Parts that an earlier start of the same job finished are kept: the same input, store, additions and code.

    Args:
        job: what to do.
        engine: where.
        processes: workers at a time; the output does not depend on it.
        advance: called once for each finished part.

    Raises:
        InputError: if an input is missing or damaged, or the input's columns do not fit, from whichever worker.
    """
    dataset, output = job.impressions, job.output
    prefix = f"progress-{_identity(job)}-"
    parts = {part.index: part for part in _finished(output, prefix)}
    left = [index for index in range(len(dataset.files)) if index not in parts]
    for _ in parts:
        advance()
    for part in engine(job, left, processes) if left else ():
        (output / f"{prefix}{part.index:05d}.json").write(part.to_json().encode())
        parts[part.index] = part
        advance()
    ordered = [parts[index] for index in range(len(dataset.files))]
    publish(output, [part.file for part in ordered], dataset.metadata | described(Enricher(job.store, job.additions)))
    totals = Totals(dataset.rows, sum(part.lookups for part in ordered))
    for part in ordered:
        totals.misses.update(part.misses)
    return totals


def run_part(job: EnrichJob, index: int) -> Part:
    """Enrich one file of the input; called in a worker.

    The file's own columns are copied as the bytes that they are. Only those that the additions come from are decoded.

    Raises:
        InputError: naming file and row group where the input is damaged, before any of it is decoded.
    """
    dataset, enricher, where, done = job.impressions, Enricher(job.store, job.additions), job.impressions.part(index), Totals()
    with PartFile(job.output, index) as part:
        file, end = dataset.copy_part(index, part)  # first of all: until then the data set's columns may be what a damaged file has told
        schema, columns = enricher.schema(dataset.schema), job.additions.columns_read(dataset.schema)
        added = _additions(row_groups_of(file, where, columns), enricher, done)
        append_columns(part, end, schema.with_metadata(parquet_metadata(enricher)), len(dataset.schema), added, where)
        return Part(index, part.finish(file.metadata.num_rows), done.lookups, dict(done.misses))


def _additions(row_groups: Iterator[pa.Table], enricher: Enricher, done: Totals) -> Iterator[pa.Table]:
    """The added columns alone of each row group, counted in `done`."""
    for table in row_groups:
        enriched = [enricher.enrich(batch) for batch in table.to_batches()]
        done.lookups += sum(each.lookups for each in enriched)
        for each in enriched:
            done.misses.update(each.misses)
        rows = pa.Table.from_batches([each.batch for each in enriched], enricher.schema(table.schema))
        yield rows.select(range(table.num_columns, rows.num_columns))


def _finished(output: Location, prefix: str) -> Iterator[Part]:
    for name in output.files():
        if name.startswith(prefix):
            part = Part.from_json((output / name).read().to_pybytes().decode())
            if (output / part.file.name).size() == part.file.bytes:
                yield part


def _identity(job: EnrichJob) -> str:
    told = repr((job.impressions.fingerprint, job.store.fingerprint, job.additions, [path.read_bytes() for path in _CODE]))
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def described(enricher: Enricher) -> dict[str, Any]:
    """What the manifest says of the additions: the contracts of the codes, and the statistics."""
    snapshot, additions = enricher.store.open(), enricher.additions
    return {
        "sid_contracts": [snapshot.contract(source).to_json() for source in additions.looked_up],
        "dense_statistics": {name: asdict(statistics) for name, statistics in additions.dense.items()},
    }


def parquet_metadata(enricher: Enricher) -> dict[str, str]:
    """The same, as every part's Parquet file has it."""
    return {f"semid.{name}": json.dumps(value) for name, value in described(enricher).items()}
