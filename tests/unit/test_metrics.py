"""NE, AUC and calibration against scikit-learn and plain float64 NumPy."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import log_loss, roc_auc_score

from features.dataset import DatasetWriter, open_dataset
from features.segments import NAMES
from pipeline.exact_metrics import exact_metrics, exact_table, table_of_run
from pipeline.intervals import log_losses
from pipeline.metrics import BINS_PER_LOGIT, LOGIT_LIMIT, Metrics, StreamMetrics, Table, as_json


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


def streamed(logits: np.ndarray, labels: np.ndarray) -> Metrics:
    """What a stream of one task reports of all rows."""
    metrics = StreamMetrics(["click"], torch.device("cpu"))
    label, segment = torch.from_numpy(labels).float().unsqueeze(1), torch.zeros(len(labels), 2, dtype=torch.int64)
    metrics.update(torch.from_numpy(logits).unsqueeze(1), label, torch.ones(len(labels)), segment)
    return metrics.lifetime()["click"]["all"]


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
        window, again = metrics.report()
        assert again == lifetime
        assert_same(lifetime, exact_table(logits, labels, segments, ["click", "buy"]))
        assert_same(window, exact_table(logits[1536:], labels[1536:], segments[1536:], ["click", "buy"]))
        empty, still = metrics.report()
        assert still == lifetime
        assert all(np.isnan(figure) for table in empty.values() for one in table.values() for figure in one)


def assert_same(found: Table, expected: Table) -> None:
    """NE and calibration to rounding, the AUC to its half-width."""
    assert found.keys() == expected.keys()
    for task, segments in expected.items():
        assert list(found[task]) == ["all", *NAMES] == list(segments)
        for name, exact in segments.items():
            mine = found[task][name]
            assert mine.ne == pytest.approx(exact.ne, rel=1e-12)
            assert mine.calibration == pytest.approx(exact.calibration, rel=1e-12)
            assert abs(mine.auc - exact.auc) <= mine.auc_half_width + 1e-12
            assert mine.auc_half_width < 1e-3


def test_the_exact_table_agrees_with_scikit_learn_in_every_segment() -> None:
    logits, labels = (np.stack(pair, 1) for pair in zip(sample(3000, 3), sample(3000, 4), strict=True))
    logits = logits.round(2)  # so that there are ties
    generator = np.random.default_rng(5)
    segments = np.stack([generator.integers(0, 4, 3000), generator.integers(5, 10, 3000)], 1)  # segment 4 has no rows
    table = exact_table(logits, labels.astype(np.int8), segments, ["click", "buy"])
    for column, task in enumerate(("click", "buy")):
        assert all(np.isnan(figure) for figure in table[task]["200+"][:3])
        for number, name in [(None, "all"), *((number, name) for number, name in enumerate(NAMES) if number != 4)]:
            mine = np.ones(3000, bool) if number is None else (segments == number).any(1)
            z, y = logits[mine, column].astype(np.float64), labels[mine, column]
            p = 1 / (1 + np.exp(-z))
            ne = log_loss(y, p) / log_loss(y, np.full(len(y), y.mean()))
            assert table[task][name] == pytest.approx((ne, roc_auc_score(y, z), p.sum() / y.sum(), 0), rel=1e-12)


@given(st.floats(-12, 3), st.sampled_from([0.0, 1e-3, 0.1, 1.0, 5.0, 30.0]), st.integers(2, 400), st.integers(0, 2**32 - 1))
def test_the_auc_lies_within_the_half_width_at_any_click_rate(center: float, spread: float, rows: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(center, spread, rows).astype(np.float32)
    labels = (generator.random(rows) < 0.3).astype(np.float64)
    labels[:2] = 0, 1
    found, true = streamed(logits, labels), roc_auc_score(labels, logits)
    assert abs(found.auc - true) <= found.auc_half_width + 1e-12
    bins = np.clip(np.floor(logits.astype(np.float64) * BINS_PER_LOGIT), -LOGIT_LIMIT * BINS_PER_LOGIT, LOGIT_LIMIT * BINS_PER_LOGIT - 1)
    pairs = bins[labels == 1][:, None] == bins[labels == 0]
    assert found.auc_half_width == pytest.approx(pairs.mean() / 2, rel=1e-12)


@pytest.mark.parametrize("rate", [1e-3, 1e-2, 0.2, 0.5])
def test_the_bins_are_as_fine_at_a_click_rate_of_a_tenth_of_a_percent(rate: float) -> None:
    """A calibrated model whose logits have a standard deviation of 1: bins of the probability would hold nearly all rows in a few."""
    generator = np.random.default_rng(0)
    logits = generator.normal(np.log(rate / (1 - rate)), 1.0, 400_000).astype(np.float32)
    labels = (generator.random(len(logits)) < 1 / (1 + np.exp(-logits))).astype(np.float64)
    found = streamed(logits, labels)
    assert found.auc_half_width < 1e-3
    assert found.auc == pytest.approx(roc_auc_score(labels, logits), abs=2e-5)


@given(hnp.arrays(np.float32, st.integers(2, 200), elements=st.floats(-60, 60, width=32)), st.integers(0, 2**32 - 1))
def test_the_running_sums_are_exact_on_extreme_logits(logits: np.ndarray, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 2, len(logits)).astype(np.float64)
    found = streamed(logits, labels)
    z = logits.astype(np.float64)
    loss, rate = np.logaddexp(0, np.where(labels > 0, -z, z)).sum(), labels.mean()
    if 0 < rate < 1:
        assert found.ne == pytest.approx(loss / len(z) / -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate)), rel=1e-12)
    else:
        assert np.isnan(found.ne)
        assert np.isnan(found.auc)
    calibration = (1 / (1 + np.exp(-z))).sum() / labels.sum() if rate else np.nan
    assert found.calibration == pytest.approx(calibration, rel=1e-12, nan_ok=True)


def test_a_diverged_model_reports_nan_and_does_not_stop_the_run() -> None:
    figures = streamed(np.array([np.nan, np.inf, -np.inf, 0.5], np.float32), np.array([0.0, 1.0, 0.0, 1.0]))
    assert np.isnan(figures.ne)
    assert np.isnan(figures.calibration)


def test_a_segment_of_one_class_is_undefined_and_the_others_are_not() -> None:
    metrics = StreamMetrics(["click"], torch.device("cpu"))
    label = torch.tensor([[1.0], [1.0], [0.0], [1.0]])
    metrics.update(torch.zeros(4, 1), label, torch.ones(4), torch.tensor([[0, 5], [0, 5], [1, 5], [1, 5]]))
    table = metrics.lifetime()["click"]
    assert np.isnan(table["0"].ne)
    assert np.isnan(table["0"].auc)
    assert table["0"].calibration == 0.5
    assert table["1-9"] == (1.0, 0.5, 1.0, 0.5)
    assert np.isnan(table["200+"].calibration)
    assert as_json(metrics.lifetime())["click"]["0"] == {"ne": None, "auc": None, "calibration": 0.5, "auc_half_width": None}


def test_a_runs_table_is_that_of_the_rows_it_scored(tmp_path: Path) -> None:
    """Rows in time order across row groups and tasks; a run that stopped early counts the first rows alone."""
    generator = np.random.default_rng(6)
    columns: dict[str, np.ndarray] = {
        "label_click": generator.integers(0, 2, 900).astype(np.int8),
        "label_buy": generator.integers(0, 2, 900).astype(np.int8),
        "past_impressions": generator.integers(0, 300, 900).astype(np.int32),
        "dense_age_hours": generator.uniform(0, 1000, 900).astype(np.float32),
    }
    log = pa.table(columns)
    with DatasetWriter(tmp_path / "impressions", log.schema, {}, rows_per_group=128) as writer:
        writer.write(log)
    logits = generator.normal(size=(700, 2)).astype(np.float32)
    table = table_of_run(logits, open_dataset(tmp_path / "impressions"), ["click", "buy"])
    for column, task in enumerate(("click", "buy")):
        chosen = {"1-9": ("past_impressions", 1, 10), "under a day": ("dense_age_hours", 0, 24), "7-30 days": ("dense_age_hours", 168, 720)}
        for name, (by, low, high) in chosen.items():
            mine = (columns[by][:700] >= low) & (columns[by][:700] < high)
            assert table[task][name].auc == pytest.approx(
                roc_auc_score(columns[f"label_{task}"][:700][mine], logits[mine, column]), rel=1e-12
            )
