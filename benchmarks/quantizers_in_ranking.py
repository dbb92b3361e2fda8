"""NE of rankers whose Semantic IDs come from different quantizers: on the simulated world, and on real logs with `--log RECIPE=DIR`.

Judged as a stream: each batch is scored before it is trained on, second half. Beside the default RQ-VAE: its encoder trained too, at a
tenth of the step size and at the whole; RQ-KMeans; RQ-FSQ; and random hashing at the same number of rows. Bar: the 95% interval of the
default's change against random hashing, seeds paired and users resampled, does not lie above zero.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from _figures import Row, show
from _streams import Changes, arguments, figures, logs, prepared, stream, with_codes

from pipeline.ranks import start_process_group

HASH, DEFAULT = "random hash", "rqvae"
QUANTIZERS: dict[str, Changes] = {
    DEFAULT: {},
    "rqvae, encoder at 0.1": {"quantize.encoder_rate": 0.1},
    "rqvae, encoder at 1": {"quantize.encoder_rate": 1.0},
    "rqkmeans": {"quantize.kind": "rqkmeans"},
    "rqfsq": {"quantize.kind": "rqfsq"},
}


def main() -> None:
    """Make the data, train every quantizer once and a ranker with every seed, print the tables."""
    options = arguments(__doc__ or "")
    torch.set_num_threads(1)
    device = start_process_group()
    seeds = range(2 if options.small else options.seeds)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for log, (recipe, changes) in logs(options).items():
            config = prepared(recipe, Path(folder) / log, changes)
            losses = {HASH: np.stack([stream(config, seed, {"kind": "random_hash"}, device) for seed in seeds])}
            for name, change in QUANTIZERS.items():
                coded = with_codes(config, name.replace(" ", "-").replace(",", ""), change)
                losses[name] = np.stack([stream(coded, seed, {"kind": "semantic_id"}, device) for seed in seeds])
            rows += figures(log, config, losses, lambda name: name == DEFAULT)
            ours = {name: losses[name] for name in QUANTIZERS}
            rows += figures(f"{log}, among quantizers", config, ours, lambda name: False)
    show(f"quantizers in ranking, {len(seeds)} seeds, NE of the stream's second half (change: 95% interval)", rows, options.json)


if __name__ == "__main__":
    main()
