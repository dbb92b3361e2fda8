"""What the ranks do together while a quantizer is trained: share a batch out, add up, pick rows; each of them trivial for one process."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> int:
    """W, the number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number among the ranks."""
    return dist.get_rank() if dist.is_initialized() else 0


def share(count: int) -> slice:
    """This rank's share of `count` rows: W slices, in the order of the ranks, whose sizes differ by one at most."""
    return slice(count * rank() // world(), count * (rank() + 1) // world())


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Add up, in place, what the ranks have; all of them get the same bits."""
    if world() > 1:
        dist.all_reduce(tensor)
    return tensor


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Overwrite the tensors of all ranks with those of rank 0."""
    if world() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def pick_rows(mine_NZ: Tensor, rows_M: Tensor, count: int) -> Tensor:
    """Rows of a batch that is spread over the ranks, the same on all of them.

    Args:
        mine_NZ: this rank's `share(count)` of the rows.
        rows_M: int64, which of the `count` rows, on the device of `mine_NZ`; may repeat.
        count: rows over all ranks.

    Returns:
        [M, Z]. Whoever has a row adds it to zeros, so that the bits are the owner's.
    """
    if world() == 1:
        return mine_NZ[rows_M]
    here = share(count)
    owned_M = (rows_M >= here.start) & (rows_M < here.stop)
    if here.start == here.stop:
        return sum_over_ranks(mine_NZ.new_zeros(len(rows_M), mine_NZ.shape[1]))
    local_M = (rows_M - here.start).clamp(0, here.stop - here.start - 1)
    return sum_over_ranks(torch.where(owned_M[:, None], mine_NZ[local_M], 0.0))


def gather_rows(mine_N: Tensor) -> Tensor:
    """All ranks' values one after the other, whatever their numbers; [sum of N]."""
    if world() == 1:
        return mine_N
    sizes = torch.zeros(world(), dtype=torch.int64, device=mine_N.device)
    sizes[rank()] = len(mine_N)
    counts: list[int] = sum_over_ranks(sizes).tolist()
    padded = mine_N.new_zeros(max(counts))
    padded[: len(mine_N)] = mine_N
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, counts, strict=True)])
