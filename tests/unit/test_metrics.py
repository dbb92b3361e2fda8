"""NE, AUC and calibration against scikit-learn and plain float64 NumPy; intervals against known sampling distributions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import log_loss, roc_auc_score

from features.segments import NAMES
from pipeline.intervals import UserBootstrap
from pipeline.metrics import Metrics, StreamMetrics, as_json, exact_metrics, log_losses
from pipeline.segments import by_past_impressions, by_training_impressions


def sample(size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    logits = generator.normal(-1, 1.5, size).astype(np.float32)
    return logits, (generator.random(size) < 1 / (1 + np.exp(-logits + 0.3))).astype(np.float64)


def test_exact_metrics_agree_with_scikit_learn() -> None:
    logits, labels = sample(5000)
    logits = logits.round(1)  # so that there are ties
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    metrics = exact_metrics(log_losses(logits, labels), probabilities, labels)
    base_rate = np.full_like(labels, labels.mean())
    assert metrics.ne == pytest.approx(log_loss(labels, probabilities) / log_loss(labels, base_rate), rel=1e-12)
    assert metrics.auc == pytest.approx(roc_auc_score(labels, probabilities), rel=1e-12)
    assert metrics.calibration == pytest.approx(probabilities.sum() / labels.sum(), rel=1e-12)


def test_predicting_the_base_rate_has_ne_one() -> None:
    _, labels = sample(1000)
    rate = labels.mean()
    logits = np.full(1000, np.log(rate / (1 - rate)))
    assert exact_metrics(log_losses(logits, labels), np.full(1000, rate), labels).ne == pytest.approx(1.0, abs=1e-12)


def test_one_class_is_undefined() -> None:
    metrics = exact_metrics(np.ones(5), np.full(5, 0.5), np.ones(5))
    assert np.isnan(metrics.ne)
    assert np.isnan(metrics.auc)


@given(hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-60, 60, width=32)), st.integers(0, 2**32 - 1))
def test_log_losses_are_finite_and_exact(logits: np.ndarray, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 2, len(logits)).astype(np.float64)
    expected = [np.logaddexp(0.0, -z) if y else np.logaddexp(0.0, z) for z, y in zip(logits.astype(np.float64), labels, strict=True)]
    assert np.allclose(log_losses(logits, labels), expected, rtol=1e-12, atol=1e-15)


def test_stream_metrics_agree_with_the_exact_ones_in_every_segment_and_ignore_padding() -> None:
    logits, labels = (np.stack(pair, 1) for pair in zip(sample(4096), sample(4096, 1), strict=True))
    generator = np.random.default_rng(2)
    segments = np.stack([generator.integers(0, 5, 4096), generator.integers(5, 10, 4096)], 1)
    running, resumed = (StreamMetrics(["click", "buy"], torch.device("cpu")) for _ in range(2))
    for start in range(0, 4096, 512):
        part = slice(start, start + 512)
        batch = [torch.from_numpy(values[part]).float() for values in (logits, labels)]
        logit, label = (torch.cat([values, torch.full((7, 2), junk)]) for values, junk in zip(batch, (9.0, 1.0), strict=True))
        weight = torch.cat([torch.ones(512), torch.zeros(7)])
        segment = torch.cat([torch.from_numpy(segments[part]), torch.zeros(7, 2, dtype=torch.int64)])
        running.update(logit, label, weight, segment)
        if start == 1024:
            running.report()
        resumed.load(running.state())
    for metrics in (running, resumed):
        lifetime = metrics.lifetime()
        window, _ = metrics.report()
        for column, task in enumerate(("click", "buy")):
            for number, name in enumerate(("all", *NAMES)):
                mine = np.ones(4096, bool) if name == "all" else (segments == number - 1).any(1)
                close(lifetime[task][name], logits[mine, column], labels[mine, column])
                mine[:1536] = False
                close(window[task][name], logits[mine, column], labels[mine, column])


def close(found: Metrics, logits: np.ndarray, labels: np.ndarray) -> None:
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    exact = exact_metrics(log_losses(logits, labels), probabilities, labels)
    assert found.ne == pytest.approx(exact.ne, rel=1e-12)
    assert found.calibration == pytest.approx(exact.calibration, rel=1e-12)
    assert found.auc == pytest.approx(exact.auc, abs=2e-4)


def test_a_segment_of_one_class_is_undefined_and_the_others_are_not() -> None:
    metrics = StreamMetrics(["click"], torch.device("cpu"))
    label = torch.tensor([[1.0], [1.0], [0.0], [1.0]])
    metrics.update(torch.zeros(4, 1), label, torch.ones(4), torch.tensor([[0, 5], [0, 5], [1, 5], [1, 5]]))
    table = metrics.lifetime()["click"]
    assert np.isnan(table["0"].ne)
    assert np.isnan(table["0"].auc)
    assert table["0"].calibration == 0.5
    assert table["1-9"] == (1.0, 0.5, 1.0)
    assert np.isnan(table["200+"].calibration)
    assert as_json(metrics.lifetime())["click"]["0"] == {"ne": None, "auc": None, "calibration": 0.5}


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Users share an effect, seeds share another: 95% intervals must hold the true change in about 95% of 300 repetitions."""
    generator = np.random.default_rng(3)
    users, per_user, seeds, hits = 80, 12, 4, 0
    for _ in range(300):
        user = np.repeat(np.arange(users), per_user)
        baseline = np.tile(generator.uniform(0.2, 0.8, users * per_user), (seeds, 1))
        effect = -0.01 + 0.02 * generator.normal(size=users)[user] + 0.002 * generator.normal(size=(seeds, 1))
        gain = UserBootstrap(user, 200, seed=int(generator.integers(2**31))).gain(
            baseline + effect * 0.5, baseline, np.ones(users * per_user, bool)
        )
        truth = 100 * -0.01 * 0.5 / 0.5
        hits += gain.low <= truth <= gain.high
    assert 0.91 <= hits / 300 <= 0.99


