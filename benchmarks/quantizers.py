"""Our quantizers beside FAISS ResidualQuantizer (beam 1) and vector-quantize-pytorch's ResidualVQ, on the same vectors and one thread.

Bars for the default, RQ-VAE: reconstruction error no higher than either's, usage at least 95% at every level, share of unique ids at least
either's, encoding at least as many items per second as FAISS. Data: content data sets that stage embed wrote (`--content DIR`, repeatable,
e.g. runs/ifdb/content/text), and the simulated world's vectors. On the former a second training on nine tenths of the items also gives the
error on the last tenth, which has no bar.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
from pathlib import Path

import faiss
import numpy as np
import torch
from _figures import Row, median_seconds, parser, row, show
from _quantizers import FAISS, RESIDUAL_VQ, Array, Figures, Trained, figures, train_faiss, train_ours, train_residual_vq
from rich.console import Console
from rich.table import Table

from features.content import read_content
from features.sources.topic_tree import tree_sum
from models.quantizers.config import QuantizerConfig

DEFAULT = "rqvae"
LEVELS = 3
MIN_USAGE = 0.95
HELD_OUT_ITEMS = 50_000  # data sets of no more items are trained on a second time, without a tenth of them
ROUNDS, ENCODED = 5, 20_000  # interleaved rounds of encoding, and items of each
NOISE = 0.1  # share of the simulated vectors' variance that is the items' own, beside the topic tree's 1
TREE = (16, 12, 10)
CURVE: dict[str, dict[str, object]] = {  # settings of the RQ-VAE whose error, unique ids and speed trade off against each other
    "latent 96": {"latent_dim": 96},
    "latent 192": {"latent_dim": 192},
    "10 epochs": {"epochs": 10},
    "60 epochs": {"epochs": 60},
    "encoder at 0.1": {"encoder_rate": 0.1},
    "encoder at 1": {"encoder_rate": 1.0},
    "no hidden layer": {"hidden_dims": ()},
}


def main() -> None:
    """Train every quantizer on every data set, print all figures, then the bars."""
    options = _arguments()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    rows: list[Row] = []
    for name, x_ND, sizes in _data(options):
        small = len(x_ND) <= HELD_OUT_ITEMS  # larger ones would take hours
        for size in sizes:
            curve = options.curve and small and size == max(sizes)
            found = compare(x_ND, size, curve=curve, hold_out=small and not options.small, epochs=6 if options.small else None)
            title = f"{name}, {len(x_ND):,} x {x_ND.shape[1]}, {LEVELS} x {size}"
            _print(title, found)
            rows += _bars(title, found)
    show("quantizers: the default against both libraries", rows, options.json)


def compare(x_ND: Array, size: int, *, curve: bool, hold_out: bool, epochs: int | None) -> dict[str, Figures]:
    """Figures of every quantizer; the error on held-out items comes from a second training on nine tenths."""
    shortened: dict[str, object] = {} if epochs is None else {"epochs": epochs}
    settings: dict[str, dict[str, object]] = {"rqvae": shortened, "rqkmeans": {"kind": "rqkmeans"}, "rqfsq": {"kind": "rqfsq", **shortened}}
    if curve:
        settings |= {f"rqvae, {name}": shortened | change for name, change in CURVE.items()}
    configs = {
        name: QuantizerConfig.model_validate({"levels": LEVELS, "codebook_size": size} | values) for name, values in settings.items()
    }
    order = np.random.default_rng(0).permutation(len(x_ND))
    held_ND, kept_ND = x_ND[order[: len(x_ND) // 10]], x_ND[order[len(x_ND) // 10 :]]

    def train_all(vectors_ND: Array) -> dict[str, Trained]:
        libraries = {
            FAISS: train_faiss(vectors_ND, LEVELS, size),
            RESIDUAL_VQ: train_residual_vq(vectors_ND, LEVELS, size, configs[DEFAULT].epochs),
        }
        return {name: train_ours(vectors_ND, config) for name, config in configs.items()} | libraries

    trained = train_all(x_ND)
    timed_ND = np.ascontiguousarray(x_ND[:ENCODED])
    seconds = median_seconds({name: lambda one=one: one.encode(timed_ND) for name, one in trained.items()}, ROUNDS)  # type: ignore[misc]
    on_new = {name: figures(one, kept_ND, size, 0.0, held_ND) for name, one in train_all(kept_ND).items()} if hold_out else {}
    found = {}
    for name, one in trained.items():
        measured = figures(one, x_ND, size, len(timed_ND) / seconds[name], None)
        found[name] = measured if name not in on_new else Figures(**{**vars(measured), "held_out": on_new[name].held_out})
    return found


def simulated(items: int, dim: int) -> Array:
    """Content of the simulated world: a leaf of the topic tree drawn for each item, and a tenth of its variance as noise."""
    rng = np.random.default_rng(0)
    leaf = rng.integers(0, int(np.prod(TREE)), items)
    vectors: Array = tree_sum(TREE, dim, rng).astype(np.float32)[leaf]
    vectors += np.sqrt(NOISE) * rng.standard_normal(vectors.shape, dtype=np.float32)
    return vectors


def _data(options: argparse.Namespace) -> list[tuple[str, Array, tuple[int, ...]]]:
    if options.small:
        return [("simulated", simulated(20_000, 64), (256,))]
    given = [(f"{folder.parents[1].name}, {folder.name}", read_content(folder).vectors_ND, (64, 128, 256)) for folder in options.content]
    return [*given, ("simulated", simulated(200_000, 256), (256,))]


def _bars(title: str, found: dict[str, Figures]) -> list[Row]:
    ours, rows = found[DEFAULT], []
    for name in (FAISS, RESIDUAL_VQ):
        other, short = found[name], name.split()[0]
        better = ours.error <= other.error
        rows.append(row(f"{title}: error (of {short})", ours.error, "of variance", baseline=other.error, bar="<= 1", holds=better))
        more = ours.unique >= other.unique
        rows.append(row(f"{title}: unique ids (of {short})", ours.unique, "of items", baseline=other.unique, bar=">= 1", holds=more))
    rows.append(row(f"{title}: lowest usage", min(ours.usage), "of K", bar=">= .95", holds=min(ours.usage) >= MIN_USAGE))
    speed, faiss_speed = ours.items_per_second, found[FAISS].items_per_second
    rows.append(row(f"{title}: encoding (of FAISS)", speed, "items/s", baseline=faiss_speed, bar=">= 1", holds=speed >= faiss_speed))
    return rows


def _print(title: str, found: dict[str, Figures]) -> None:
    columns = ("quantizer", "error", "error, held out", "unique ids", "usage", "entropy, bits", "training, s", "encoding, items/s")
    table = Table(*columns, title=title)
    for name, one in found.items():
        table.add_row(
            name,
            f"{one.error:.4f}",
            "" if one.held_out is None else f"{one.held_out:.4f}",
            f"{one.unique:.4f}",
            " ".join(f"{share:.3f}" for share in one.usage),
            " ".join(f"{bits:.2f}" for bits in one.entropy_bits),
            f"{one.train_seconds:.1f}",
            f"{one.items_per_second:,.0f}",
        )
    Console(width=160).print(table)


def _arguments() -> argparse.Namespace:
    options = parser(__doc__ or "")
    options.add_argument("--content", type=Path, action="append", default=[], help="a content data set; repeatable")
    options.add_argument("--curve", action="store_true", help="also the RQ-VAE at other settings, at the largest K of each data set")
    return options.parse_args()


if __name__ == "__main__":
    main()
