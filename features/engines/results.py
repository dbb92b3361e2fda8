"""How a worker of Ray or Spark tells what became of its parts: a row per part, so that bad input is told as such and not as a crash."""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from features.engines.job import EnrichJob, Part, run_part
from features.errors import InputError

RESULTS = pa.schema([pa.field("part", pa.string()), pa.field("error", pa.string())])  # one of the two is null


def results_of(job: EnrichJob, parts: Sequence[int]) -> pa.Table:
    """Run parts in a worker; RESULTS, one row each."""
    rows = []
    for index in parts:
        try:
            rows.append({"part": run_part(job, index).to_json(), "error": None})
        except InputError as error:
            rows.append({"part": None, "error": str(error)})
    return pa.Table.from_pylist(rows, RESULTS)


def parts_of(results: pa.Table) -> Iterator[Part]:
    """What the driver reads out of RESULTS. Raises the InputError that a worker met."""
    for row in results.to_pylist():
        if row["error"] is not None:
            raise InputError(row["error"])
        yield Part.from_json(row["part"])