def test_resampling_users_is_wider_than_resampling_rows() -> None:
    generator = np.random.default_rng(0)
    user = np.repeat(np.arange(50), 40)
    baseline = np.full((1, 2000), 0.5)
    variant = baseline + 0.05 * generator.normal(size=50)[user]
    chosen = np.ones(2000, bool)
    by_user, by_row = (UserBootstrap(ids, 400).gain(variant, baseline, chosen) for ids in (user, np.arange(2000)))
    assert by_user.high - by_user.low > 4 * (by_row.high - by_row.low)


def test_same_scores_have_no_gain() -> None:
    losses = np.random.default_rng(0).uniform(0.1, 1, (3, 100))
    gain = UserBootstrap(np.arange(100) % 9, 100).gain(losses, losses, np.arange(100) < 50)
    assert gain == (0, 0, 0)


def test_segments_after_training() -> None:
    item_ids = np.array([1] * 500 + [2] * 60 + list(range(100, 1098)) + [1, 2, 2, 1097, 5000])
    segments = by_training_impressions(item_ids, len(item_ids) - 5)
    assert {name: rows.tolist() for name, rows in segments.items()} == {
        "all": [True] * 5,
        "head": [True, False, False, False, False],
        "torso": [False, True, True, False, False],
        "tail": [False, False, False, True, False],
        "seen": [True, True, True, True, False],
        "new": [False, False, False, False, True],
    }


@given(hnp.arrays(np.int32, st.integers(1, 50), elements=st.integers(0, 1000)))
def test_stream_segments_part_the_rows(past: np.ndarray) -> None:
    segments = by_past_impressions(past)
    assert list(segments) == ["all", "0", "1-9", "10-49", "50-199", "200+"]
    parts = np.stack([rows for name, rows in segments.items() if name != "all"])
    assert (parts.sum(0) == 1).all()
    assert np.array_equal(segments["10-49"], (past >= 10) & (past < 50))
