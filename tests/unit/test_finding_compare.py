"""What the findings share: signs of printed numbers, and NE of weighted rows against rows repeated as often."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from pipeline.reproduce.compare import change, claimed, ne
from pipeline.reproduce.core import core
from pipeline.reproduce.findings import progressive, table_2, table_3a, table_3b, table_4
from pipeline.reproduce.study import merged
from tests.unit.toy_study import toy_world


@pytest.mark.parametrize(
    ("paper", "sign"),
    [
        ("-0.41%", "negative"),
        ("+0.01%", "positive"),
        ("0.00%", "zero"),
        ("-0.000%", "zero"),
        ("-0.05 points", "negative"),
        ("0.0057", "positive"),
        ("", None),
    ],
)
def test_claimed_signs(paper: str, sign: str | None) -> None:
    assert claimed(paper) == sign


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_weights_are_repetitions(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = np.array([0.0, 1.0, *generator.integers(0, 2, 8)])
    probabilities = generator.uniform(0.05, 0.95, (2, 10))
    weights = np.array([1, 1, *generator.integers(0, 4, 8)])
    losses = -(labels * np.log(probabilities) + (1 - labels) * np.log(1 - probabilities))
    repeated = np.repeat(labels, weights)
    base = log_loss(repeated, np.full(len(repeated), repeated.mean()))
    told = [log_loss(repeated, np.repeat(each, weights)) / base for each in probabilities]
    assert ne(losses, labels, weights.astype(float)) == pytest.approx(told)
    percent = 100 * (told[0] - told[1]) / told[1]
    assert change(losses[:1], losses[1:], weights.astype(float)) == pytest.approx([percent])


def test_one_label_alone_has_no_ne() -> None:
    assert np.isnan(ne(np.array([[0.1, 0.2]]), np.array([1.0, 0.0]), np.array([3.0, 0.0]))).all()
    assert np.isnan(ne(np.array([[0.1, 0.2]]), np.array([1.0, 0.0]), np.zeros(2))).all()


def test_one_training_serves_all_tables(tmp_path: Path) -> None:
    world = toy_world(tmp_path)
    asked = [variant for module in (table_2, table_3a, table_3b, table_4, progressive) for variant in module.variants(world)]
    variants = merged([*core(world), *asked])  # raises where a name stands for two trainings
    # 12 of table 2, which has the baseline, prefix-3 and its control; two rows per item; three with the short period; modulo
    assert len(variants) == len(core(world)) + 12 + 2 + 3 + 1
    assert variants["target_random_hash"].probes == (f"{table_3b.__name__}:probe_drift",)
