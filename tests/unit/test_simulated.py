"""The simulated world has the properties that paper A reports, keeps its promises about chance and time, and repeats byte for byte."""

from itertools import combinations
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


def test_further_views_see_the_same_topics_otherwise_and_change_nothing_else(log: Any, world: World) -> None:
    seen = World(**LARGE, seed=world.seed, views=6)
    table, alone = seen.items_table(), world.items_table()
    assert table.column_names == [*alone.column_names, *(f"vector_view_{number}" for number in range(2, 7))]
    assert table.select(alone.column_names).equals(alone)
    first = next(seen.impressions_tables(5))
    assert first.equals(log.slice(0, first.num_rows))
    levels = {"content": 3, "view_2": 3, "view_3": 2, "view_4": 1, "view_5": 3, "view_6": 2}
    columns = {name: np.stack(table[f"vector_{name}"].to_numpy()) for name in levels}
    for name, vectors in columns.items():
        for level, children in enumerate((48, 6, 1), start=1):
            node = seen.leaf // children
            counts = np.maximum(np.bincount(node), 1)[:, None]
            means = np.stack([np.bincount(node, column) for column in vectors.T], 1) / counts
            explained = 1 - np.var(vectors - means[node]) / np.var(vectors)
            # Noise is a tenth of what the nodes explain; a level that is not seen explains no more than chance has it.
            assert (explained > 0.88) == (level >= levels[name]), (name, level, explained)
    for one, other in combinations(columns.values(), 2):
        assert np.abs(one - other).mean() > 0.5, "each view has directions of its own"


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


def test_likes_and_interests_leave_everything_else_as_it_is(log: Any, world: World) -> None:
    more = World(**LARGE, seed=world.seed, second_task=True, interests=True)
    rows = pa.concat_tables(more.impressions_tables(5))
    assert rows.select(log.column_names).equals(log)
    assert rows.column_names[len(log.column_names) :] == ["label_like", "context_interests"]
    click, like = (rows[f"label_{task}"].to_numpy().astype(bool) for task in ("click", "like"))
    assert not (like & ~click).any()
    assert 0.25 < like[click].mean() < 0.45


def test_likes_follow_the_topics_in_another_way_than_clicks() -> None:
    world = World(**LARGE, seed=0, second_task=True)
    rows = pa.concat_tables(world.impressions_tables(5))
    click, like = (rows[f"label_{task}"].to_numpy() for task in ("click", "like"))
    topic = world.leaf[np.searchsorted(world.item_ids, rows["item_id"].to_numpy())] // 48
    clicks, likes = np.bincount(topic, click, 12), np.bincount(topic, like, 12)
    like_rate, click_rate = likes / clicks, clicks / np.bincount(topic, minlength=12)
    assert np.ptp(like_rate) > 0.3
    assert abs(np.corrcoef(like_rate, click_rate)[0, 1]) < 0.8


def test_interests_are_the_topics_that_a_user_clicks() -> None:
    world = World(**LARGE, seed=0, interests=True)
    rows = pa.concat_tables(world.impressions_tables(5))
    topic = world.leaf[np.searchsorted(world.item_ids, rows["item_id"].to_numpy())] // 48
    lists = rows["context_interests"].combine_chunks()
    told = np.repeat(np.arange(rows.num_rows), np.diff(lists.offsets.to_numpy()))
    interested = np.zeros(rows.num_rows, bool)
    interested[told[lists.values.to_numpy() == topic[told]]] = True
    click = rows["label_click"].to_numpy()
    assert 1 < len(told) / rows.num_rows < 4
    assert click[interested].mean() > 1.3 * click[~interested].mean()
