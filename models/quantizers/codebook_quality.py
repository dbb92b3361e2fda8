"""How well a quantizer describes items: error, use of the codes and distinct ids, added up batch by batch over all ranks.

Dimensions: N items, D content width, L levels, K codes per level.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.quantizers.collectives import gather_rows, rank, sum_over_ranks
from models.quantizers.config import QuantizerConfig
from models.quantizers.quantizer import Quantizer
from models.quantizers.vectors import Vectors, as_vectors

UNIQUE_ITEMS = 1 << 22  # the share of unique ids is of a sample that keeps about this many items, of all where there are no more
COSINE_ITEMS = 200_000  # items that the mean cosines are of
PENDING_BATCHES = 64  # batches whose ids wait until those outside of the sample are dropped, which stalls a GPU
MIX = -7046029254386353131  # an odd number of 64 random bits


@dataclass(frozen=True)
class CodebookQuality:
    """How well a codebook describes items; low error alone implies neither full use of level 1 nor distinct ids.

    Attributes:
        items: number of items measured.
        reconstruction_error: squared error of the decoded vectors over the squared distance to their mean; 0 is perfect, 1 is no better
            than the mean.
        usage: per level, share of the K codes that some item has.
        entropy_bits: per level, entropy of the codes' distribution, at most log2 K.
        unique_share: share of the items whose Semantic ID no other item has; with more than `UNIQUE_ITEMS` items, of those of a uniform
            sample of the Semantic IDs.
        prefix_cosine: mean cosine of the content of two items that share a prefix of 0, 1, .. L codes; null where no two do. With more
            than `COSINE_ITEMS` items, of a uniform sample of these.
    """

    items: int
    reconstruction_error: float
    usage: tuple[float, ...]
    entropy_bits: tuple[float, ...]
    unique_share: float
    prefix_cosine: tuple[float | None, ...]


class Figures(NamedTuple):
    """What a tally comes to; as in CodebookQuality, and `largest_share`: per level, the share of the items that have the commonest code."""

    reconstruction_error: float
    usage: tuple[float, ...]
    entropy_bits: tuple[float, ...]
    largest_share: tuple[float, ...]
    unique_share: float


class Tally:
    """Running sums over batches of items, on one rank; `total` adds up the ranks. Adding a batch waits for no device.

    Args:
        levels: L.
        codebook_size: K.
        dim: D.
        rows: items that will be added over all ranks; decides about the sample behind the share of unique ids.
        device: of the batches.
    """

    def __init__(self, levels: int, codebook_size: int, dim: int, rows: int, device: torch.device) -> None:
        self.counts_LK = torch.zeros(levels, codebook_size, dtype=torch.int64, device=device)
        self.sums = torch.zeros(3 + dim, dtype=torch.float64, device=device)  # items, squared errors, squares, and the vectors
        self._keys: list[Tensor] = []
        self._pending: list[Tensor] = []
        self._sampled = 1 << max(0, (rows - 1) // UNIQUE_ITEMS).bit_length()  # one Semantic ID in so many is in the sample

    def add(self, y_ND: Tensor, squared_error: Tensor, codes_NL: Tensor) -> None:
        """Add a batch: its vectors, the sum of their squared reconstruction errors (a scalar), and codes."""
        self.counts_LK.scatter_add_(1, codes_NL.T, torch.ones_like(codes_NL.T))
        self.sums[0] += len(y_ND)
        self.sums[1] += squared_error
        self.sums[2] += y_ND.square().sum(dtype=torch.float64)
        self.sums[3:] += y_ND.sum(0, dtype=torch.float64)
        self._pending.append(self._packed(codes_NL))
        if self._sampled > 1 and len(self._pending) == PENDING_BATCHES:
            self._keep_sample()

    def total(self) -> "Tally":
        """The tally of all ranks, on every rank; a collective call."""
        other = object.__new__(Tally)
        other.counts_LK, other.sums = sum_over_ranks(self.counts_LK.clone()), sum_over_ranks(self.sums.clone())
        self._keep_sample()
        other._keys, other._pending, other._sampled = [gather_rows(torch.cat(self._keys))], [], self._sampled
        return other

    def figures(self) -> Figures:
        """The figures of what was added."""
        items, error, squares = self.sums[:3].tolist()
        spread = squares - float(self.sums[3:].square().sum()) / max(items, 1)
        shares_LK = self.counts_LK.double() / max(items, 1)
        self._keep_sample()
        _, sizes = torch.cat(self._keys).unique(return_counts=True)
        return Figures(
            # Content that is one vector over and over leaves nothing to explain but rounding.
            reconstruction_error=error / spread if spread > 1e-9 * squares else 0.0,
            usage=tuple((shares_LK > 0).double().mean(1).tolist()),
            entropy_bits=tuple((torch.special.entr(shares_LK).sum(1) / np.log(2)).tolist()),
            largest_share=tuple(shares_LK.amax(1).tolist()),
            unique_share=int((sizes == 1).sum()) / max(int(sizes.sum()), 1),
        )

    def state(self) -> dict[str, Any]:
        """The sums of all ranks, for `load`; a collective call."""
        total = self.total()
        return {"counts": total.counts_LK, "sums": total.sums, "keys": total._keys[0]}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave, which rank 0 then holds."""
        if rank() == 0:
            self.counts_LK.copy_(state["counts"])
            self.sums.copy_(state["sums"])
            self._keys = [state["keys"].to(self.sums.device)]

    def _packed(self, codes_NL: Tensor) -> Tensor:
        """One number per Semantic ID, int64 [N]: exact where K^L fits, else a hash of 64 bits."""
        levels, size = self.counts_LK.shape
        factor = size if levels * np.log2(size) < 63 else MIX
        packed_N = codes_NL[:, 0].clone()
        for level in range(1, levels):
            packed_N = packed_N * factor + codes_NL[:, level]
        return packed_N

    def _keep_sample(self) -> None:
        keys_N = torch.cat([*self._pending, self.counts_LK.new_zeros(0)])
        if self._sampled > 1:  # by the id, so that the items of one are in the sample together or not at all
            keys_N = keys_N[(keys_N * MIX >> 40) & (self._sampled - 1) == 0]
        self._keys.append(keys_N)
        self._pending = []


