"""Table 3b: the paper's windows, and the gap of losses made by hand."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import log_loss

from pipeline.reproduce.findings import table_3b
from pipeline.reproduce.findings.table_3b import PAPER, Window, drift_gap, windows
from pipeline.reproduce.world import Variant
from tests.unit.toy_finding import ROWS, Results, toy_study, toy_world


def test_windows_are_the_papers_hours_where_each_has_as_many_rows() -> None:
    early, late = windows(96 * 100)
    hours = np.repeat(np.arange(96), 100)  # begun since the start; the training period ends at hour 96
    assert set(hours[early]) == {48, 49, 50, 51, 52, 53}
    assert set(hours[late]) == {90, 91, 92, 93, 94, 95}


@pytest.mark.parametrize("rows", [1024, 15360, 96_001])
def test_windows_are_of_equal_size_and_apart(rows: int) -> None:
    early, late = windows(rows)
    assert late.stop == rows
    assert abs((early.stop - early.start) - (late.stop - late.start)) <= 1
    assert 0 < early.start < early.stop < late.start


def test_the_gap_of_known_losses() -> None:
    """Half of the labels are positive, so that NE is the mean loss over ln 2; the model knows the later rows better by 0.2 ln 2."""
    labels = np.tile([0.0, 1.0], 4)
    early = Window(np.full((2, 8), 0.9 * np.log(2)), labels, slice(10, 18))
    late = Window(np.array([np.full(8, 0.7), np.full(8, 0.6)]) * np.log(2), labels, slice(20, 28))
    assert drift_gap(early, late, np.ones(28)) == pytest.approx([0.2, 0.3])


def test_only_weighted_rows_count() -> None:
    labels = np.tile([0.0, 1.0], 4)
    early = Window(np.where(np.arange(8) < 4, 0.9, 50.0)[None] * np.log(2), labels, slice(10, 18))
    late = Window(np.where(np.arange(8) < 4, 50.0, 0.7)[None] * np.log(2), labels, slice(20, 28))
    weights = np.zeros(28)
    weights[10:14], weights[24:28] = 3, 5
    assert drift_gap(early, late, weights) == pytest.approx([0.2])


def test_the_paper_claims_a_smaller_gap_but_for_head() -> None:
    smaller = {segment: gaps["target_prefix_3_modulo"] < gaps["target_random_hash"] for segment, gaps in PAPER.items()}
    assert smaller == {"all": True, "head": False, "torso": True, "tail": True}


def test_gaps_of_the_segments(tmp_path: Path) -> None:
    """Semantic IDs know both windows alike, hashed ids the earlier one less; NE from scikit-learn, segments from plain counts."""
    world = toy_world(tmp_path)
    columns = world.columns(["label_click", "item_id"])
    train_rows = int(0.8 * ROWS) // 128 * 128
    labels, items = columns["label_click"][:train_rows], columns["item_id"][:train_rows]
    sure = {"target_random_hash": (-0.6, 0.6), "target_individual_untrained": (0.3, 0.6), "target_prefix_3_modulo": (0.6, 0.6)}
    early, late = windows(train_rows)

    def results(variant: Variant, seed: int) -> Results:
        signs = (2.0 * labels - 1).astype(np.float32)
        parts = zip(("early", "late"), (early, late), sure.get(variant.name, (-0.6, 0.6)), strict=True)
        return np.zeros(ROWS, np.float32), {"probe_drift": {name: how_sure * signs[rows] for name, rows, how_sure in parts}}

    def gap(variant: str, chosen: list[bool]) -> float:
        parts = []
        for rows, how_sure in zip((early, late), sure[variant], strict=True):
            real = labels[rows][chosen[rows]]
            right = 1 / (1 + np.exp(-how_sure))
            entropy = log_loss(real, np.full(len(real), real.mean()), labels=[0, 1])
            parts.append(log_loss(real, np.where(real, right, 1 - right), labels=[0, 1]) / entropy)
        return parts[0] - parts[1]

    ids = list(dict.fromkeys(sorted(items.tolist())))
    ranked = sorted(ids, key=lambda item: -items.tolist().count(item))
    torso = set(ranked[1 : 1 + round(0.055 * len(ids))])  # the head is one item
    segments = {"all": [True] * train_rows, "torso": [item in torso for item in items.tolist()]}
    rows = {row.what: row for row in table_3b.find(toy_study(world, table_3b, results)).rows}
    assert len(rows) == 16
    for name, chosen in segments.items():
        numbers = f"{name} ({sum(chosen[early]):,} and {sum(chosen[late]):,} rows)"
        for variant, words in table_3b.WORDS.items():
            ours = rows[f"Gap of {words}: {numbers}"].ours
            assert ours is not None
            assert ours.mean == pytest.approx(gap(variant, chosen), rel=1e-5)
        claim = rows[f"Gap of Semantic IDs minus that of random hash: {numbers}"]
        assert claim.ours is not None
        assert claim.control is not None
        assert claim.ours.mean == pytest.approx(gap("target_prefix_3_modulo", chosen) - gap("target_random_hash", chosen), rel=1e-5)
        assert claim.control.mean == pytest.approx(0, abs=1e-9)
        assert claim.verdict == ("confirmed" if name == "all" else "not testable")  # so few rows have no interval
