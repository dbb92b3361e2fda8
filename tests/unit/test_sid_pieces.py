"""SPM pieces against a plain byte-pair encoder, the memory of cut Semantic IDs, what the vocabulary is learned from, and damage."""

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from sentencepiece import SentencePieceProcessor

from features import sid_pieces
from features.dataset import open_dataset, read_table
from features.errors import InputError
from features.representation import ItemColumns, Representation
from features.semantic_id import SidContract
from features.sid_pieces import SidPieces, train_pieces
from features.store.versions import open_snapshot
from pipeline import recipe as recipes
from pipeline.loader import BatchSource
from pipeline.pieces import impressed
from tests.toy_log import CONTRACT, toy_recipe, write_enriched_toy_log

L, K = 4, 8
SID = SidContract(levels=L, codebook_size=K, codebook_hash="toy", source="text", generation=1)
MERGES = 25
Word = list[tuple[int, ...]]  # pieces, each the numbers l K + c of its codes


def world(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Distinct Semantic IDs whose codes go together, and impressions so uneven that no two pairs are equally frequent."""
    generator = np.random.default_rng(seed)
    codes = np.unique((generator.integers(0, K, (60, 1)) + generator.integers(0, 3, (60, L))) % K, axis=0).astype(np.uint16)
    return codes, generator.integers(1, 10**6, len(codes))


def learned(path: Path, *, rows: int = L * K + MERGES, seed: int = 0) -> SidPieces:
    train_pieces(path, SID, *world(seed), rows)
    return SidPieces.load(path, SID)


def byte_pair_merges(codes: np.ndarray, weights: np.ndarray, merges: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Textbook byte-pair encoding of weighted words: merge the heaviest pair of neighbours everywhere, the shortest of equals, repeat."""
    words: list[Word] = [[(level * K + code,) for level, code in enumerate(row)] for row in codes.tolist()]
    order = []
    for _ in range(merges):
        pairs: Counter[tuple[tuple[int, ...], tuple[int, ...]]] = Counter()
        for word, weight in zip(words, weights.tolist(), strict=True):
            for pair in itertools.pairwise(word):
                pairs[pair] += weight
        best = min(pairs, key=lambda pair: (-pairs[pair], len(pair[0] + pair[1]), pair[0] + pair[1]))
        order.append(best)
        words = [merged(word, best) for word in words]
    return order


def merged(word: Word, pair: tuple[tuple[int, ...], tuple[int, ...]]) -> Word:
    joined: Word = []
    place = 0
    while place < len(word):
        together = tuple(word[place : place + 2]) == pair
        joined.append(pair[0] + pair[1] if together else word[place])
        place += 2 if together else 1
    return joined


def codes_of_rows(pieces: SidPieces) -> list[tuple[int, ...]]:
    """Each row's codes, read from SentencePiece's own model file."""
    processor = SentencePieceProcessor(model_file=str(pieces.path / "pieces.model"))
    return [tuple(ord(sign) - 0xF0000 for sign in processor.id_to_piece(row + 1)) for row in range(pieces.key_space)]


def test_pieces_and_cuts_are_those_of_a_plain_byte_pair_encoder(tmp_path: Path) -> None:
    pieces, order = learned(tmp_path / "pieces"), byte_pair_merges(*world(), MERGES)
    rows = codes_of_rows(pieces)
    assert set(rows) == {(code,) for code in range(L * K)} | {first + second for first, second in order}
    codes = np.random.default_rng(1).integers(0, K, (300, L)).astype(np.uint16)
    codes[:30] = world()[0][:30]
    for row, keys in zip(codes.tolist(), pieces.keys(codes, pieces.key_space).tolist(), strict=True):
        word: Word = [(level * K + code,) for level, code in enumerate(row)]
        for pair in order:
            word = merged(word, pair)
        assert [rows[key] for key in keys if key >= 0] == word
        assert keys[len(word) :] == [-1] * (L - len(word))


def test_the_impressions_decide_and_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    codes, weights = world()
    first, second = learned(tmp_path / "first"), learned(tmp_path / "second")
    assert (first.path / "pieces.model").read_bytes() == (second.path / "pieces.model").read_bytes()
    train_pieces(tmp_path / "even", SID, codes, np.ones_like(weights), L * K + MERGES)
    assert set(codes_of_rows(SidPieces.load(tmp_path / "even", SID))) != set(codes_of_rows(first))


def test_a_generous_budget_gives_every_impressed_item_a_piece_of_its_own(tmp_path: Path) -> None:
    pieces, (codes, _) = learned(tmp_path / "pieces", rows=10_000), world()
    keys = pieces.keys(codes, pieces.table_rows(10_000))
    assert pieces.table_rows(10_000) == pieces.key_space < 10_000
    assert (keys[:, 1:] == -1).all()
    assert len(np.unique(keys[:, 0])) == len(codes)


def test_a_memory_of_few_slots_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roomy = learned(tmp_path / "pieces")
    batches = [np.random.default_rng(seed).integers(0, K, (500, L)).astype(np.uint16) for seed in range(3)]
    expected = [roomy.keys(codes, roomy.key_space) for codes in batches]
    monkeypatch.setattr(sid_pieces, "SLOTS", 4)
    narrow = SidPieces.load(roomy.path, SID)
    for codes, keys in zip(batches, expected, strict=True):
        assert np.array_equal(narrow.keys(codes, narrow.key_space), keys)


def test_each_semantic_id_is_cut_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces, cut = learned(tmp_path / "pieces"), []
    plain = SidPieces._cut

    def counted(self: SidPieces, codes: np.ndarray) -> np.ndarray:
        cut.extend(codes.tolist())
        return plain(self, codes)

    monkeypatch.setattr(SidPieces, "_cut", counted)
    codes = np.repeat(world()[0], 20, axis=0)
    for _ in range(3):
        pieces.keys(np.random.default_rng(0).permutation(codes), pieces.key_space)
    assert sorted(cut) == sorted(world()[0].tolist())


def test_an_unknown_item_has_the_reserved_row_alone(tmp_path: Path) -> None:
    pieces = learned(tmp_path / "pieces")
    codes = world()[0][:3].copy()
    codes[1] = 65535
    table = Representation("sid", "semantic_id", pieces.key_space, source="text", parameterization=pieces)
    keys = table.keys(ItemColumns(np.arange(3), {"text": codes}))
    assert keys[1].tolist() == [pieces.key_space, -1, -1, -1]
    assert np.array_equal(keys[[0, 2]], pieces.keys(codes[[0, 2]], pieces.key_space))


def test_what_cannot_be_learned_or_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"31 rows are too few for the single codes of 4 levels of codebook_size 8, 32 in all"):
        train_pieces(tmp_path / "few", SID, *world(), 31)
    wide = SidContract(levels=3, codebook_size=65535, codebook_hash="toy", source="text", generation=1)
    with pytest.raises(InputError, match="3 levels of codebook_size 65535 are more codes than the 131072"):
        train_pieces(tmp_path / "wide", wide, np.zeros((1, 3), np.uint16), np.ones(1, np.int64), 10**6)
    with pytest.raises(InputError, match="no impressed item has a Semantic ID"):
        train_pieces(tmp_path / "none", SID, np.zeros((0, L), np.uint16), np.zeros(0, np.int64), 100)
    pieces = learned(tmp_path / "pieces")
    with pytest.raises(InputError, match=r"generation is 1 in .* but 2 in the Semantic IDs"):
        SidPieces.load(pieces.path, SidContract(L, K, "toy", "text", 2))
    damaged = bytearray((pieces.path / "pieces.model").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (pieces.path / "pieces.model").write_bytes(damaged)
    with pytest.raises(InputError, match=r"pieces\.model: missing, or its sha256 differs"):
        SidPieces.load(pieces.path, SID)
    (pieces.path / "meta.json").write_text(json.dumps({"pieces": 1}))
    with pytest.raises(InputError, match="no vocabulary of pieces here"):
        SidPieces.load(pieces.path, SID)


@pytest.mark.parametrize("size", [(1, 65535), (2, 65535), (1, 1)])
def test_the_whole_private_planes_can_be_cut(tmp_path: Path, size: tuple[int, int]) -> None:
    levels, codebook_size = size
    contract = SidContract(levels, codebook_size, "toy", "text", 1)
    codes = np.full((2, levels), codebook_size - 1, np.uint16)
    codes[0] = 0
    train_pieces(tmp_path / "pieces", contract, np.unique(codes, axis=0), np.ones(len(np.unique(codes, axis=0)), np.int64), 140_000)
    pieces = SidPieces.load(tmp_path / "pieces", contract)
    rows = codes_of_rows(pieces)
    for row, keys in zip(codes.tolist(), pieces.keys(codes, pieces.key_space).tolist(), strict=True):
        assert sum((rows[key] for key in keys if key >= 0), ()) == tuple(level * codebook_size + code for level, code in enumerate(row))


TABLES = "{spm: {kind: semantic_id, scheme: spm, rows: 97}, late: {kind: semantic_id, scheme: spm, rows: 60, target: false}}"
SPM = {"model.representations": TABLES}


def test_batches_hold_as_many_keys_as_an_item_has_pieces(tmp_path: Path) -> None:
    write_enriched_toy_log(tmp_path, rows=700)
    source = BatchSource(recipes.load("simulated", toy_recipe(tmp_path, **SPM)))
    source.prepare()
    rows = read_table(open_dataset(tmp_path / "impressions")).slice(600, 100).to_pylist()
    batch = source.builder.build(source.rows(600, 700), first_row=600, size=128, step_rows=(600, 728), training=True, known_before=0)
    assert batch.items is not None
    store, jagged = open_snapshot(tmp_path / "store"), batch.items.to_dict()
    for table in source.builder.representations:
        bags = [bag.tolist() for bag in jagged[table.name].to_dense()]
        for example, row in enumerate(rows):
            items = np.array([row["item_id"], *row["history_item_ids"][:4]])
            keys = table.keys(ItemColumns(items, {"text": store.lookup(items).codes}))
            expected = [[key for key in item if key >= 0] for item in keys.tolist()] + [[]] * (5 - len(items))
            assert bags[example * 5 : example * 5 + 5] == (expected if table.target else [[], *expected[1:]])
        assert not any(bags[len(rows) * 5 :])
    counts = batch.items.lengths()
    assert len(torch.unique(counts)) > 2, "the toy log must have items of one, two and three pieces"


def test_pieces_are_learned_from_the_first_half_alone(tmp_path: Path) -> None:
    write_enriched_toy_log(tmp_path, rows=701)
    items = read_table(open_dataset(tmp_path / "impressions"), ["item_id"]).column(0).to_numpy()[:350]
    store = open_snapshot(tmp_path / "store")
    expected = Counter(map(tuple, store.lookup(items).codes.tolist()))
    del expected[(65535,) * 3]
    for name, lookup in (("enriched", None), ("impressions", store)):
        codes, counts = impressed(open_dataset(tmp_path / name), lookup, "text", 350)
        assert dict(zip(map(tuple, codes.tolist()), counts.tolist(), strict=True)) == expected
    source = BatchSource(recipes.load("simulated", toy_recipe(tmp_path, **SPM)))
    source.prepare()
    train_pieces(tmp_path / "again", CONTRACT, codes, counts, 97)
    assert SidPieces.load(tmp_path / "again", CONTRACT).sha256 == source.pieces["spm"]
    changed = BatchSource(recipes.load("simulated", toy_recipe(tmp_path, **SPM, **{"train.train_fraction": 0.2})))
    changed.prepare()
    assert changed.pieces["spm"] != source.pieces["spm"]
