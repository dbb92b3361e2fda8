"""NE of each mapping of prefixes to rows, mean and spread over seeds: on the simulated world, and on real logs with `--log RECIPE=DIR`.

A seed changes the model's start and the names of the codes: each level's codes are permuted, which means nothing to the data but changes
which prefixes collide. Judged as a stream: each batch is scored before it is trained on, second half. Bar: the 95% interval of the
default's change against the paper's modulo, seeds paired and users resampled, does not lie above zero.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from _figures import Row, show
from _streams import arguments, figures, linked, logs, prepared, stream, with_codes
from numpy.typing import NDArray

from features.store.publish import publish
from features.store.versions import open_snapshot
from pipeline import recipe as recipes
from pipeline.config import RunConfig
from pipeline.ranks import start_process_group

MAPPINGS = ("modulo", "exact_coarse", "nested")  # the first one is the baseline
DEFAULT = "exact_coarse"
SMALL_TABLE = 1000  # rows of a second table on the simulated world, where nearly all deep prefixes collide


def main() -> None:
    """Make the data, train every mapping with every seed, print the table."""
    options = arguments(__doc__ or "")
    torch.set_num_threads(1)
    device = start_process_group()
    seeds = range(2 if options.small else options.seeds)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for log, (recipe, changes) in logs(options).items():
            config = with_codes(prepared(recipe, Path(folder) / log, changes), "coded", {})
            renamed = [_renamed_codes(config, seed) for seed in seeds]
            for budget in [config.model.rows] + ([SMALL_TABLE] if log == "simulated" and not options.small else []):
                tables = {mapping: {"kind": "semantic_id", "depth": 3, "mapping": mapping, "rows": budget} for mapping in MAPPINGS}
                losses = {
                    mapping: np.stack([stream(one, seed, table, device) for seed, one in zip(seeds, renamed, strict=True)])
                    for mapping, table in tables.items()
                }
                rows += figures(f"{log}, {budget:,} rows", config, losses, lambda name: name == DEFAULT)
    show(f"mappings of prefixes to rows, {len(seeds)} seeds, NE of the stream's second half (change: 95% interval)", rows, options.json)


def _renamed_codes(config: RunConfig, seed: int) -> RunConfig:
    """The same log and store, with the codes of each level permuted."""
    workdir, store = linked(config, f"seed-{seed}"), open_snapshot(config.path("store"))
    contract = store.contract()
    names = np.random.default_rng(seed).permuted(np.tile(np.arange(contract.codebook_size), (contract.levels, 1)), axis=1)
    renamed = ((ids, {contract.source: _renamed(codes[contract.source], names)}) for ids, codes in store.batches(1 << 18))
    publish(workdir / "store", renamed, [contract])
    return recipes.with_overrides(config, {"workdir": str(workdir)})


def _renamed(codes: NDArray[np.uint16], names: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.stack([names[level][codes[:, level]] for level in range(len(names))], axis=1)


if __name__ == "__main__":
    main()
