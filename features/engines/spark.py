"""Enrichment on Spark: a whole job, whose rows are the numbers of the parts, and DataFrames of your own through mapInArrow."""

import os
import sys
from collections.abc import Iterator, Sequence
from itertools import islice

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema

from features.engines.job import EnrichJob, Part
from features.engines.mapper import Enricher
from features.engines.results import parts_of, results_of


def run_parts(job: EnrichJob, parts: Sequence[int], processes: int) -> Iterator[Part]:
    """The Spark engine (`features.engines.job.Engine`), in `spark_session`.

    The parts are collected a round of `processes` at a time, so that a job which died goes on where it stopped.
    """
    session = spark_session(processes)
    numbers = iter(parts)
    while round_ := list(islice(numbers, processes)):

        def run(batches: Iterator[pa.RecordBatch], chosen: list[int] = round_) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                yield from results_of(job, [chosen[place] for place in batch.column("id").to_pylist()]).to_batches()

        rows = session.range(0, len(round_), 1, len(round_)).mapInArrow(run, "part string, error string")
        yield from parts_of(rows.toArrow())


def spark_session(processes: int) -> SparkSession:
    """The active session, else that of spark-submit or of SPARK_REMOTE, else one on this machine, with this Python."""
    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    if "PYSPARK_GATEWAY_PORT" in os.environ or "SPARK_REMOTE" in os.environ:  # spark-submit has started Spark, or Spark Connect is there
        return SparkSession.builder.getOrCreate()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # Spark would take the first python3 of the PATH
    return SparkSession.builder.master(f"local[{processes}]").config("spark.ui.enabled", "false").getOrCreate()


def enriched(rows: DataFrame, enricher: Enricher) -> DataFrame:
    """Enrich a DataFrame of impressions with a plain map: no join, no shuffle; partitions and the order in them stay.

    Spark has no unsigned integers and no lists of fixed size: codes are `array<int>` here, keys `array<bigint>`.

    Args:
        rows: with `item_id` bigint, `history_item_ids` array<bigint>, and any other columns.
        enricher: the store and the columns to add; workers map the store's files by its path or URI.
    """
    schema = pa.schema([(field.name, _spark_type(field.type)) for field in enricher.schema(to_arrow_schema(rows.schema, timezone="UTC"))])

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return (batch.cast(schema) for batch in enricher.batches(batches))

    return rows.mapInArrow(run, from_arrow_schema(schema))


def _spark_type(arrow: pa.DataType) -> pa.DataType:
    """The nearest type that Spark has."""
    if pa.types.is_list(arrow) or pa.types.is_fixed_size_list(arrow):
        return pa.list_(_spark_type(arrow.value_type))
    return pa.int32() if arrow == pa.uint16() else arrow
