"""Table 3a: gains of made-up scores on the segments of the rows after training."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.reproduce.findings import table_3a
from pipeline.reproduce.world import Variant
from tests.unit.toy_finding import ROWS, Results, toy_study, toy_world


def test_gains(tmp_path: Path) -> None:
    """Logits of +a for clicks and -a for others lose ln(1 + e^-a) each; Semantic IDs alone know new items."""
    world = toy_world(tmp_path)
    columns = world.columns(["label_click", "item_id"])
    clicks, items = columns["label_click"], columns["item_id"].tolist()
    train_rows = int(0.8 * ROWS) // 128 * 128
    seen = set(items[:train_rows])
    is_new = np.array([item not in seen for item in items])
    individual = {"target_individual_untrained": 0.3, "target_individual": 0.4}

    def results(variant: Variant, seed: int) -> Results:
        how_sure = np.full(ROWS, individual.get(variant.name, 0.2))
        if variant.name == "target_prefix_3_modulo":
            how_sure[is_new] = 0.5
        return ((2.0 * clicks - 1) * how_sure).astype(np.float32), {}

    finding = table_3a.find(toy_study(world, table_3a, results))
    rows = {row.what.split(" (")[0]: row for row in finding.rows}
    assert len(finding.plots) == 1
    assert len(rows) == 18

    def loss(how_sure: float) -> float:
        return float(np.log1p(np.exp(-how_sure)))

    new = int(is_new[train_rows:].sum())
    after = ROWS - train_rows
    expected = {
        "random hash: new": loss(0.5) / loss(0.2),
        "random hash: seen": 1.0,
        "random hash: head": 1.0,
        "random hash: all": (new * loss(0.5) + (after - new) * loss(0.2)) / (after * loss(0.2)),
        "a row per item: new": loss(0.5) / loss(0.3),
        "a row per item: tail": loss(0.2) / loss(0.3),
        "a row per item + unknown row: new": loss(0.5) / loss(0.4),
    }
    for what, ratio in expected.items():
        ours = rows[f"Semantic IDs against {what}"].ours
        assert ours is not None
        assert ours.mean == pytest.approx(100 * (ratio - 1), rel=1e-4, abs=1e-6)
    verdicts = {segment: rows[f"Semantic IDs against random hash: {segment}"].verdict for segment in table_3a.PAPER}
    assert verdicts["new"] == "confirmed"
    assert verdicts["head"] == "confirmed"  # the paper prints zero
    assert verdicts["tail"] == "not confirmed"
    control = rows["Semantic IDs against random hash: new"].control
    assert control is not None
    assert control.mean == pytest.approx(0, abs=1e-9)
