"""The Semantic ID contract: which codebook, how many levels and codes, from which source, of which generation."""

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from features.errors import InputError

CODE_DTYPE = np.uint16
UNKNOWN_CODE = 65535  # every level of an item that has no Semantic ID; so K is at most 65535


@dataclass(frozen=True)
class SidContract:
    """What two parts of the system must agree on before Semantic IDs may pass between them.

    Attributes:
        levels: L, codes per item.
        codebook_size: K, codes per level; a code is in [0, K).
        codebook_hash: sha256 of the codebook's tensors.
        source: name of the content embedding, e.g. "text".
        generation: number of the codebook, 1 for the first; a refreshed codebook counts up.
        aligned_with: hash of the codebook that a refreshed one's codes were matched with, so that they keep their meaning; None where there
            is none.
    """

    levels: int
    codebook_size: int
    codebook_hash: str
    source: str
    generation: int
    aligned_with: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, Parquet metadata and checkpoints."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any], where: str) -> "SidContract":
        """The contract that `where` carries. Raises InputError where it is not one."""
        try:
            contract = cls(**value)
        except TypeError as error:
            raise InputError(f"{where}: not a Semantic ID contract ({error})") from error
        for field in fields(cls):
            found = getattr(contract, field.name)
            if type(found) is not field.type and not (field.name == "aligned_with" and isinstance(found, str | None)):
                raise InputError(f"{where}: not a Semantic ID contract ({field.name} is {found!r})")
        return contract

    def require_same(self, other: "SidContract", this_name: str, other_name: str) -> None:
        """Refuse to join two parts of different contracts.

        Raises:
            InputError: naming both sides and the first field in which they differ.
        """
        if self == other:
            return
        for name, mine in asdict(self).items():
            theirs = getattr(other, name)
            if mine != theirs:
                raise InputError(f"Semantic IDs do not fit: {name} is {mine!r} in {this_name} but {theirs!r} in {other_name}")


def checked_codes(ids: npt.NDArray[Any], codes: npt.NDArray[Any], contract: SidContract) -> npt.NDArray[np.uint16]:
    """Codes as uint16 [N, L].

    Args:
        ids: int64 [N].
        codes: integer [N, L], each in [0, K).
        contract: gives L and K.

    Raises:
        InputError: naming the source and what does not fit.
    """
    if ids.ndim != 1 or ids.dtype != np.int64 or codes.dtype.kind not in "iu" or codes.shape != (len(ids), contract.levels):
        raise InputError(
            f"ids {ids.dtype}{ids.shape} and codes {codes.dtype}{codes.shape} of '{contract.source}' do not fit levels {contract.levels}"
        )
    unfit = np.flatnonzero(((codes < 0) | (codes >= contract.codebook_size)).any(axis=1))
    if len(unfit):
        raise InputError(
            f"codes {tuple(codes[unfit[0]].tolist())} of item id {ids[unfit[0]]} do not fit codebook_size {contract.codebook_size} of "
            f"source '{contract.source}'"
        )
    return codes.astype(CODE_DTYPE)


def require_same_codes(
    ids: npt.NDArray[np.int64], given: npt.NDArray[np.uint16], published: npt.NDArray[np.uint16], source: str, where: str
) -> None:
    """Check that items have the Semantic IDs that they were published with.

    Args:
        ids: int64 [N].
        given: uint16 [N, L].
        published: uint16 [N, L].
        source: named in the error.
        where: who has the published ones, named in the error.

    Raises:
        InputError: naming the first item that differs, and both Semantic IDs.
    """
    differing = np.flatnonzero((given != published).any(axis=1))
    if len(differing):
        first = differing[0]
        raise InputError(
            f"item id {ids[first]} has Semantic ID {tuple(published[first].tolist())} of '{source}' in {where}, not "
            f"{tuple(given[first].tolist())}: once published, it is never recomputed"
        )
