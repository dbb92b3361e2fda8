"""Table 4: the derived log and its training period, which must end where the whole one does; the difference of two gains by hand."""

from pathlib import Path

import numpy as np
import pytest

from features.dataset import open_dataset, read_table
from pipeline import recipe as recipes
from pipeline.reproduce.findings import table_4
from pipeline.reproduce.world import Variant, World
from tests.toy_log import write_toy_log
from tests.unit.toy_finding import Results, toy_study, toy_world


@pytest.mark.parametrize(("rows", "batch", "fraction"), [(3000, 64, 0.8), (3000, 100, 0.8), (2999, 38, 0.7), (1000, 100, 0.51)])
def test_both_training_periods_end_at_the_same_row(tmp_path: Path, rows: int, batch: int, fraction: float) -> None:
    settings = [f"train.global_batch={batch}", f"train.train_fraction={fraction}"]
    world = World("toy", recipes.load("simulated", settings), tmp_path)
    write_toy_log(world.config.workdir, rows=rows)
    ((name, make),) = table_4.logs(world).items()
    make(world.log(name))
    whole, last = (read_table(open_dataset(world.log(each))) for each in ("impressions", name))
    start = whole.num_rows - last.num_rows
    assert last.equals(whole.slice(start))
    trained = {}
    for variant in table_4.variants(world):
        config = world.run_config(variant, 0)
        dataset = open_dataset(config.location("impressions"))
        # as Trainer.train_rows has it
        trained[variant.name] = dataset.rows, int(dataset.rows * config.train.train_fraction) // batch * batch
    for long, short in ((name, name + "_last_fifth") for name in trained if not name.endswith("_last_fifth")):
        assert trained[long][0] == rows
        assert trained[short][0] == rows - start
        assert trained[short][1] + start == trained[long][1]
        assert trained[short][1] == trained[long][1] // batch // 5 * batch
    assert len(trained) == 6


def test_more_gain_of_known_losses() -> None:
    """One falls from 1.0 to 0.9 on the rows that count, the other from 0.5 to 0.48: 10% and 4%."""
    weights = np.array([1.0, 2.0, 0.0])
    mine = np.array([[0.9, 0.9, 7.0]]), np.array([[1.0, 1.0, 3.0]])
    theirs = np.array([[0.48, 0.48, 1.0]]), np.array([[0.5, 0.5, 9.0]])
    assert table_4.more_gain(mine, theirs, weights) == pytest.approx([-6.0])
    assert table_4.more_gain(mine, mine, weights) == pytest.approx([0.0])


def test_gains(tmp_path: Path) -> None:
    """Logits of +a for clicks and -a for others lose ln(1 + e^-a) each, so that gains are known."""
    world = toy_world(tmp_path)
    for name, make in table_4.logs(world).items():
        make(world.log(name))
    clicks = world.columns(["label_click"])["label_click"]
    sure = {
        "target_random_hash": 0.4,
        "target_random_hash_last_fifth": 0.3,
        "target_prefix_3_modulo": 0.7,
        "target_prefix_3_modulo_last_fifth": 0.5,
        "target_prefix_3_modulo_shuffled": 0.4,
        "target_prefix_3_modulo_shuffled_last_fifth": 0.4,
    }

    def results(variant: Variant, seed: int) -> Results:
        return ((2.0 * clicks - 1) * sure[variant.name]).astype(np.float32), {}

    rows = table_4.find(toy_study(world, table_4, results)).rows
    loss = {name: np.log1p(np.exp(-how_sure)) for name, how_sure in sure.items()}
    gain = {name: 100 * (loss[name] / loss[f"{name}_last_fifth"] - 1) for name in sure if not name.endswith("_last_fifth")}
    semantic_id, random_hash = "target_prefix_3_modulo", "target_random_hash"
    leads = [100 * (loss[semantic_id + end] / loss[random_hash + end] - 1) for end in ("_last_fifth", "")]
    expected = [gain[random_hash], gain[semantic_id], gain[semantic_id] - gain[random_hash], *leads]
    assert [row.ours.mean for row in rows if row.ours] == pytest.approx(expected, rel=1e-4)
    assert [row.verdict for row in rows] == ["confirmed"] * 3 + ["shown"] * 2
    assert rows[2].control is not None
    assert rows[2].control.mean == pytest.approx(-gain[random_hash], rel=1e-4)