def measure(model: Quantizer, content: Tensor | Vectors, device: torch.device | None = None) -> CodebookQuality:
    """Quality figures of `model` on content vectors, N >= 1, read once in row order and once for the cosines' sample; a collective call."""
    vectors, device = as_vectors(content), device or model.mean_D.device
    tally = Tally(model.config.levels, model.config.codebook_size, vectors.dim, vectors.rows, device)
    for block in vectors.blocks():
        x_ND = block.to(device)
        codes_NL = model.encode(x_ND)
        # The mean matters not to the error, but its square would swallow the digits of the spread.
        tally.add(x_ND - model.mean_D, (x_ND - model.decode(codes_NL)).square().sum(dtype=torch.float64), codes_NL)
    figures = tally.total().figures()
    return CodebookQuality(
        items=vectors.rows,
        reconstruction_error=figures.reconstruction_error,
        usage=figures.usage,
        entropy_bits=figures.entropy_bits,
        unique_share=figures.unique_share,
        prefix_cosine=_prefix_cosines(model, vectors.sample(COSINE_ITEMS, model.config.seed).to(device)),
    )


def encode_in_batches(model: Quantizer, x_ND: Tensor, batch_size: int = 8192) -> Tensor:
    """Semantic IDs, int64 [N, L], of any number of content vectors in bounded extra memory."""
    return torch.cat([model.encode(batch) for batch in x_ND.split(batch_size)])


def _prefix_cosines(model: Quantizer, x_ND: Tensor) -> tuple[float | None, ...]:
    codes_NL = encode_in_batches(model, x_ND)
    unit_ND = torch.nn.functional.normalize(x_ND, dim=1)
    group_N = torch.zeros(len(x_ND), dtype=torch.int64, device=x_ND.device)
    cosines = [_mean_cosine(unit_ND, group_N)]
    for codes_N in codes_NL.T:
        # Groups by a prefix are those by the prefix before, divided by one more code.
        group_N = (group_N * model.config.codebook_size + codes_N).unique(return_inverse=True)[1]
        cosines.append(_mean_cosine(unit_ND, group_N))
    return tuple(cosines)


def _mean_cosine(unit_ND: Tensor, group_N: Tensor) -> float | None:
    """Mean over all pairs within groups; a group's pairs follow from the length of its sum, ||s||^2 = n + 2 * (sum over pairs)."""
    sizes_G = group_N.bincount()
    pairs = int((sizes_G * (sizes_G - 1)).sum())
    if not pairs:
        return None
    sums_GD = torch.zeros(len(sizes_G), unit_ND.shape[1], dtype=torch.float64, device=unit_ND.device)
    sums_GD.index_add_(0, group_N, unit_ND.double())
    own = float(unit_ND.square().sum(dtype=torch.float64))
    return (float(sums_GD.square().sum()) - own) / pairs


def collapsed(usage: Sequence[float], largest_share: Sequence[float], config: QuantizerConfig) -> dict[int, str]:
    """Levels, from 1, that make poor use of their codes, each with what is wrong: codes unused, or one that has too many items."""
    problems = {}
    for level, (used, largest) in enumerate(zip(usage, largest_share, strict=True), start=1):
        if used < config.min_usage:
            problems[level] = f"level {level} uses {used:.1%} of its {config.codebook_size} codes"
        elif largest > max(config.max_code_share, 2 / config.codebook_size):
            problems[level] = f"one code of level {level} has {largest:.1%} of the items"
    return problems
