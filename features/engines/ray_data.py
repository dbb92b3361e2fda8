"""An enrichment job on Ray Data: the rows are the numbers of the parts, and each worker reads and writes its part itself."""

import os
from collections.abc import Iterator, Sequence
from functools import partial

import pyarrow as pa
import ray

from features.engines.job import EnrichJob, Part
from features.engines.results import parts_of, results_of


def run_parts(job: EnrichJob, parts: Sequence[int], processes: int) -> Iterator[Part]:
    """The Ray Data engine (`features.engines.job.Engine`), on the cluster that RAY_ADDRESS names or else on this machine."""
    if not ray.is_initialized():
        if os.environ.get("RAY_ADDRESS"):
            ray.init()
        else:
            ray.init(num_cpus=processes, include_dashboard=False)
    numbers = ray.data.from_items([{"part": index} for index in parts], override_num_blocks=len(parts))
    results = numbers.map_batches(partial(_run, job), batch_size=1, batch_format="pyarrow", concurrency=processes)
    for batch in results.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from parts_of(batch)


def _run(job: EnrichJob, numbers: pa.Table) -> pa.Table:
    return results_of(job, numbers.column("part").to_pylist())
