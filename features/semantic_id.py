"""The Semantic ID contract: which codebook, how many levels and codes, from which source, of which generation."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

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
    """

    levels: int
    codebook_size: int
    codebook_hash: str
    source: str
    generation: int

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, Parquet metadata and checkpoints."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any], where: str) -> "SidContract":
        """The contract that `where` carries. Raises InputError where it is not one."""
        try:
            return cls(**value)
        except TypeError as error:
            raise InputError(f"{where}: not a Semantic ID contract ({error})") from error

    def require_same(self, other: "SidContract", this_name: str, other_name: str) -> None:
        """Refuse to join two parts of different contracts.

        Raises:
            InputError: naming both sides and the first field in which they differ.
        """
        for name, mine in asdict(self).items():
            theirs = getattr(other, name)
            if mine != theirs:
                raise InputError(f"Semantic IDs do not fit: {name} is {mine!r} in {this_name} but {theirs!r} in {other_name}")
