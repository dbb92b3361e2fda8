"""The stages' stamps: what makes a stage run again, and what does not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from features.dataset import MANIFEST
from launch.chain import ROOT
from pipeline import cli
from pipeline import stage as stages
from pipeline.config import RunConfig
from pipeline.recipe import load
from pipeline.stage import BY_SOURCE, STAGES, Stage, chain, is_current, mark_current, mark_outdated
from tests.unit.test_config import MINIMAL


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "log.csv").write_text("1,2\n")
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, "workdir": str(tmp_path / "run"), "ingest": {"source": "ifdb", "raw": str(raw)}}))
    return load(str(path))


def finish(stage: Stage, config: RunConfig, contents: str = "1") -> None:
    """What a stage leaves: its outputs with their manifests, then the stamp."""
    for name in stage.writes:
        folders = [config.path(name, source) for source in config.embed.sources] if name in BY_SOURCE else [config.path(name)]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / MANIFEST).write_text(f"{stage.name} {name} {contents}")
    mark_current(stage, config)


def current(config: RunConfig) -> list[str]:
    return [stage.name for stage in chain(config) if is_current(stage, config)]


@pytest.fixture
def finished(config: RunConfig) -> RunConfig:
    for stage in chain(config):
        finish(stage, config)
    assert current(config) == ["ingest", "embed", "quantize", "assign", "enrich", "train", "evaluate", "report"]
    return config


def test_a_chain_begins_with_the_source_that_the_recipe_names(config: RunConfig) -> None:
    names = [stage.name for stage in chain(config)]
    assert names[0] == "ingest"
    assert "simulate" not in names
    simulated = config.model_copy(update={"ingest": config.ingest.model_copy(update={"source": "simulated"})})
    assert [stage.name for stage in chain(simulated)] == ["simulate", *names[1:]]


def test_every_stage_reads_only_what_an_earlier_one_writes(config: RunConfig) -> None:
    written: set[str] = set()
    for stage in chain(config):
        assert set(stage.reads) <= written, stage.name
        written |= set(stage.writes)


def test_every_setting_that_a_stage_depends_on_exists() -> None:
    assert {name for stage in STAGES.values() for name in stage.settings} <= set(RunConfig.model_fields)


def test_nothing_is_current_before_it_has_run(config: RunConfig) -> None:
    assert current(config) == []


def test_a_changed_setting_outdates_its_stages_alone(finished: RunConfig) -> None:
    changed = finished.model_copy(update={"quantize": finished.quantize.model_copy(update={"seed": 9})})
    assert current(changed) == ["ingest", "embed", "assign", "enrich", "train", "evaluate", "report"]
    finish(STAGES["quantize"], changed)
    assert "assign" not in current(changed)
    assert "quantize" not in current(finished), "its outputs are now another configuration's"


def test_the_runs_name_outdates_nothing(finished: RunConfig) -> None:
    assert len(current(finished.model_copy(update={"name": "other"}))) == 8


def test_a_changed_raw_file_outdates_ingestion(finished: RunConfig) -> None:
    raw = finished.ingest.raw
    assert raw is not None
    (raw / "more.csv").write_text("3,4\n")
    assert "ingest" not in current(finished)


def test_changed_contents_outdate_the_readers(finished: RunConfig) -> None:
    (finished.path("enriched") / MANIFEST).write_text("other")
    assert current(finished) == ["ingest", "embed", "quantize", "assign", "enrich", "report"]


def test_one_source_s_contents_outdate_the_readers_and_its_loss_the_writer(config: RunConfig) -> None:
    two = config.model_copy(update={"embed": config.embed.model_copy(update={"sources": ("text", "vector_image")})})
    for stage in chain(two):
        finish(stage, two)
    assert len(current(two)) == 8
    assert "embed" not in current(config)
    (two.path("content", "vector_image") / MANIFEST).write_text("other")
    assert not {"quantize", "assign"} & set(current(two))
    finish(STAGES["quantize"], two)
    two.path("codebook", "vector_image").rename(two.path("elsewhere"))
    assert "quantize" not in current(two)


@pytest.mark.parametrize("lost", ["impressions", "items"])
def test_a_lost_output_outdates_its_writer(finished: RunConfig, lost: str) -> None:
    finished.path(lost).rename(finished.path("elsewhere"))
    assert "ingest" not in current(finished)


def test_changed_code_outdates_every_stage(finished: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "ALL_CODE", ("features/*.py",))
    assert current(finished) == []


def test_an_interrupted_run_outdates_the_stage_under_its_old_settings_too(finished: RunConfig) -> None:
    mark_outdated(STAGES["train"], finished)
    assert current(finished) == ["ingest", "embed", "quantize", "assign", "enrich", "report"]
    mark_outdated(STAGES["train"], finished)  # nothing to forget is no error


def test_the_command_skips_a_current_stage_and_forgets_the_stamp_of_one_that_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(
        yaml.safe_dump({**MINIMAL, "workdir": str(tmp_path / "run"), "ingest": {"source": "ifdb", "raw": str(tmp_path / "no")}})
    )
    config = load(str(path))
    finish(STAGES["ingest"], config)
    assert cli.main(["ingest", str(path)]) == 0
    assert capsys.readouterr().out == "ingest: up to date\n"
    assert cli.main(["ingest", str(path), "--force"]) == 2
    assert str(tmp_path / "no") in capsys.readouterr().err
    assert not is_current(STAGES["ingest"], config)


RUN_MODULES = """
import runpy, sys
for stage in sys.argv[1].split(","):
    sys.argv = [stage, "--help"]
    try:
        runpy.run_module(f"pipeline.{stage}", run_name="__main__")
    except SystemExit as end:
        print(f"end of {stage} {end.code}")
"""


def test_every_stage_has_a_module_with_an_entry_and_a_help_with_an_example() -> None:
    command = [sys.executable, "-c", RUN_MODULES, ",".join(STAGES)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    helps = " ".join(result.stdout.split())
    for stage in STAGES:
        assert f"example: semid {stage} simulated" in helps
        assert f"end of {stage} 0" in helps


def test_an_error_is_left_where_the_launcher_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    assert cli.main(["nonexist"], stage="ingest") == 2
    message = json.loads((tmp_path / "error.json").read_text())["message"]
    assert message["message"].startswith("semid ingest: recipe 'nonexist'")
    assert message["errorCode"] == 2
    assert int(message["extraInfo"]["timestamp"]) > 0
