"""An earlier quantizer knows the items of the log's first part, and no others; what it keeps of a gain, by hand."""

from pathlib import Path

import numpy as np
import pytest

from features.dataset import open_dataset, read_table
from pipeline.reproduce.findings.stability import EARLIER, part_kept
from pipeline.reproduce.tasks import Code
from pipeline.reproduce.world import Coding, existing_items
from tests.unit.toy_world import toy_world


def test_items_exist_once_created_or_shown(tmp_path: Path) -> None:
    world = toy_world(tmp_path)
    log, items = read_table(world.impressions).to_pylist(), read_table(world.items).to_pylist()
    for until in (0.25, 0.5):
        row = int(until * len(log))
        shown = {each["item_id"] for each in log[:row]}
        created = {each["item_id"] for each in items if each["created_at"] is not None and each["created_at"] < log[row]["timestamp"]}
        found = existing_items(world.config, until).tolist()
        assert found == sorted(shown | created)
        assert shown - created
        assert created - shown
        assert len(found) < len(items)


def test_an_earlier_quantizer_sees_their_content_alone(tmp_path: Path) -> None:
    world = toy_world(tmp_path)
    config = world.coded(EARLIER)
    world.share(EARLIER)
    Code(config, EARLIER.until)._write_content(earlier := world.coded(Coding(until=0.3)))
    found = read_table(open_dataset(earlier.path("content", "text")))
    ids, vectors = world.vectors
    content = dict(zip(ids.tolist(), vectors.tolist(), strict=True))
    assert sorted(found.column("item_id").to_pylist()) == sorted(set(existing_items(world.config, 0.5).tolist()) & set(content))
    assert all(content[row["item_id"]] == row["vector"] for row in found.to_pylist())


def test_codings_have_folders_of_their_own() -> None:
    codings = (Coding(), Coding(until=0.5), Coding.of(levels=4), Coding(Coding.of(levels=4).settings, 0.5), Coding(until=0.25))
    assert [each.name for each in codings] == ["own", "until_0.5", "levels_4", "levels_4-until_0.5", "until_0.25"]


def test_part_kept_by_hand() -> None:
    hashed, v1, v0 = np.array([[5.0, 3], [4, 4]]), np.array([[3.0, 3], [2, 2]]), np.array([[4.0, 3], [2, 4]])
    assert part_kept(v0, v1, hashed, np.ones(2)) == pytest.approx([50, 50])
    assert part_kept(v0, v1, hashed, np.array([1.0, 0])) == pytest.approx([50, 100])
