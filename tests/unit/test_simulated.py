"""The simulated world has the properties that paper A reports, keeps its promises about chance and time, and repeats byte for byte."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from features.dataset import open_dataset, read_table
from features.errors import InputError
from features.history import Histories, PastEvents
from features.sources.simulated import START, World
from features.sources.topic_tree import leaf_texts
from pipeline import ingest, simulate
from tests.unit.ingesting import configuration

SMALL: dict[str, Any] = {"impressions": 5000, "items": 500, "users": 100, "days": 6, "tree": (4, 3), "vector_dim": 8, "semantic_share": 0.8}
LARGE = SMALL | {"impressions": 200_000, "items": 10_000, "users": 2000, "days": 12, "tree": (12, 8, 6), "vector_dim": 16}


@pytest.fixture(scope="module", params=[0, 1])
def world(request: pytest.FixtureRequest) -> World:
    return World(**LARGE, seed=request.param)


@pytest.fixture(scope="module")
def log(world: World) -> pa.Table:
    return pa.concat_tables(world.impressions_tables(5))


def test_impressions_fall_on_head_torso_and_tail_as_in_paper_a(log: Any) -> None:
    counts = np.zeros(10_000)
    shown = np.sort(np.unique(log["item_id"], return_counts=True)[1])[::-1]
    counts[: len(shown)] = shown
    shares = counts[:10].sum(), counts[10:560].sum(), counts[560:].sum()
    assert np.array(shares) / counts.sum() == pytest.approx([0.25, 0.5, 0.25], abs=0.01)


def test_half_of_the_corpus_leaves_in_six_days(world: World) -> None:
    for moment in (0.0, 72.0, 144.0):
        alive = (world.birth <= moment) & (world.death > moment)
        # About 4,000 items are alive: three standard errors are 0.024.
        assert np.mean(world.death[alive] > moment + 144) == pytest.approx(0.5, abs=0.025)
    born = world.birth > 0
    assert np.median(world.death[born] - world.birth[born]) == pytest.approx(144, rel=0.06)
    assert 0.3 < np.mean(world.birth < 0) < 0.55


def test_items_are_shown_while_they_live(world: World, log: Any) -> None:
    place = np.searchsorted(world.item_ids, log["item_id"].to_numpy())
    hour = (log["timestamp"].cast(pa.int64()).to_numpy() - START) / 3.6e9
    millisecond = 1 / 3.6e6
    assert (hour >= world.birth[place] - millisecond).all()
    assert (hour <= world.death[place]).all()


def test_the_oracle_is_calibrated_and_leaves_room(log: Any) -> None:
    probability, click = log["oracle_probability"].to_numpy(), log["label_click"].to_numpy().astype(float)
    for low, high in ((0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1)):
        within = (probability >= low) & (probability < high)
        error = np.sqrt(probability[within].mean() / within.sum())
        assert click[within].mean() == pytest.approx(probability[within].mean(), abs=4 * error)
    assert click.mean() == pytest.approx(0.2, abs=0.01)
    entropy = -np.mean(click * np.log(probability) + (1 - click) * np.log1p(-probability))
    base = -(click.mean() * np.log(click.mean()) + (1 - click.mean()) * np.log1p(-click.mean()))
    assert 0.65 < entropy / base < 0.75


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_the_semantic_share_of_the_item_effect_lies_in_the_topic_tree(share: float) -> None:
    world = World(**(LARGE | {"items": 50_000, "semantic_share": share}), seed=3)
    means = np.bincount(world.leaf, world.effect) / np.bincount(world.leaf)
    explained = np.var(means[world.leaf]) / np.var(world.effect)
    # 576 leaf means explain 1.2% of pure noise.
    assert explained == pytest.approx(share + (1 - share) * 576 / 50_000, abs=0.02)


def test_content_vectors_and_texts_follow_the_tree(world: World) -> None:
    topics = [np.mean(world.vectors[world.leaf // 48 == topic], axis=0) for topic in range(12)]
    nearest = np.argmin([np.linalg.norm(world.vectors - topic, axis=1) for topic in topics], axis=0)
    assert np.mean(nearest == world.leaf // 48) > 0.8
    texts = world.items_table()["text"].to_pylist()
    heads: dict[str, set[int]] = {}
    for leaf, text in zip(world.leaf.tolist(), texts, strict=True):
        heads.setdefault(text.rsplit(", ", 1)[0], set()).add(leaf)
    assert all(len(leaves) == 1 for leaves in heads.values())


@pytest.mark.parametrize("tree", [(3,), (12, 8, 6), (30, 30), (2, 2, 50, 30)])
def test_every_leaf_of_any_tree_has_its_own_text(tree: tuple[int, ...]) -> None:
    assert len(set(leaf_texts(tree))) == np.prod(tree)


def test_histories_and_counts_carry_over_from_chunk_to_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("features.sources.simulated.ROWS_PER_CHUNK", 300)
    chunks = list(World(**SMALL, seed=0).impressions_tables(4))
    assert len(chunks) > 12
    log = pa.concat_tables(chunks)
    time, user, item = (log[name].cast(pa.int64()).to_numpy() for name in ("timestamp", "user_id", "item_id"))
    click = log["label_click"].to_numpy() == 1
    assert (np.diff(time) >= 0).all()
    ids, stamps = Histories(time[click], user[click], item[click]).before(time, user, 4)
    assert log["history_item_ids"].combine_chunks().to_pylist() == ids.to_pylist()
    assert log["history_timestamps"].combine_chunks().to_pylist() == stamps.to_pylist()
    counts = PastEvents(item, time).count_before(item, time)
    assert log["past_impressions"].to_numpy().tolist() == log["dense_past_count"].to_numpy().tolist() == counts.tolist()


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    prints = []
    for name, seed in (("first", 5), ("again", 5), ("other", 6)):
        config = configuration(tmp_path / name, SMALL | {"seed": seed}, source="simulated")
        simulate.run(config)
        prints.append([open_dataset(config.path(data), verify=True).fingerprint for data in ("items", "impressions")])
    assert prints[0] == prints[1]
    assert prints[0][0] != prints[2][0]
    assert prints[0][1] != prints[2][1]


def test_what_is_simulated_is_valid_canonical_input(tmp_path: Path) -> None:
    config = configuration(tmp_path / "world", SMALL, source="simulated")
    simulate.run(config)
    again = configuration(tmp_path / "again", source="canonical", raw=str(tmp_path / "world"))
    ingest.run(again)
    written, read = (read_table(open_dataset(run.path("impressions"))) for run in (config, again))
    assert read.select(written.column_names).equals(written)
    assert open_dataset(again.path("quarantine")).rows == 0


def test_last_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'ingest\.last_rows' cuts a real log"):
        simulate.run(configuration(tmp_path, SMALL, source="simulated", last_rows=10))
