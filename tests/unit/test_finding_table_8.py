"""Table 8: what is trained on which sources, gains of made-up scores, and a log that cannot tell."""

from pathlib import Path

import numpy as np
import pytest

from features.dataset import open_dataset
from features.store.versions import open_snapshot
from pipeline.recipe import with_overrides
from pipeline.reproduce.findings import table_8
from pipeline.reproduce.study import Study
from pipeline.reproduce.world import OWN, Coding, Variant, World
from tests.toy_log import CONTRACT, IMAGE, write_toy_log
from tests.unit.toy_finding import Results, toy_study, toy_world

SIX = ["vector_content", "vector_view_2", "vector_view_3", "vector_view_4", "vector_view_5", "vector_view_6"]


def two_sources(folder: Path, source: str) -> World:
    """A log whose items have two sources of content."""
    world = toy_world(folder)
    world.config = with_overrides(world.config, {"ingest.source": source, "embed.sources": [CONTRACT.source, IMAGE.source]})
    write_toy_log(world.config.workdir, rows=600, further=(IMAGE,))
    return world


def test_six_sources_of_the_simulated_world(tmp_path: Path) -> None:
    world = toy_world(tmp_path)
    found = {variant.name: variant for variant in table_8.variants(world)}
    assert len(found) == 5
    assert len({variant.coding for variant in found.values()}) == 1
    config = {name: world.run_config(variant, 0) for name, variant in found.items()}
    assert all(list(each.embed.sources) == SIX and each.model.rows == 8 * 60 for each in config.values())
    assert all(each.path("store").parent != world.config.workdir for each in config.values())
    tables = {name: each.model.representations for name, each in config.items()}
    hashed = tables["hashed_ids_alone"]
    assert [(each.kind, each.target, each.history) for each in hashed.values()] == [("random_hash", True, True)]
    six, sequence = tables["all_sources_and_hashed_ids"], tables["semantic_id_history_and_hashed_ids"]
    assert [(each.source, each.target, each.history) for each in list(six.values())[:-1]] == [(source, True, False) for source in SIX]
    assert [(each.source, each.target, each.history) for each in list(sequence.values())[:-1]] == [(SIX[0], False, True)]
    assert list(six.values())[-1] == list(sequence.values())[-1] == hashed["hashed_id"]
    for name in ("all_sources_and_hashed_ids", "semantic_id_history_and_hashed_ids"):
        control = config[f"shuffled_{name}"]
        assert control.model == config[name].model
        assert control.train.store == "store_shuffled"


def test_the_sources_have_content_of_their_own_and_the_log_of_all(tmp_path: Path) -> None:
    world = toy_world(tmp_path)
    (world.config.workdir / "content").mkdir()
    for coding, shared in ((table_8.coding(world), False), (Coding.of(levels=2), True)):
        world.share(coding)
        workdir = world.coded(coding).workdir
        assert open_dataset(workdir / "impressions").fingerprint == world.impressions.fingerprint
        assert (workdir / "content").exists() == shared
        assert workdir.name == ("levels_2" if shared else "embed.sources_" + "+".join(SIX))


def test_a_training_by_two_names_is_done_once(tmp_path: Path) -> None:
    world = toy_world(tmp_path)
    study = Study(world, [Variant("a", {"train.id_dropout": 0.1}), Variant("b", {"train.id_dropout": 0.1}), Variant("c")], (0, 1))
    assert len(study.tasks()) == 4


def test_sources_that_the_recipe_names_stay_known(tmp_path: Path) -> None:
    """Else the recipe, whose own tables no ranker of this finding has, would no longer be valid."""
    world = toy_world(tmp_path)
    named = {"semantic_id": {"kind": "semantic_id", "source": "text", "rows": 97}}
    world.config = with_overrides(world.config, {"model.representations": named})
    assert list(world.coded(table_8.coding(world)).embed.sources) == [*SIX, "text"]


def test_a_log_of_one_source_cannot_tell(tmp_path: Path) -> None:
    world = toy_world(tmp_path)
    world.config = with_overrides(world.config, {"ingest.source": "ifdb"})
    assert table_8.variants(world) == []
    finding = table_8.find(Study(world, [], (0, 1)))
    assert [row.verdict for row in finding.rows] == ["not testable"] * 4
    assert [row.paper for row in finding.rows] == ["-0.063%", "-0.071%", "-0.110%", "-0.123%"]
    assert finding.rows[0].what.startswith("6 sparse features")


def test_gains_on_a_log_of_two_sources(tmp_path: Path) -> None:
    world = two_sources(tmp_path, "canonical")
    assert table_8.coding(world) == OWN
    assert set(open_snapshot(world.config.path("store")).contracts) == {"text", "vector_image"}
    clicks = world.columns(["label_click"])["label_click"]
    sure = {"all_sources_and_hashed_ids": 0.5, "semantic_id_history_and_hashed_ids": 0.1}

    def results(variant: Variant, seed: int) -> Results:
        return ((2.0 * clicks - 1) * sure.get(variant.name, 0.2)).astype(np.float32), {}

    finding = table_8.find(toy_study(world, table_8, results))
    gains = [100 * (np.log1p(np.exp(-a)) / np.log1p(np.exp(-0.2)) - 1) for a in (0.5, 0.1)]
    assert [row.ours.mean for row in finding.rows if row.ours] == pytest.approx([*np.repeat(gains, 2)] * 2, rel=1e-5)
    assert [row.verdict for row in finding.rows] == ["confirmed"] * 2 + ["not confirmed"] * 2 + ["shown"] * 4
    assert all(row.control and row.control.mean == 0 for row in finding.rows[:4])
    assert finding.rows[0].what.startswith("2 sparse features")
    assert "topic tree" not in finding.notes[0]
