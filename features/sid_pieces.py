"""SPM: pieces of neighbouring codes that are often shown together, learned by SentencePiece on the impressed items (paper B).

Paper B is arXiv 2306.08121. An item's codes are written as one line of text, a private character per level and code, and byte-pair encoding
merges neighbouring characters by how often they are shown together, until there are as many pieces as table rows. Each piece has a row, an
item's pieces are summed, and what was too rare to be merged falls back to single codes.
"""

import io
import itertools
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from features.errors import InputError
from features.files import publish_folder, sha256_file, write_durably
from features.horner import Codes, Keys
from features.semantic_id import CODE_DTYPE, UNKNOWN_CODE, SidContract

MODEL, META = "pieces.model", "meta.json"
FIRST_CHARACTER, CHARACTERS = 0xF0000, 1 << 17  # Unicode's private planes 15 and 16
SPECIAL = 1  # SentencePiece's own first piece, for unknown characters, of which we have none
SLOTS = 1 << 20  # Semantic IDs whose pieces are remembered


class SidPieces:
    """A vocabulary of pieces, opened; the parameterization `spm`.

    What a Semantic ID is cut into is remembered in a table of `SLOTS` slots, one Semantic ID each, so that SentencePiece is called once per
    Semantic ID and not once per row. For one thread.
    """

    def __init__(self, path: Path, contract: SidContract, pieces: int, sha256: str) -> None:
        """What `load` read; sha256 identifies the vocabulary."""
        self.path, self.contract, self.sha256 = path, contract, sha256
        self.key_space = pieces
        self._seen = np.full((SLOTS, contract.levels), UNKNOWN_CODE, CODE_DTYPE)
        self._pieces = np.empty((SLOTS, contract.levels), np.int32)

    @classmethod
    def load(cls, path: Path, contract: SidContract) -> "SidPieces":
        """Open a vocabulary that `train_pieces` wrote, and verify its bytes.

        Raises:
            InputError: naming the file that is missing or damaged, or the difference between its contract and `contract`.
        """
        try:
            meta: dict[str, Any] = json.loads((path / META).read_text())
            pieces, sha256, own = int(meta["pieces"]), str(meta["sha256"]), dict(meta["contract"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path / META}: no vocabulary of pieces here ({error})") from error
        if not (path / MODEL).is_file() or sha256_file(path / MODEL) != sha256:
            raise InputError(f"{path / MODEL}: missing, or its sha256 differs from {META}")
        SidContract.from_json(own, str(path / META)).require_same(contract, str(path), "the Semantic IDs")
        return cls(path, contract, pieces, sha256)

    @property
    def keys_per_item(self) -> int:
        """L, the most pieces that an item can have."""
        return self.contract.levels

    @property
    def keys_vary(self) -> bool:
        """An item has 1 to L pieces."""
        return True

    def table_rows(self, budget: int) -> int:
        """One row per piece: the vocabulary was trained for the budget and may be smaller."""
        return min(budget, self.key_space)

    def keys(self, codes: Codes, rows: int) -> Keys:
        """Rows of each item's pieces, coarse to fine.

        Args:
            codes: integer [N, L], each in [0, K); an item without a Semantic ID gets meaningless keys.
            rows: H, as `table_rows` gave it.

        Returns:
            int64 [N, L], each in [0, H), -1 after an item's last piece.
        """
        assert rows == self.key_space
        slots = _slots(codes)
        keys = self._pieces[slots].astype(np.int64)
        waiting = np.flatnonzero((self._seen[slots] != codes).any(1))
        while len(waiting):  # one Semantic ID per slot at a time; a second round only where two of the batch meet in a slot
            first = waiting[np.unique(slots[waiting], return_index=True)[1]]
            self._seen[slots[first]], self._pieces[slots[first]] = codes[first], self._cut(codes[first])
            done = (self._seen[slots[waiting]] == codes[waiting]).all(1)
            keys[waiting[done]] = self._pieces[slots[waiting[done]]]
            waiting = waiting[~done]
        return keys

    @cached_property
    def _processor(self) -> Any:
        return sentencepiece.SentencePieceProcessor(model_proto=(self.path / MODEL).read_bytes())

    def _cut(self, codes: Codes) -> NDArray[np.int32]:
        """Rows of the pieces of M Semantic IDs, [M, L], filled up with -1."""
        cut = self._processor.encode(_texts(codes, self.contract.codebook_size), out_type=int)
        counts = np.fromiter(map(len, cut), np.int64, len(cut))
        filled = np.full(codes.shape, -1, np.int32)
        filled[np.arange(codes.shape[1]) < counts[:, None]] = (
            np.fromiter(itertools.chain.from_iterable(cut), np.int32, counts.sum()) - SPECIAL
        )
        return filled


def train_pieces(path: Path, contract: SidContract, codes: Codes, impressions: NDArray[np.int64], rows: int) -> None:
    """Learn a vocabulary and publish it as a folder: SentencePiece's model, and its hash, size and contract as JSON.

    Byte-pair encoding with each Semantic ID weighted by its impressions; the same input gives the same bytes. Every code of every level is
    a piece too, so that any Semantic ID can be cut.

    Args:
        path: the folder.
        contract: of the codes.
        codes: integer [S, L], the distinct Semantic IDs that were impressed.
        impressions: int64 [S], how often.
        rows: most pieces, the table's budget.

    Raises:
        InputError: if there are more codes than characters or than rows, or nothing was impressed.
    """
    singles = _check(contract, rows)
    if not len(codes):
        raise InputError("scheme spm: no impressed item has a Semantic ID to learn pieces from")
    lines = [f"{text}\t{count}" for text, count in zip(_texts(codes, contract.codebook_size), impressions.tolist(), strict=True)]
    lines += [f"{chr(FIRST_CHARACTER + code)}\t1" for code in range(singles)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        input_format="tsv",  # text and weight
        vocab_size=rows + SPECIAL,
        hard_vocab_limit=False,  # fewer, where everything that occurs is a piece
        max_sentencepiece_length=contract.levels,
        character_coverage=1.0,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_by_unicode_script=False,
        split_by_number=False,
        split_by_whitespace=False,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        num_threads=1,
        minloglevel=1,
    )
    _publish(path, contract, model.getvalue())


def _publish(path: Path, contract: SidContract, model: bytes) -> None:
    staging = path.with_name(f".{path.name}.tmp")
    staging.mkdir(parents=True, exist_ok=True)
    write_durably(staging / MODEL, model)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size() - SPECIAL
    meta = {"pieces": pieces, "sha256": sha256_file(staging / MODEL), "contract": contract.to_json()}
    write_durably(staging / META, json.dumps(meta, indent=1).encode())
    publish_folder(staging, path)


def _check(contract: SidContract, rows: int) -> int:
    """Number of single codes."""
    L, K = contract.levels, contract.codebook_size
    if L * K > CHARACTERS:
        raise InputError(f"scheme spm: {L} levels of codebook_size {K} are more codes than the {CHARACTERS} private characters of Unicode")
    if rows < L * K:
        raise InputError(f"scheme spm: {rows} rows are too few for the single codes of {L} levels of codebook_size {K}, {L * K} in all")
    return L * K


def _texts(codes: Codes, codebook_size: int) -> list[str]:
    """One string of L characters per row of codes [M, L]: code c of level l, from 0, is character 0xF0000 + l K + c."""
    points = FIRST_CHARACTER + np.arange(codes.shape[1], dtype=np.uint32) * np.uint32(codebook_size) + codes.astype(np.uint32)
    texts: list[str] = np.ascontiguousarray(points).view(f"<U{codes.shape[1]}")[:, 0].tolist()
    return texts


def _slots(codes: Codes) -> NDArray[np.int64]:
    """A slot per row of codes [N, L], by a multiplicative hash of all levels."""
    mixed = np.zeros(len(codes), np.uint64)
    for level in range(codes.shape[1]):
        mixed = (mixed ^ codes[:, level].astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
    return (mixed >> np.uint64(64 - SLOTS.bit_length() + 1)).view(np.int64)
