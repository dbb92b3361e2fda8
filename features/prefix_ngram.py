"""Semantic ID codes to embedding table rows: the prefix-ngram keys of paper A (arXiv 2504.02137, table 1)."""

import math

import numpy as np
import numpy.typing as npt

from features.errors import InputError

INT64_END = 1 << 63
CODES_END = 1 << 16  # codes are uint16, and an unknown item's are 65535 whatever K is
BLOCK = 1 << 14  # rows worked on at once: their keys and temporaries stay in the processor's cache

Codes = npt.NDArray[np.integer]
Keys = npt.NDArray[np.int64]


def prefix_ngram_keys(codes: Codes, *, depth: int, codebook_size: int, rows: int | None = None) -> Keys:
    """Keys of the prefixes c_1, c_1 c_2, ... c_1..c_depth, modulo the table's rows.

    key_i = sum_{t<=i} K^(i-t) (c_t + 1) - 1, i = 1..depth (0-based rows). Without `rows` the ranges of the prefix lengths are disjoint and
    contiguous. The remainder is taken inside the Horner recurrence key_i = K key_(i-1) + K + c_i, so it is exact where K^depth overflows.
    A `rows` that shares a factor with K loses the coarse codes: round it with `coprime_rows`.

    Example: K = 4, codes (1, 3), depth 2: keys 1 and 4 * 2 + 4 - 1 = 11.

    Args:
        codes: integer [N, L], each in [0, K). An item without a Semantic ID (`UNKNOWN_CODE` in each level) gets meaningless keys, which
            may lie outside the table: the caller must overwrite them with its reserved key.
        depth: number of prefixes, 1..L.
        codebook_size: K.
        rows: H, table rows; None for the whole range.

    Returns:
        int64 [N, depth], C-contiguous, each in [0, rows).

    Raises:
        InputError: if depth exceeds L, or the arithmetic would overflow int64.
    """
    _check(codes, depth, codebook_size)
    K = codebook_size
    end = sum(K**level for level in range(1, depth + 1))
    if rows is None and end > INT64_END:
        raise InputError(f"prefix-ngram of depth {depth} with codebook_size {K} has {end} keys, more than int64 holds: give rows")
    if rows is not None and (rows < 1 or (rows - 1) * K + K + CODES_END >= INT64_END):
        raise InputError(f"rows {rows} with codebook_size {K} is outside what int64 arithmetic can hold")
    return _horner(codes, depth, K, [K] * depth, [rows] * depth, [0] * depth)


def exact_coarse_keys(codes: Codes, *, depth: int, codebook_size: int, rows: int) -> Keys:
    """Keys with level 1 on its own K rows and each deeper prefix length hashed into an equal share of the other rows.

    With q_i = sum_{t<=i} K^(i-t) c_t, the number of the prefix within its length, and S the share of `share_rows`:
    key_1 = c_1, key_i = K + (i-2) S + q_i mod S. A length is free of collisions if K^i <= S. Departs from table 1 in that coarse prefixes
    never collide with finer ones; at equal `rows` this lowers the variance between seeds.

    Args:
        codes: integer [N, L], each in [0, K); what is said of unknown items at `prefix_ngram_keys` holds here.
        depth: number of prefixes, 1..L.
        codebook_size: K.
        rows: H, table rows; all keys are below.

    Returns:
        int64 [N, depth], C-contiguous.

    Raises:
        InputError: if depth exceeds L, or rows are too few.
    """
    _check(codes, depth, codebook_size)
    K = codebook_size
    share = share_rows(depth=depth, codebook_size=K, rows=rows)
    if share * K + CODES_END >= INT64_END:
        raise InputError(f"rows {rows} with codebook_size {K} is outside what int64 arithmetic can hold")
    offsets = [0] + [K + index * share for index in range(depth - 1)]
    return _horner(codes, depth, K, [0] * depth, [None] + [share] * (depth - 1), offsets)


def share_rows(*, depth: int, codebook_size: int, rows: int) -> int:
    """S, rows of each deeper level in `exact_coarse_keys`: the largest number <= (rows - K) / (depth - 1) without a common factor with K.

    Returns:
        S >= 1; 0 for depth 1, which has no deeper level.

    Raises:
        InputError: if `rows` leaves no row for a deeper level.
    """
    if rows < codebook_size + depth - 1:
        raise InputError(
            f"{rows} rows are too few for depth {depth}: level 1 alone takes codebook_size {codebook_size}, each deeper level 1"
        )
    share = (rows - codebook_size) // (depth - 1) if depth > 1 else 0
    while share > 1 and math.gcd(share, codebook_size) > 1:
        share -= 1
    return share


def coprime_rows(rows: int, codebook_size: int) -> int:
    """The smallest number >= `rows` that shares no factor with K: a remainder modulo it depends on every code of a prefix.

    Modulo a divisor of K^m only the last m codes of a prefix count, so that items which share nothing but fine codes would share rows.
    """
    while math.gcd(rows, codebook_size) > 1:
        rows += 1
    return rows


def _horner(codes: Codes, depth: int, K: int, carries: list[int], moduli: list[int | None], offsets: list[int]) -> Keys:
    """key_i = (K key_(i-1) + carry_i + c_i) mod moduli_i, with key_1 = c_1 mod moduli_1; offsets are added to what is returned alone."""
    keys = np.empty((len(codes), depth), np.int64)
    quotients = np.empty(min(BLOCK, len(codes)), np.int64)
    for start in range(0, len(codes), BLOCK):
        block = codes[start : start + BLOCK, :depth].astype(np.int64)
        quotient = quotients[: len(block)]
        column = block[:, 0].copy()
        end = K  # one above the largest value that `column` can hold
        for level, modulus in enumerate(moduli):
            if level:
                column *= K
                column += block[:, level]
                column += carries[level]
                end = (end - 1) * K + carries[level] + K
            if modulus is not None and end > modulus:
                # A division by one number is vectorised in NumPy, the remainder is not.
                np.floor_divide(column, modulus, out=quotient)
                quotient *= modulus
                column -= quotient
                end = modulus
            np.add(column, offsets[level], out=keys[start : start + BLOCK, level])
    return keys


def _check(codes: Codes, depth: int, codebook_size: int) -> None:
    if codes.ndim != 2 or codes.dtype.kind not in "iu":
        raise InputError(f"codes must be integers [N, L], got {codes.dtype} {list(codes.shape)}")
    if not 1 <= depth <= codes.shape[1]:
        raise InputError(f"prefix-ngram depth {depth} is not in 1..{codes.shape[1]}, the levels of the codes")
    if not 1 <= codebook_size < CODES_END:
        raise InputError(f"codebook_size {codebook_size} is not in 1..{CODES_END - 1}")
