"""Table 6: what is trained, and gains of made-up scores that are known by hand."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.reproduce.findings import table_6
from pipeline.reproduce.world import Variant
from tests.unit.toy_finding import Results, toy_study, toy_world


def test_the_history_alone_differs(tmp_path: Path) -> None:
    world = toy_world(tmp_path)
    settings = {variant.name: world.run_config(variant, 0) for variant in table_6.variants(world)}
    assert len(settings) == 8
    for arm in ("bypass", "transformer", "pma"):
        hashed, semantic = (settings[f"{arm}_of_{kind}_history"] for kind in ("random_hash", "semantic_id"))
        assert hashed.model.history == semantic.model.history == arm
        assert hashed.train == semantic.train
        (target, history), (other_target, other_history) = (config.model.representations.values() for config in (hashed, semantic))
        assert target == other_target
        assert (target.kind, target.target, target.history) == ("random_hash", True, False)
        assert (history.kind, other_history.kind) == ("random_hash", "semantic_id")
        assert all((each.target, each.history, each.rows) == (False, True, 60) for each in (history, other_history))
    shuffled = settings["bypass_of_shuffled_semantic_id_history"]
    assert shuffled.model == settings["bypass_of_semantic_id_history"].model
    assert shuffled.train.store == "store_shuffled"


def test_gains(tmp_path: Path) -> None:
    """Logits of +a for clicks and -a for others lose ln(1 + e^-a) each, so that gains are known."""
    world = toy_world(tmp_path)
    clicks = world.columns(["label_click"])["label_click"]
    sure = {"bypass_of_semantic_id_history": 0.5, "transformer_of_semantic_id_history": 0.3, "pma_of_semantic_id_history": 0.1}
    later = np.arange(len(clicks)) >= int(0.8 * len(clicks)) // 128 * 128  # than training, where all are surer by as much

    def results(variant: Variant, seed: int) -> Results:
        return ((2.0 * clicks - 1) * (sure.get(variant.name, 0.2) + 0.1 * later)).astype(np.float32), {}

    rows = table_6.find(toy_study(world, table_6, results)).rows
    assert [(row.ours and row.ours.mean, row.verdict) for row in rows[6:]] == [(row.ours and row.ours.mean, "shown") for row in rows[:4]]
    rows = rows[:6]
    gains = [100 * (np.log1p(np.exp(-a - b)) / np.log1p(np.exp(-0.2 - b)) - 1) for a in (0.5, 0.3, 0.1) for b in (0, 0.1)]
    assert [row.ours.mean for row in rows if row.ours] == pytest.approx(gains, rel=1e-5)
    assert [row.verdict for row in rows] == ["confirmed"] * 4 + ["not confirmed"] * 2
    assert [row.control and row.control.mean for row in rows] == [0, 0, 0, 0, None, None]
    assert [row.paper for row in rows] == ["-0.056%", "-0.085%", "-0.071%", "-0.110%", "-0.073%", "-0.100%"]
