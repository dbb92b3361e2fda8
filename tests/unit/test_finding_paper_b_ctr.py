"""Dense content as columns: components against scikit-learn, the log against a dictionary; and what is trained."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA

from features.dataset import open_dataset, read_table
from pipeline.reproduce.core import core
from pipeline.reproduce.findings import paper_b_ctr
from pipeline.reproduce.findings.paper_b_ctr import principal_components, stored, variants, write_dense_content
from pipeline.reproduce.study import merged
from tests.unit.toy_world import toy_world


def test_components_are_the_whitened_ones_of_another_library() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(400, 12)) @ np.diag(np.linspace(1, 4, 12)) + 7
    found, expected = principal_components(vectors, 5), PCA(5, whiten=True).fit_transform(vectors) * np.sqrt(400 / 399)
    assert np.abs(found) == pytest.approx(np.abs(expected), rel=1e-6, abs=1e-6)
    assert np.allclose(found.T @ found / 400, np.eye(5))


def test_there_are_no_more_components_than_directions() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 2)) @ np.ones((2, 9)) + np.arange(9)
    assert principal_components(vectors, 32).shape == (50, 1)


def test_the_ranker_s_logarithm_undoes_what_is_stored() -> None:
    values = np.array([-9.0, -0.5, 0, 1e-3, 7])
    columns = stored(values).astype(np.float32)
    assert np.copysign(np.log1p(np.abs(columns)), columns) == pytest.approx(values, rel=1e-6)


def test_each_row_has_its_target_s_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = toy_world(tmp_path)
    monkeypatch.setattr(paper_b_ctr, "COMPONENTS", 3)
    write_dense_content(world, tmp_path / "dense")
    ids, vectors = world.vectors
    content = dict(zip(ids.tolist(), stored(principal_components(vectors.astype(np.float64), 3)), strict=True))
    log, made = read_table(world.impressions), read_table(open_dataset(tmp_path / "dense"))
    assert made.select(log.column_names).equals(log)
    columns = np.stack([made.column(f"dense_content_0{number}").to_numpy() for number in range(3)], 1)
    expected = np.array([content.get(item, np.zeros(3)) for item in log.column("item_id").to_pylist()])
    assert columns == pytest.approx(expected, rel=1e-6)
    assert (expected == 0).all(axis=1).any()  # an item without content


def test_what_is_compared_has_equal_rows(tmp_path: Path) -> None:
    world = toy_world(tmp_path)
    known = merged([*core(world), *variants(world)])
    rows = world.config.model.rows
    for suffix, size in (("", rows), ("_at_0.5_rows", rows // 2), ("_at_2_rows", 2 * rows)):
        for name in ("random_hash", "paper_b_spm"):
            assert world.run_config(known[name + suffix], 0).model.rows_of(name.replace("paper_b_spm", "semantic_id")) == size
    assert world.run_config(known["dense_content"], 0).location("impressions").path.endswith("logs/dense_content")
