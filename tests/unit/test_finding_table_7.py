"""The four figures of an attention matrix by hand, against loops, and read off a real history arm."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.config import RankerConfig
from models.history import HistoryArm
from pipeline.reproduce.findings import table_7
from pipeline.reproduce.findings.table_7 import figures, mean_difference
from pipeline.reproduce.world import Variant
from tests.unit.toy_finding import ROWS, Results, toy_study, toy_world


def test_a_matrix_by_hand() -> None:
    """Two examples of three positions: one with its last position padded, one that is padding alone."""
    weight = np.array([[[0.5, 0.25, 0.25], [0, 0.5, 0.5], [1, 0, 0]], [[1, 0, 0]] * 3])
    real = np.array([[True, True, False], [False] * 3])
    found = {name: values.tolist() for name, values in figures(weight, real, of_positions=True).items()}
    assert found["first"] == [0.5, 1]
    assert found["padding"] == [0.25, 1]
    assert found["entropy"] == pytest.approx([(1.5 + 1 + 0) / 3, 0])
    assert found["self"] == [pytest.approx(1 / 3), pytest.approx(1 / 3)]
    # Without padding: rows (2/3, 1/3) and (0, 1), of the two real positions.
    assert found["masked_first"] == [pytest.approx(1 / 3), pytest.approx(math.nan, nan_ok=True)]
    assert found["masked_entropy"][0] == pytest.approx((math.log2(3) - 2 / 3) / 2)
    assert found["masked_self"][0] == pytest.approx((2 / 3 + 1) / 2)
    assert math.isnan(found["masked_entropy"][1])
    seeds = figures(weight, real, of_positions=False)
    assert set(seeds) == {"first", "padding", "entropy", "masked_first", "masked_entropy"}
    assert seeds["masked_first"][0] == pytest.approx((2 / 3 + 0 + 1) / 3)  # of all three queries, which are no positions


@given(st.integers(0, 1000), st.booleans())
def test_figures_against_loops(seed: int, of_positions: bool) -> None:
    generator = np.random.default_rng(seed)
    length = 5
    queries = length if of_positions else 3
    weight = generator.dirichlet(np.full(length, 0.3), (4, queries))
    real = np.arange(length) < generator.integers(0, length + 1, (4, 1))
    found = figures(weight, real, of_positions=of_positions)
    for example in range(4):
        rows, masked = weight[example], []
        bits = [-sum(a * math.log2(a) for a in row if a > 0) for row in rows]
        assert found["first"][example] == pytest.approx(sum(row[0] for row in rows) / queries)
        assert found["padding"][example] == pytest.approx(
            sum(row[t] for row in rows for t in range(length) if not real[example, t]) / queries
        )
        assert found["entropy"][example] == pytest.approx(sum(bits) / queries)
        for query, row in enumerate(rows):
            kept = [a for a, there in zip(row, real[example], strict=True) if there]
            if kept and (not of_positions or real[example, query]):
                masked.append([a / sum(kept) for a in kept])
        if masked:
            assert found["masked_first"][example] == pytest.approx(np.mean([row[0] for row in masked]))
            bits = [-sum(a * math.log2(a) for a in row if a > 0) for row in masked]
            assert found["masked_entropy"][example] == pytest.approx(np.mean(bits))
            if of_positions:
                assert found["masked_self"][example] == pytest.approx(np.mean([row[at] for at, row in enumerate(masked)]))
        else:
            assert math.isnan(found["masked_first"][example])


def test_examples_without_a_figure_do_not_count() -> None:
    ours, theirs = np.array([[1.0, math.nan, 4], [2, math.nan, 6]]), np.array([[0.0, math.nan, 0], [1, math.nan, 1]])
    assert mean_difference(ours, theirs, np.array([3.0, 5, 1])).tolist() == [(3 * 1 + 4) / 4, (3 * 1 + 5) / 4]


class _Scoring:
    """As much of a trainer as the probe touches: a history arm that is given batches of four examples, of which the last is padded up."""

    def __init__(self, arm: str, rows: int) -> None:
        torch.manual_seed(1)
        config = RankerConfig.model_validate(
            {"representations": {"a": {"kind": "random_hash"}}, "embedding_dim": 8, "history": arm, "pma_seeds": 3}
        )
        self.arm = HistoryArm(config, 5).eval()
        self.model, self.config = SimpleNamespace(module=torch.nn.Sequential(self.arm)), SimpleNamespace(model=config)
        self.train_rows, self.rows = 10, 10 + rows
        self.history, self.age = torch.randn(rows, 5, 8), torch.rand(rows, 5)
        self.mask = torch.arange(5) < torch.randint(0, 6, (rows, 1))

    def score(self, start: int, stop: int) -> None:
        assert (start, stop) == (self.train_rows, self.rows)
        with torch.no_grad():
            for first in range(0, stop - start, 4):
                parts = (each[first : first + 4] for each in (self.history, self.age, self.mask))
                self.arm(*(torch.cat([part, part.new_zeros(4 - len(part), *part.shape[1:])]) for part in parts))


@pytest.mark.parametrize("arm", ["transformer", "pma"])
def test_the_probe_reads_the_attention_of_the_arm(arm: str) -> None:
    trainer: Any = _Scoring(arm, rows=6)
    found = table_7.attention(trainer)
    of_arm, block = trainer.arm, trainer.arm.aggregate.block
    with torch.no_grad():
        x = trainer.history + of_arm.age(torch.log2(trainer.age * 60 + 1).long()) * trainer.mask.unsqueeze(-1)
        x = x + of_arm.aggregate.position_TD if arm == "transformer" else x
        query = x if arm == "transformer" else of_arm.aggregate.seeds_SD.expand(6, -1, -1)
        (wq, wk, _), (bq, bk, _) = block.attention.in_proj_weight.chunk(3), block.attention.in_proj_bias.chunk(3)
        q, k = block.norm_query(query) @ wq.T + bq, block.norm_x(x) @ wk.T + bk
        heads = [torch.softmax(q[..., part] @ k[..., part].transpose(1, 2) / 2, -1) for part in (slice(0, 4), slice(4, 8))]
        weight = (heads[0] + heads[1]) / 2
    expected = figures(weight.double().numpy(), trainer.mask.numpy(), of_positions=arm == "transformer")
    assert found.keys() == expected.keys() | {"padded"}
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-6)
    assert found["padded"].tolist() == [pytest.approx(1 - sum(row) / 5) for row in trainer.mask.tolist()]
    assert not any(module._forward_pre_hooks for module in of_arm.modules())


def test_the_finding(tmp_path: Path) -> None:
    world = toy_world(tmp_path)
    levels = {"semantic_id": 0.5, "random_hash": 0.4, "shuffled_semantic_id": 0.4}

    def results(variant: Variant, seed: int) -> Results:
        kind = variant.name.split("_of_")[1].removesuffix("_history")
        names = ["first", "padding", "entropy", "masked_first", "masked_entropy"]
        names += ["self", "masked_self"] if variant.name.startswith("transformer") else []
        measured = {name: np.full(100, levels[kind]) for name in names} | {"padded": np.full(100, 0.25)}
        return np.zeros(ROWS, np.float32), {"attention": measured}

    finding = table_7.find(toy_study(world, table_7, results))
    found = [(row.ours.mean, row.unit, row.verdict, row.control and row.control.mean) for row in finding.rows if row.ours]
    change = {"points": pytest.approx(10), "bits": pytest.approx(0.1)}
    expected = [  # unit, verdict, whether there is a control
        *[("points", "confirmed", True), ("points", "not confirmed", True), ("bits", "not confirmed", True), ("points", "shown", True)],
        *[("points", "confirmed", False), ("points", "not confirmed", False), ("bits", "not confirmed", False)],
        *[
            ("points", "shown", True),
            ("bits", "shown", True),
            ("points", "shown", True),
            ("points", "shown", False),
            ("bits", "shown", False),
        ],
    ]
    assert found == [(change[unit], unit, verdict, 0 if controlled else None) for unit, verdict, controlled in expected]
    assert "first 100 rows after training" in finding.notes[0]
    assert "25% of their history" in finding.notes[0]
    assert finding.plots[0].count("<svg") == 1
