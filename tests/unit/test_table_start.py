"""The tables' starting weights are uniform, differ from row to row, column to column and table to table, and no split changes them."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from models import table_start

MASK = (1 << 64) - 1


def splitmix64(counter: int) -> int:
    """Steele, Lea and Flood's output function, in plain integers."""
    bits = counter & MASK
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK
    return bits ^ (bits >> 31)


def filled(rows: int, columns: int, *, key: int = -7, width: int = 16, row: int = 0, column: int = 0) -> torch.Tensor:
    shard = torch.empty(rows, columns)
    table_start._fill(shard, key, width, row, column)
    return shard


def test_a_weight_is_splitmix64s_output_for_its_place() -> None:
    table = filled(50, 16)
    for row, column in ((0, 0), (3, 5), (49, 15)):
        bits = splitmix64(-7 + (16 * row + column + 1) * 0x9E3779B97F4A7C15) >> 41
        assert table[row, column].item() == pytest.approx((2 * (bits + 0.5) / (1 << 23) - 1) / 4, abs=1e-7)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (100, 8), (299, 12)])
def test_a_shard_is_that_part_of_the_whole_table(monkeypatch: pytest.MonkeyPatch, row: int, column: int) -> None:
    whole = filled(1000, 16)
    monkeypatch.setattr(table_start, "CHUNK", 160)
    assert torch.equal(filled(300, 4, row=row, column=column), whole[row : row + 300, column : column + 4])


def test_weights_are_uniform_and_nothing_starts_alike() -> None:
    table, other = (filled(20_000, 16, key=key).numpy() for key in (1, 2))
    assert kstest(table.ravel() * 4, "uniform", args=(-1, 2)).pvalue > 0.01
    assert np.abs(np.corrcoef(table.T) - np.eye(16)).max() < 0.05
    assert len(np.unique(table, axis=0)) == 20_000
    assert abs(np.corrcoef(table.ravel(), other.ravel())[0, 1]) < 0.01
