"""Aligns a refreshed codebook with the one before it, so that codes, and the table rows trained for their prefixes, keep their meaning.

After arXiv 2604.13273, as a one-to-one matching of codes level by level. Dimensions: N items that both codebooks code, L levels, K codes.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from models.quantizers.quantizer import Quantizer

Int64 = NDArray[np.int64]


def align(new: Quantizer, old_codes_NL: Int64, new_codes_NL: Int64) -> Int64:
    """Rename the codes of `new` so that as many items as possible keep theirs, the coarse levels before the fine ones.

    Args:
        new: relabelled in place, which changes nothing but the numbers of its codes.
        old_codes_NL: int64 codes of the items by the codebook before, with as many levels and codes per level.
        new_codes_NL: codes of the same items by `new`, before.

    Returns:
        Codes of the items by the relabelled `new`.
    """
    aligned_NL = np.empty_like(new_codes_NL)
    for level, new_of_old_K in enumerate(matchings(old_codes_NL, new_codes_NL, new.config.codebook_size)):
        new.relabel(level, torch.from_numpy(new_of_old_K))
        aligned_NL[:, level] = new_of_old_K[new_codes_NL[:, level]]
    return aligned_NL


def matchings(old_codes_NL: Int64, new_codes_NL: Int64, codebook_size: int) -> list[Int64]:
    """Per level the permutation, int64 [K], that renames the new codes.

    At each level it has the largest number of items that keep their whole prefix; among equally large ones, and for codes that no such item
    has, the largest number of items that keep the level's code whatever went before. Memory K^2 numbers, time up to K^3.
    """
    items = len(old_codes_NL)
    keeps_N = np.ones(items, bool)
    permutations = []
    for old_N, new_N in zip(old_codes_NL.T, new_codes_NL.T, strict=True):
        pairs_N = new_N * codebook_size + old_N
        kept, all_of_them = (np.bincount(pairs, minlength=codebook_size**2) for pairs in (pairs_N[keeps_N], pairs_N))
        # An item that keeps its prefix outweighs all that do not together.
        weights_KK = (kept * (items + 1.0) + all_of_them).reshape(codebook_size, codebook_size)
        permutation_K = linear_sum_assignment(weights_KK, maximize=True)[1].astype(np.int64)
        permutations.append(permutation_K)
        keeps_N &= permutation_K[new_N] == old_N
    return permutations


def kept_prefixes(old_codes_NL: Int64, new_codes_NL: Int64) -> tuple[float, ...]:
    """Share of the items whose prefix of 1, 2, .. L codes is the same in both."""
    if not len(old_codes_NL):
        return (0.0,) * old_codes_NL.shape[1]
    return tuple(np.logical_and.accumulate(old_codes_NL == new_codes_NL, axis=1).mean(0).tolist())
