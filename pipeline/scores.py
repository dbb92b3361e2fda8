"""The scores of the stream: each row's logits before it was trained on, kept until a checkpoint, then in files beside it."""

import io
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from features.errors import InputError
from features.files import write_durably


class StreamScores:
    """What a run has scored; a file holds the steps from the one in its name to the next file's.

    A file is written before the checkpoint of the same step is published, and a run that goes on from a checkpoint first removes what
    is younger: so the files hold every row once up to the newest checkpoint, wherever a run was stopped.

    Args:
        folder: of the files, which the ranks share.
        global_batch: rows of a step over all ranks.
    """

    def __init__(self, folder: Path, global_batch: int) -> None:
        self._folder, self._global_batch = folder, global_batch
        self._logits: list[torch.Tensor] = []  # float32 [B, K] per step, on the device

    @property
    def pending(self) -> int:
        """Steps that are in no file yet."""
        return len(self._logits)

    def add(self, logit_BK: torch.Tensor) -> None:
        """Keep this rank's logits of one step."""
        self._logits.append(logit_BK)

    def take(self) -> NDArray[np.float32]:
        """The pending steps' logits [rows, K] over all ranks in row order, which are pending no longer; a collective call."""
        logits, self._logits = self._logits, []
        return in_row_order(logits)

    def write(self, first: int, scores: NDArray[np.float32]) -> None:
        """Put the scores of the steps from `first` on into a file; on one rank. Raises InputError if that cannot be written."""
        path = self._folder / f"{first:09d}.npy"
        try:
            write_array(path, scores)
        except OSError as error:
            raise InputError(f"{path}: {error}") from error

    def forget_after(self, step: int) -> None:
        """Remove what a stopped run wrote of later steps, and its half-written files; on one rank."""
        for file in self._folder.glob(".*.tmp"):
            file.unlink()
        for file in self._folder.glob("*.npy"):
            if int(file.stem) >= step:
                file.unlink()

    def read(self) -> NDArray[np.float32]:
        """All scores [rows, K], of whole steps, from the files. Raises RuntimeError naming a file that does not begin where they end."""
        parts: list[NDArray[np.float32]] = []
        rows = 0
        for file in sorted(self._folder.glob("*.npy")):
            if int(file.stem) * self._global_batch != rows:
                raise RuntimeError(
                    f"{file}: begins at step {int(file.stem)}, but the files before it hold {rows / self._global_batch} steps"
                )
            parts.append(np.load(file, allow_pickle=False))
            rows += len(parts[-1])
        return np.concatenate(parts)


def in_row_order(logits: list[torch.Tensor]) -> NDArray[np.float32]:
    """Per-step slices [B, K] of all ranks to one array in row order, on every rank; a collective call."""
    mine = torch.stack(logits)  # [steps, B, K]
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, mine)
    return torch.stack(parts, 1).flatten(0, 2).cpu().numpy()


def write_array(path: Path, array: NDArray[np.float32]) -> None:
    """Write one .npy file that is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_durably(path, buffer.getvalue())
