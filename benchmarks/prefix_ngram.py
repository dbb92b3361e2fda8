"""Keys per second of every token parameterization on one core, beside plain NumPy and a copy of the same bytes.

Bar: prefix-ngram into H rows makes at least 150M keys/s, with each mapping. 1M items of K = 2048 codes, H = 50M rows, in batches of
100,000: about the items of 1,000 examples with 100 history items each.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from _figures import Row, arguments, median_seconds, row, show
from numpy.typing import NDArray

from features.horner import Keys
from features.parameterization import Ngrams, Parameterization, Scheme
from features.semantic_id import SidContract
from features.sid_pieces import SidPieces, train_pieces

K, H = 2048, 50_000_000
BATCH = 100_000
BAR = 150e6
OTHERS: tuple[Scheme, ...] = ("trigram", "fourgram", "all_bigrams", "unigram", "bigram")


def main() -> None:
    """Print the tables for L = 6 and L = 3."""
    options = arguments(__doc__ or "")
    items, rounds = (200_000, 5) if options.small else (1_000_000, 9)
    rows: list[Row] = []
    for levels in (6, 3):
        sids = np.random.default_rng(0).integers(0, K, (2_000 if options.small else 20_000, levels)).astype(np.uint16)
        codes = sids[np.random.default_rng(1).integers(0, len(sids), items)]
        with tempfile.TemporaryDirectory() as folder:
            rows += _figures(levels, codes, _schemes(levels, sids, Path(folder)), rounds)
    show(f"token parameterizations, {items:,} items, K = {K}, H = {H:,}, one core", rows, options.json)


def _schemes(levels: int, sids: NDArray[np.uint16], folder: Path) -> dict[str, Parameterization]:
    schemes: dict[str, Parameterization] = {
        f"prefix_ngram, {mapping}": Ngrams("prefix_ngram", levels, K, levels, mapping) for mapping in ("modulo", "exact_coarse", "nested")
    }
    schemes |= {scheme: Ngrams(scheme, levels, K) for scheme in OTHERS if scheme != "fourgram" or levels > 3}
    contract = SidContract(levels, K, "benchmark", "none", 1)
    train_pieces(folder / "pieces", contract, *np.unique(sids, axis=0, return_counts=True), levels * K + 5_000)
    return schemes | {"spm, Semantic IDs met before": SidPieces.load(folder / "pieces", contract)}


def _figures(levels: int, codes: NDArray[np.uint16], schemes: dict[str, Parameterization], rounds: int) -> list[Row]:
    tables = {name: scheme.table_rows(H) for name, scheme in schemes.items()}
    counts = {name: _made(scheme.keys(codes, tables[name])) for name, scheme in schemes.items()}
    batches = [codes[start : start + BATCH] for start in range(0, len(codes), BATCH)]
    actions: dict[str, Callable[[], object]] = {
        name: partial(_each, partial(scheme.keys, rows=tables[name]), batches) for name, scheme in schemes.items()
    }
    source = np.ones((BATCH, levels), np.int64)
    actions["copy"] = partial(_each, lambda batch: source.copy(), batches)
    actions["plain"] = partial(_each, partial(_plain, rows=H + 1), batches)
    seconds = median_seconds(actions, rounds)
    copied, plain = (codes.size / seconds[name] for name in ("copy", "plain"))
    figures = [row(f"L={levels}, plain NumPy Horner, modulo (of a copy of the bytes)", plain, "keys/s", baseline=copied)]
    for name, count in counts.items():
        rate, title = count / seconds[name], f"L={levels}, {name} (of a copy of the bytes)"
        if name.startswith("prefix_ngram"):
            figures.append(row(title, rate, "keys/s", baseline=copied, bar=">= 150M keys/s", holds=rate >= BAR))
            figures.append(row(f"L={levels}, {name} (of plain NumPy)", rate, "keys/s", baseline=plain))
        else:
            figures.append(row(title, rate, "keys/s", baseline=copied))
    return figures


def _each(make: Callable[[NDArray[np.uint16]], object], batches: list[NDArray[np.uint16]]) -> None:
    for batch in batches:
        make(batch)


def _made(keys: Keys) -> int:
    return int(np.count_nonzero(keys >= 0))


def _plain(codes: NDArray[np.uint16], rows: int) -> Keys:
    """Table 1 as one would write it, whole columns at a time."""
    keys = np.empty(codes.shape, np.int64)
    keys[:, 0] = codes[:, 0].astype(np.int64) % rows
    for level in range(1, codes.shape[1]):
        keys[:, level] = (K * keys[:, level - 1] + K + codes[:, level]) % rows
    return keys


if __name__ == "__main__":
    main()
