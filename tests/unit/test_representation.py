"""Representations: rows in range, the same for the same item, unknown items on their reserved row; hashing spreads evenly."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from features.ids import mix64
from features.parameterization import Mapping, Ngrams, Scheme
from features.representation import ItemColumns, Representation, hashed_rows
from models.config import RepresentationConfig

IDS = hnp.arrays(np.int64, st.integers(1, 50))


def splitmix64(value: int) -> int:
    """SplitMix64's finaliser in big integers."""
    mask = 2**64 - 1
    value = (value + 0x9E3779B97F4A7C15) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return value ^ (value >> 31)


@given(IDS, st.integers(1, 2**40))
def test_hashing_agrees_with_big_integers(ids: np.ndarray, rows: int) -> None:
    assert hashed_rows(ids, rows).tolist() == [splitmix64(int(i) % 2**64) % rows for i in ids]
    assert mix64(ids.view(np.uint64)).tolist() == [splitmix64(int(i) % 2**64) for i in ids]


@given(IDS, st.integers(1, 2**40))
def test_the_second_hash_is_one_of_the_first(ids: np.ndarray, rows: int) -> None:
    single, double = (Representation("x", "random_hash", rows, hashes=hashes).keys(ItemColumns(ids)) for hashes in (1, 2))
    assert double.tolist() == [[splitmix64(int(i) % 2**64) % rows, splitmix64(splitmix64(int(i) % 2**64)) % rows] for i in ids]
    assert np.array_equal(single, double[:, :1])


def test_items_that_share_one_hash_seldom_share_the_other() -> None:
    keys = Representation("x", "random_hash", 100, hashes=2).keys(ItemColumns(np.arange(20_000)))
    together = np.bincount(keys[:, 0] * 100 + keys[:, 1], minlength=10_000)
    chi_square = ((together - 2) ** 2 / 2).sum()
    assert abs(chi_square - 9999) < 4 * np.sqrt(2 * 9999)


def test_hashing_spreads_consecutive_ids_evenly() -> None:
    counts = np.bincount(hashed_rows(np.arange(100_000), 100), minlength=100)
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert chi_square < 149  # 99.9% quantile of 99 degrees of freedom


@pytest.mark.parametrize(("scheme", "mapping"), [("prefix_ngram", "exact_coarse"), ("prefix_ngram", "nested"), ("all_bigrams", "modulo")])
def test_unknown_items_share_the_reserved_row_and_disturb_no_other(scheme: Scheme, mapping: Mapping) -> None:
    codes = np.random.default_rng(0).integers(0, 16, (20, 3)).astype(np.uint16)
    with_unknown = codes.copy()
    with_unknown[[3, 11]] = 65535
    ngrams = Ngrams(scheme, 3, 16, 3 if scheme == "prefix_ngram" else 0, mapping)
    sid = Representation("sid", "semantic_id", rows=97, source="text", parameterization=ngrams)
    clean, mixed = (sid.keys(ItemColumns(np.arange(20), {"text": part})) for part in (codes, with_unknown))
    assert (mixed[[3, 11]] == 97).all()
    others = np.setdiff1d(np.arange(20), [3, 11])
    assert np.array_equal(mixed[others], clean[others])
    assert np.array_equal(clean, ngrams.keys(codes, 97))
    assert clean.min() >= 0
    assert clean.max() < 97
    assert sid.table_rows == 98


def test_individual_ids_outside_the_map_are_unknown() -> None:
    own = Representation("own", "individual", rows=5)
    assert own.keys(ItemColumns(dense_rows=np.array([4, -1, 0])))[:, 0].tolist() == [4, 5, 0]
    untrained = Representation("own", "individual", rows=5, trained_unknown=False)
    known = ItemColumns(dense_rows=np.array([4, -1, -1]), own_rows=np.array([4, 3, -1]))
    assert untrained.keys(known)[:, 0].tolist() == [4, 3, 5]


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"kind": "semantic_id", "hashes": 2}, "semantic_id takes no 'hashes': it is of random_hash alone"),
        ({"kind": "random_hash", "source": "text"}, "random_hash takes no 'source': it is of semantic_id alone"),
        ({"kind": "random_hash", "unknown": "untrained"}, "random_hash takes no 'unknown': it is of individual alone"),
        ({"kind": "random_hash", "scheme": "unigram"}, "random_hash takes no 'scheme'"),
        ({"kind": "individual", "depth": 3}, "individual takes no 'depth'"),
        ({"kind": "semantic_id", "scheme": "trigram", "depth": 3}, "scheme trigram takes no 'depth'"),
        ({"kind": "semantic_id", "scheme": "spm", "mapping": "modulo"}, "scheme spm takes no 'mapping'"),
        ({"kind": "semantic_id", "scheme": "bigram", "mapping": "nested"}, "mapping nested is of prefix_ngram alone"),
        ({"kind": "semantic_id", "scheme": "bigram", "mapping": "exact_coarse"}, "mapping exact_coarse is of prefix_ngram alone"),
    ],
)
def test_what_a_scheme_would_ignore_is_refused(table: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        RepresentationConfig.model_validate(table)


def test_defaults_survive_a_round_trip_through_the_resolved_configuration() -> None:
    for scheme in (None, *get_args(Scheme), "spm"):
        table = RepresentationConfig.model_validate({"kind": "semantic_id", "scheme": scheme})
        assert RepresentationConfig.model_validate(table.model_dump(mode="json")) == table
        assert table.chosen_mapping == ("exact_coarse" if scheme in (None, "prefix_ngram") else "modulo")
