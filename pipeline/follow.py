"""`semid follow`: stage enrich for impressions that keep coming, from a folder or a Redis stream."""

import argparse
import sys

from features.dataset import open_dataset
from features.engines.mapper import Enricher
from features.enrich import Additions
from features.errors import InputError
from features.location import Location
from features.store.broadcast import StoreVersion
from features.streams.directory import Directory
from features.streams.follow import follow
from features.streams.micro_batch import Source
from features.streams.sink import Sink
from pipeline import recipe as recipes
from pipeline.config import RunConfig
from pipeline.enrich import additions_of
from pipeline.preemption import Preempted, hold_back_sigterm, told_to_stop
from pipeline.progress import say


def run(options: argparse.Namespace) -> None:
    """Append what comes to the run's enriched data set, with the version of its store that is current at the start.

    Args:
        options: of the command line: recipe, set, source, rows_per_part and max_seconds.

    Raises:
        InputError: from source or sink, or if an option is no positive number.
        Preempted: after SIGTERM, once what was taken is published.
    """
    for name in ("rows_per_part", "max_seconds"):
        if not getattr(options, name) > 0:
            raise InputError(f"--{name.replace('_', '-')} {getattr(options, name)}: expected a positive number")
    config = recipes.load(options.recipe, options.set)
    store, source = StoreVersion.current(config.location("store")), _source(options.source)
    sizes = {"rows_per_part": options.rows_per_part, "max_seconds": options.max_seconds}
    sink = Sink(config.location("enriched"), Enricher(store, _additions(config, store)), str(source), **sizes)
    say(f"follow: {source} with {store.version} of {store.where}, a part each {options.rows_per_part:,} rows or {options.max_seconds:g} s")

    def advance() -> None:
        totals = sink.totals
        without = (f"; {count / max(totals.lookups, 1):.2%} without a Semantic ID of {name}" for name, count in totals.misses.items())
        say(f"follow: {sink.rows:,} rows in {sink.parts:,} parts, {totals.rows:,} of them since this start{''.join(without)}")

    hold_back_sigterm()
    if not follow(source, sink, stopped=told_to_stop, advance=advance):
        raise Preempted(f"stopped by SIGTERM after {sink.rows:,} rows; the same command goes on from there")


def _source(place: str) -> Source:
    if place.startswith(("redis://", "rediss://")):
        from features.streams.redis_stream import RedisStream  # which needs the package redis

        return RedisStream(place)
    return Directory(Location.of(place))


def _additions(config: RunConfig, store: StoreVersion) -> Additions:
    """As those of stage enrich; only further columns depend on the run's impressions, which are the days before the stream."""
    if not config.enrich.also:
        return Additions(config.embed.sources)
    return additions_of(config, open_dataset(config.location("impressions")), store)


if __name__ == "__main__":
    from pipeline.cli import main

    sys.exit(main(stage="follow"))
