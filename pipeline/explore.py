"""`semid explore`: a store's Semantic IDs as one self-contained HTML page, to walk down prefix by prefix and to search.

Dimensions: S items with a Semantic ID, N items in all, L levels.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.dataset import has_dataset
from features.errors import InputError
from features.files import write_durably
from features.parameterization import Mapping, Ngrams
from features.representation import Representation
from features.semantic_id import UNKNOWN_CODE, SidContract
from features.store.snapshot import Snapshot
from features.store.versions import has_store, open_snapshot
from models.config import RepresentationConfig
from pipeline.explore_inputs import Places, most_shown, placed, read_items, read_shown, read_unit_vectors
from pipeline.explore_page import Explored, as_html
from pipeline.prefix_tree import code_order, mean_cosines, prefix_rows, prefix_starts


class Inputs(NamedTuple):
    """Places of Parquet files or data sets; None for what the page is to do without."""

    items: str
    impressions: str | None
    content: str | None


def run(options: argparse.Namespace) -> None:
    """Write the page and say where.

    Args:
        options: `place`, folder of an entity store or of a run; `source`, None where the store has one alone; `items`, `impressions`,
            `content`, places, None for what the run's folder has; `rows`, `depth`, `mapping` of the table; `out`, the HTML file, None
            for `explorer_SOURCE.html` beside the store.

    Raises:
        InputError: naming the file or option that is missing, damaged or does not fit.
    """
    place = Path(options.place)
    in_run = not has_store(place) and has_store(place / "store")
    store = place / "store" if in_run else place
    snapshot = open_snapshot(store)
    contract = snapshot.contract(options.source)
    inputs = _inputs(options, place if in_run else None, contract.source)
    page = Path(options.out) if options.out is not None else store.resolve().parent / f"explorer_{contract.source}.html"
    if not page.parent.is_dir():
        raise InputError(f"--out {page}: no such folder as {page.parent}")
    found = gather(snapshot, inputs, _table(contract, options.rows, options.depth, options.mapping))
    text = as_html(found).encode()
    write_durably(page, text)
    print("\n".join([*_summary(found), f"explorer: {page}, {len(text) / 2**20:.1f} MiB"]), flush=True)


def gather(snapshot: Snapshot, inputs: Inputs, table: Representation) -> Explored:
    """Read everything and put it into the order of the codes; items without a Semantic ID come last.

    Args:
        snapshot: the store's version.
        inputs: what there is beside it.
        table: whose rows are shown, of scheme prefix_ngram; its source is the one explored.

    Raises:
        InputError: as `run` says.
    """
    assert table.source is not None
    ids_S, codes_SL = _coded_items(snapshot, table.source)
    order = code_order(ids_S, codes_SL)
    ids_S, codes_SL = ids_S[order], codes_SL[order]
    starts, items = prefix_starts(codes_SL), read_items(inputs.items)
    ids_N = np.concatenate([ids_S, np.setdiff1d(items.ids, ids_S)])
    places = Places(ids_N)
    shown = None if inputs.impressions is None else read_shown(inputs.impressions, places)
    at, ranking = places.of(items.ids), most_shown(ids_N, shown)
    return Explored(
        version=snapshot.path,
        contract=snapshot.contract(table.source),
        codes_SL=codes_SL,
        starts=starts,
        ids_N=ids_N,
        listed=len(items.ids),
        names=placed(items.names, at, ranking),
        originals=placed(items.originals, at, ranking),
        shown=shown,
        cosines=None if inputs.content is None else mean_cosines(read_unit_vectors(inputs.content, places, len(ids_S)), starts),
        table=table,
        rows=prefix_rows(codes_SL, starts, table),
    )


def _inputs(options: argparse.Namespace, run_folder: Path | None, source: str) -> Inputs:
    """What was given, and else what stands at its place in a run's folder."""

    def choose(given: str | None, folder: str) -> str | None:
        known = run_folder is not None and has_dataset(run_folder / folder)
        return str(run_folder / folder) if given is None and known and run_folder is not None else given

    items = choose(options.items, "items")
    if items is None:
        raise InputError("--items is missing: the items' Parquet file or data set; or name a run's folder in place of its store")
    return Inputs(items, choose(options.impressions, "impressions"), choose(options.content, f"content/{source}"))


def _table(contract: SidContract, rows: int | None, depth: int | None, mapping: Mapping | None) -> Representation:
    """The table whose rows are shown: the recipes' defaults, and without `rows` so many that every prefix has its own."""
    if rows is not None and rows < 1:
        raise InputError(f"--rows {rows}: expected a positive number")
    default = RepresentationConfig(kind="semantic_id")
    depth = min(default.chosen_depth, contract.levels) if depth is None else depth
    keys = Ngrams("prefix_ngram", contract.levels, contract.codebook_size, depth, mapping or default.chosen_mapping)
    table_rows = keys.table_rows(keys.key_space if rows is None else rows)
    return Representation("semantic_id", "semantic_id", table_rows, source=contract.source, parameterization=keys)


def _coded_items(snapshot: Snapshot, source: str) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
    """Ids and codes of all items that have codes of this source, in stored order."""
    codes = snapshot.codes[source]
    known = codes[:, 0] != UNKNOWN_CODE
    if not known.any():
        raise InputError(f"{snapshot.path}: no item has a Semantic ID of source '{source}'")
    return snapshot.ids[known], codes[known]


def _summary(found: Explored) -> list[str]:
    lengths = " / ".join(map(str, range(1, len(found.starts))))
    prefixes = " / ".join(f"{len(each) - 1:,}" for each in found.starts[1:])
    return [
        f"explore: {found.contract.source}: {len(found.codes_SL):,} items with {prefixes} prefixes of {lengths} codes; "
        f"{found.collisions.unique_share:.1%} have a Semantic ID of their own",
        *(f"explore: {note}" for note in found.left_out()),
    ]
