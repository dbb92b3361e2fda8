"""The Horner recurrence that turns groups of codes into keys, exactly and for all items at once; every n-gram scheme runs through it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from features.errors import InputError

INT64_END = 1 << 63
CODES_END = 1 << 16  # codes are uint16, and an unknown item's are 65535 whatever K is
UINT64_END = 1 << 64
BLOCK = 1 << 13  # items worked on at once: their keys and temporaries stay in the processor's cache

Codes = npt.NDArray[np.integer]
Keys = npt.NDArray[np.int64]


class Step(NamedTuple):
    """One step of the Horner recurrence over an item's codes: number = (K number + carry + c_level) mod modulus.

    Attributes:
        level: which code comes in, from 0.
        restart: number = c_level instead, the first code of a group.
        carry: added with the code.
        modulus: the key's range, where a column is written; None where no key can exceed what the caller allows.
        column: where the number, plus `offset`, is written as a key; None where it is only passed on.
        offset: first row of the key's range.
        spread: rows that each first code has in the key's range; c_1 times this is added to the key.
    """

    level: int
    restart: bool
    carry: int = 0
    modulus: int | None = None
    column: int | None = None
    offset: int = 0
    spread: int = 0


def horner(codes: Codes, codebook_size: int, steps: Sequence[Step]) -> Keys:
    """Keys of any scheme: runs `steps` over each item's codes, exactly.

    A remainder is taken where a key is written, and goes on in place of the number only where that would overflow: either gives the same
    keys as long as all later moduli of the group are the same. A number of up to four codes, the longest without a key, fits uint64.

    Args:
        codes: integer [N, L], each in [0, K).
        codebook_size: K.
        steps: the first one restarts; those with a column write it, and together they write each column once.

    Returns:
        int64 [N, G], C-contiguous.

    Raises:
        InputError: if a step's modulus is so large that int64 cannot hold K times a remainder, or the codes are no codes.
    """
    check_codes(codes, codebook_size)
    _check_range(steps, codebook_size)
    keys = np.empty((len(codes), sum(step.column is not None for step in steps)), np.int64)
    written = keys.view(np.uint64)  # a division by one number is faster without signs
    levels = 1 + max(step.level for step in steps)
    digits = np.empty((levels, min(BLOCK, len(codes))), np.uint64)
    for start in range(0, len(codes), BLOCK):
        block = codes[start : start + BLOCK, :levels]
        np.copyto(digits[:, : len(block)], block.T, casting="unsafe")
        _run(steps, digits[:, : len(block)], codebook_size, written[start : start + BLOCK])
    return keys


def _run(steps: Sequence[Step], digits: npt.NDArray[np.uint64], K: int, keys: npt.NDArray[np.uint64]) -> None:
    number, quotient, first_rows = (np.empty_like(digits[0]) for _ in range(3))
    first_row: Any  # a number, or one per item
    end = 0  # one above the largest value that `number` can hold
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        if step.restart:
            np.copyto(number, digits[step.level])
            end = K
        else:
            number *= np.uint64(K)
            number += digits[step.level]
            if step.carry:
                number += np.uint64(step.carry)
            end = (end - 1) * K + step.carry + K
        if step.column is None:
            continue
        key, first_row = keys[:, step.column], np.uint64(step.offset)
        if step.spread:
            first_row = np.multiply(digits[0], np.uint64(step.spread), out=first_rows)
            first_row += np.uint64(step.offset)
        if step.modulus is None or end <= step.modulus:
            np.add(number, first_row, out=key)
            continue
        # NumPy vectorises a division by one number, but not the remainder.
        np.floor_divide(number, np.uint64(step.modulus), out=quotient)
        quotient *= np.uint64(step.modulus)
        if following is not None and not following.restart and (end - 1) * K + following.carry + CODES_END >= UINT64_END:
            number -= quotient  # or the next number would not fit
            np.add(number, first_row, out=key)
            end = step.modulus
        else:
            if step.offset or step.spread:
                quotient -= first_row  # may wrap around, and back in the next line
            np.subtract(number, quotient, out=key)


def _check_range(steps: Sequence[Step], K: int) -> None:
    for step in steps:
        if step.modulus is not None and (step.modulus < 1 or (step.modulus - 1) * K + step.carry + CODES_END >= INT64_END):
            raise InputError(f"rows {step.modulus} with codebook_size {K} is outside what int64 arithmetic can hold")


def check_codes(codes: Codes, codebook_size: int) -> None:
    """Raises InputError where codes are no integers [N, L] or K is none that they can have."""
    if codes.ndim != 2 or codes.dtype.kind not in "iu":
        raise InputError(f"codes must be integers [N, L], got {codes.dtype} {list(codes.shape)}")
    if not 1 <= codebook_size < CODES_END:
        raise InputError(f"codebook_size {codebook_size} is not in 1..{CODES_END - 1}")
