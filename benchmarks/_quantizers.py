"""The quantizers that benchmarks/quantizers.py compares, ours and two libraries', behind one interface, and the figures of one of them."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from vector_quantize_pytorch import ResidualVQ

from models.quantizers.config import QuantizerConfig
from models.quantizers.fitting import fit

FAISS, RESIDUAL_VQ = "FAISS ResidualQuantizer, beam 1", "vector-quantize-pytorch ResidualVQ"
ITEMS_PER_CODE = 16  # in a batch of ResidualVQ: with fewer, codes die faster than they are put back
Array = NDArray[Any]


@dataclass(frozen=True)
class Trained:
    """A trained quantizer: float32 [N, D] to int64 codes [N, L] and back, and how long training took."""

    encode: Callable[[Array], Array]
    decode: Callable[[Array], Array]
    seconds: float


@dataclass(frozen=True)
class Figures:
    """What is compared.

    Attributes:
        error: sum of squared errors over the sum of squared distances to the mean, in the original space.
        held_out: the same of items that training has not seen; None where none were held out.
        usage, entropy_bits: per level.
        unique: share of the items whose Semantic ID no other item has.
        train_seconds: of training.
        items_per_second: encoded, one thread; set after all are trained, in turns.
    """

    error: float
    held_out: float | None
    usage: tuple[float, ...]
    entropy_bits: tuple[float, ...]
    unique: float
    train_seconds: float
    items_per_second: float


def train_ours(x_ND: Array, config: QuantizerConfig) -> Trained:
    """One of our quantizers."""
    started = time.perf_counter()
    model = fit(torch.from_numpy(x_ND), config)
    seconds = time.perf_counter() - started
    # In blocks, as stage assign does it.
    encode = lambda x: torch.cat([model.encode(block) for block in torch.from_numpy(x).split(8192)]).numpy()  # noqa: E731
    return Trained(encode, lambda codes: model.decode(torch.from_numpy(codes)).numpy(), seconds)


def train_faiss(x_ND: Array, levels: int, codebook_size: int) -> Trained:
    """FAISS's residual k-means, greedy in training and encoding, as prefixes need."""
    bits = int(np.log2(codebook_size))
    quantizer = faiss.ResidualQuantizer(x_ND.shape[1], levels, bits)
    quantizer.cp.min_points_per_centroid = 1  # it only warns of fewer, once per run of k-means
    quantizer.max_beam_size = 1
    started = time.perf_counter()
    quantizer.train(x_ND)
    seconds = time.perf_counter() - started

    def encode(x: Array) -> Array:
        codes: Array = faiss.unpack_bitstrings(quantizer.compute_codes(x), levels, bits)
        return codes.astype(np.int64)

    return Trained(encode, lambda codes: quantizer.decode(faiss.pack_bitstrings(codes.astype(np.int32), bits)), seconds)


def train_residual_vq(x_ND: Array, levels: int, codebook_size: int, epochs: int) -> Trained:
    """Codebooks by exponential moving averages, from k-means on a sample, dead codes replaced; as many epochs as ours has at most.

    Of the settings tried (decay .8 to .99, threshold .1 to 2, batches of 512 to 4,096) these have the best error with all codes in use.
    """
    torch.manual_seed(0)
    model = ResidualVQ(
        dim=x_ND.shape[1],
        num_quantizers=levels,
        codebook_size=codebook_size,
        kmeans_init=True,
        kmeans_iters=20,
        threshold_ema_dead_code=2,
        decay=0.8,
    )
    x = torch.from_numpy(x_ND)
    started = time.perf_counter()
    with torch.no_grad():
        model.train()
        model(x[torch.randperm(len(x))[: 64 * codebook_size]])  # k-means
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(ITEMS_PER_CODE * codebook_size):
                model(x[rows])
        model.eval()
    seconds = time.perf_counter() - started

    @torch.inference_mode()
    def encode(items: Array) -> Array:
        return torch.cat([model(block)[1] for block in torch.from_numpy(items).split(8192)]).numpy()

    @torch.inference_mode()
    def decode(codes: Array) -> Array:
        vectors: Array = model.get_output_from_indices(torch.from_numpy(codes)).numpy()
        return vectors

    return Trained(encode, decode, seconds)


def figures(trained: Trained, x_ND: Array, codebook_size: int, items_per_second: float, held_out_ND: Array | None) -> Figures:
    """All figures of one quantizer on the vectors that it was trained on."""
    codes_NL = trained.encode(x_ND)
    shares = [np.bincount(codes_N, minlength=codebook_size) / len(codes_NL) for codes_N in codes_NL.T]
    _, sizes = np.unique(codes_NL, axis=0, return_counts=True)
    return Figures(
        error=_error(trained, x_ND, x_ND.mean(0)),
        held_out=None if held_out_ND is None else _error(trained, held_out_ND, x_ND.mean(0)),
        usage=tuple(float((share > 0).mean()) for share in shares),
        entropy_bits=tuple(float(-(share[share > 0] * np.log2(share[share > 0])).sum()) for share in shares),
        unique=float((sizes == 1).sum() / len(codes_NL)),
        train_seconds=trained.seconds,
        items_per_second=items_per_second,
    )


def _error(trained: Trained, x_ND: Array, mean_D: Array) -> float:
    squared = spread = 0.0
    for block in np.array_split(x_ND, -(-len(x_ND) // 8192)):
        squared += float(np.square(block - trained.decode(trained.encode(block)), dtype=np.float64).sum())
        spread += float(np.square(block - mean_D, dtype=np.float64).sum())
    return squared / spread
