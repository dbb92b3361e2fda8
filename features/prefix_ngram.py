"""Semantic ID codes to embedding table rows: the prefix-ngram keys of paper A (arXiv 2504.02137, table 1)."""

import math
from collections.abc import Sequence

from features.errors import InputError
from features.horner import INT64_END, Codes, Keys, Step, check_codes, horner


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
    _check_depth(codes, depth, codebook_size)
    K = codebook_size
    end = sum(K**level for level in range(1, depth + 1))
    if rows is None and end > INT64_END:
        raise InputError(f"prefix-ngram of depth {depth} with codebook_size {K} has {end} keys, more than int64 holds: give rows")
    return horner(codes, K, [Step(level, level == 0, K if level else 0, rows, level) for level in range(depth)])


def exact_coarse_keys(codes: Codes, *, depth: int, codebook_size: int, rows: int) -> Keys:
    """Keys with coarse prefixes on rows of their own and deeper prefix lengths hashed into equal shares of the other rows.

    With q_i = sum_{t<=i} K^(i-t) c_t, the number of the prefix within its length, and S_i of `level_rows`:
    key_i = S_1 + .. + S_(i-1) + q_i mod S_i. A length is free of collisions if K^i <= S_i, which level 1 always is. Departs from table 1
    in that coarse prefixes never collide with finer ones (docs/decisions/exact_coarse_rows.md).

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
    _check_depth(codes, depth, codebook_size)
    sizes = level_rows(depth=depth, codebook_size=codebook_size, rows=rows)
    steps = [Step(level, level == 0, 0, size, level, sum(sizes[:level])) for level, size in enumerate(sizes)]
    return horner(codes, codebook_size, steps)


def nested_keys(codes: Codes, *, depth: int, codebook_size: int, rows: int) -> Keys:
    """As `exact_coarse_keys`, but two items that collide in a deep row share their first code.

    The m coarse prefix lengths that fit have rows of their own, as there. Of each deeper one every first code has s rows: what the m leave,
    in equal parts for lengths and first codes, rounded down to a number without a common factor with K. With R the rows of the m lengths,
    key_i = R + ((i-m-1) K + c_1) s + (q_i mod K^(i-1)) mod s.

    Args:
        codes: integer [N, L], each in [0, K); what is said of unknown items at `prefix_ngram_keys` holds here.
        depth: number of prefixes, 1..L.
        codebook_size: K.
        rows: H, table rows; all keys are below.

    Returns:
        int64 [N, depth], C-contiguous.

    Raises:
        InputError: if depth exceeds L, or rows are too few: each deeper level needs K.
    """
    _check_depth(codes, depth, codebook_size)
    K = codebook_size
    if rows < K * depth:
        raise InputError(f"{rows} rows are too few for mapping nested of depth {depth}: each level takes codebook_size {K}")
    sizes = level_rows(depth=depth, codebook_size=K, rows=rows)
    exact = sum(size == K ** (level + 1) for level, size in enumerate(sizes))
    coarse = sum(sizes[:exact])
    steps = [Step(level, level == 0, 0, size, level, sum(sizes[:level])) for level, size in enumerate(sizes[:exact])]
    if exact < depth:
        part = _coprime_below((rows - coarse) // (depth - exact) // K, K)
        steps += [Step(level, level == 1) for level in range(1, exact)]
        steps += [Step(level, level == 1, 0, part, level, coarse + (level - exact) * K * part, part) for level in range(exact, depth)]
    return horner(codes, K, steps)


def level_rows(*, depth: int, codebook_size: int, rows: int) -> list[int]:
    """S_1..S_depth, rows of each prefix length in `exact_coarse_keys`: K for the first, `equal_shares` of the rest for the others.

    Raises:
        InputError: if `rows` leaves no row for a deeper level.
    """
    K = codebook_size
    if rows < K + depth - 1:
        raise InputError(f"{rows} rows are too few for depth {depth}: level 1 alone takes codebook_size {K}, each deeper level 1")
    return [K, *equal_shares([K**level for level in range(2, depth + 1)], rows - K, K)]


def equal_shares(sizes: Sequence[int], rows: int, codebook_size: int) -> list[int]:
    """Rows of each of several disjoint ranges that divide a table.

    A range whose keys all fit into an equal share gets exactly those rows, and what it leaves is shared by the others. A range of numbers
    of several codes that does not fit gets the largest number within its share without a common factor with K: modulo a divisor of K^m
    only the last m codes would count.

    Args:
        sizes: how many keys each range has, any size.
        rows: to divide; at least one per range.
        codebook_size: K.

    Returns:
        One number per range, each at least 1; their sum is at most `rows`.

    Raises:
        InputError: if there are fewer rows than ranges.
    """
    if rows < len(sizes):
        raise InputError(f"{rows} rows are too few for {len(sizes)} ranges of keys")
    shares, left = list(sizes), rows
    by_size = sorted(range(len(sizes)), key=lambda index: sizes[index])
    for place, index in enumerate(by_size):
        share = left // (len(sizes) - place)
        if sizes[index] > share:
            for other in by_size[place:]:
                shares[other] = _coprime_below(share, codebook_size) if sizes[other] > codebook_size else share
            break
        left -= sizes[index]
    return shares


def coprime_rows(rows: int, codebook_size: int) -> int:
    """The smallest number >= `rows` that shares no factor with K: a remainder modulo it depends on every code of a prefix.

    Modulo a divisor of K^m only the last m codes of a prefix count, so that items which share nothing but fine codes would share rows.
    """
    while math.gcd(rows, codebook_size) > 1:
        rows += 1
    return rows


def _coprime_below(rows: int, codebook_size: int) -> int:
    while rows > 1 and math.gcd(rows, codebook_size) > 1:
        rows -= 1
    return rows


def _check_depth(codes: Codes, depth: int, codebook_size: int) -> None:
    check_codes(codes, codebook_size)
    if not 1 <= depth <= codes.shape[1]:
        raise InputError(f"prefix-ngram depth {depth} is not in 1..{codes.shape[1]}, the levels of the codes")
