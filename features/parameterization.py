"""Token parameterizations: which groups of an item's codes have rows of their own, and how their keys fit into a table's rows.

| scheme | keys of codes c_1..c_L | key space | source |
|---|---|---|---|
| prefix_ngram | c_1, c_1 c_2, .., c_1..c_depth | K + K^2 + .. + K^depth | paper A, table 1 |
| trigram, fourgram | c_1 c_2 c_3; c_1 c_2 c_3 c_4 | K^3; K^4 | paper A, table 1 |
| all_bigrams | c_1 c_2, c_2 c_3, .., c_(L-1) c_L | (L - 1) K^2 | paper A, table 1 |
| unigram | c_1, c_2, .., c_L: the per-level sum | L K | paper B |
| bigram | c_1 c_2, c_3 c_4, ..; an odd last code alone | K^2 per pair | paper B |
| spm | pieces of neighbouring codes that are often shown together | the vocabulary | paper B; features.sid_pieces |

Paper A is arXiv 2504.02137, paper B is arXiv 2306.08121. A table per group, summed, is one table with a range of rows per group:
sum-pooling over disjoint ranges is the same sum, and the tables' optimizer works row by row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from features.errors import InputError
from features.horner import Codes, Keys, Step, horner
from features.prefix_ngram import coprime_rows, equal_shares, exact_coarse_keys, nested_keys, prefix_ngram_keys

Scheme = Literal["prefix_ngram", "trigram", "fourgram", "all_bigrams", "unigram", "bigram"]
Mapping = Literal["exact_coarse", "nested", "modulo"]
PREFIX_KEYS: dict[Mapping, Callable[..., Keys]] = {"exact_coarse": exact_coarse_keys, "nested": nested_keys, "modulo": prefix_ngram_keys}
GROUP = {"trigram": 3, "fourgram": 4, "all_bigrams": 2, "unigram": 1, "bigram": 2}  # N, codes per key


class Parameterization(Protocol):
    """What every scheme offers, whatever its keys are made of."""

    @property
    def keys_per_item(self) -> int:
        """G, keys of an item; the largest number where it varies."""

    @property
    def keys_vary(self) -> bool:
        """Whether an item may have fewer than G keys; `keys` then fills up with -1 on the right."""

    @property
    def key_space(self) -> int:
        """Number of keys that there are: a table of so many rows has no collision."""

    def table_rows(self, budget: int) -> int:
        """Rows of the table that a budget buys."""

    def keys(self, codes: Codes, rows: int) -> Keys:
        """int64 [N, G] in [0, rows), of codes [N, L] and what `table_rows` gave; meaningless where an item has no Semantic ID."""


@dataclass(frozen=True)
class Ngrams:
    """The schemes whose keys are numbers of consecutive codes, by one Horner recurrence.

    Where keys outnumber rows they are taken modulo rows without a common factor with K, lest the remainder forget the coarse codes; with
    mapping exact_coarse or nested, prefix_ngram alone, coarse prefixes have rows of their own and only deeper ones are taken modulo, in
    nested so that those which meet share their first code. unigram and bigram take each group's keys modulo an equal share of the rows.

    Attributes:
        scheme: see the table above.
        levels: L.
        codebook_size: K.
        depth: n of prefix_ngram alone, 1..L.
        mapping: how keys fit into fewer rows.
    """

    scheme: Scheme
    levels: int
    codebook_size: int
    depth: int = 0
    mapping: Mapping = "modulo"

    def __post_init__(self) -> None:
        """Raises InputError naming the scheme and L where the codes have too few levels for it."""
        if self.scheme == "prefix_ngram":
            if not 1 <= self.depth <= self.levels:
                raise InputError(f"scheme prefix_ngram: depth {self.depth} is not in 1..{self.levels}, the levels of the codes")
        elif GROUP[self.scheme] > self.levels:
            raise InputError(f"scheme {self.scheme} needs {GROUP[self.scheme]} levels, the codes have {self.levels}")

    @property
    def keys_per_item(self) -> int:
        """G."""
        return len(self._groups())

    @property
    def keys_vary(self) -> bool:
        """Every item has G keys."""
        return False

    @property
    def key_space(self) -> int:
        """Number of keys that there are, of any size."""
        return sum(self.codebook_size**length for _, length in self._groups())

    def table_rows(self, budget: int) -> int:
        """The budget, or the key space where that is smaller; under one modulo moved up to a number that shares no factor with K."""
        if budget >= self.key_space:
            return self.key_space
        if self.mapping != "modulo" or self.scheme in ("unigram", "bigram"):
            return budget
        return coprime_rows(budget, self.codebook_size)

    def keys(self, codes: Codes, rows: int) -> Keys:
        """Table rows of each item.

        Args:
            codes: integer [N, L], each in [0, K).
            rows: H, as `table_rows` gave it.

        Returns:
            int64 [N, G], C-contiguous, each in [0, rows).

        Raises:
            InputError: if the rows are too few, or so many that int64 arithmetic cannot hold them.
        """
        if self.scheme == "prefix_ngram":
            return PREFIX_KEYS[self.mapping](codes, depth=self.depth, codebook_size=self.codebook_size, rows=rows)
        return horner(codes, self.codebook_size, self._steps(rows))

    def _groups(self) -> list[tuple[int, int]]:
        """First level and number of codes of each of the G keys."""
        if self.scheme == "prefix_ngram":
            return [(0, length) for length in range(1, self.depth + 1)]
        size = GROUP[self.scheme]
        if self.scheme in ("trigram", "fourgram"):
            return [(0, size)]
        if self.scheme == "all_bigrams":
            return [(first, size) for first in range(self.levels - 1)]
        return [(first, min(size, self.levels - first)) for first in range(0, self.levels, size)]

    def _steps(self, rows: int) -> list[Step]:
        """One group of codes after the other. Those of all_bigrams share a modulo that comes after their offsets K^2 (i - 1) (table 1)."""
        K, groups = self.codebook_size, self._groups()
        apart = self.scheme in ("unigram", "bigram")
        shares = equal_shares([K**length for _, length in groups], rows, K) if apart else [rows] * len(groups)
        steps = []
        for column, ((first, length), share) in enumerate(zip(groups, shares, strict=True)):
            last = first + length - 1
            carry = column * K**2 % rows if self.scheme == "all_bigrams" else 0
            steps += [Step(level, level == first) for level in range(first, last)]
            steps.append(Step(last, last == first, carry, share, column, sum(shares[:column]) if apart else 0))
        return steps
