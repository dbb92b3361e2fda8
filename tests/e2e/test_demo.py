"""`semid demo`: what it refuses, what it skips, what it prints, and what a failing stage makes of it."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from features.errors import InputError
from launch.chain import ROOT
from pipeline import demo
from pipeline.config import RunConfig
from pipeline.recipe import load, raw_files
from pipeline.stage import BY_SOURCE, chain, mark_current
from tests.unit.test_config import MINIMAL

CELL = {"ne": 0.9, "auc": 0.7, "calibration": 1.0, "gain": None, "low": None, "high": None}
JUDGED = {
    "segments": [{"name": "all", "rows": 3, "by": None}, {"name": "new", "rows": 1, "by": "training_impressions"}],
    "variants": {"random_hash": {"all": CELL, "new": CELL}},
}
RESULTS = {
    "name": "tiny", "baseline": "random_hash", "seeds": [0], "table_rows": {"random_hash": 10}, "frozen": JUDGED, "progressive": JUDGED,
    "data": {"source": "ifdb", "negatives": "none", "rows": 9, "train_rows": 6, "evaluation_rows": 3}, "curve": {},
}  # fmt: skip


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, "workdir": str(tmp_path / "run"), "ingest": {"source": "ifdb"}}))
    (tmp_path / "raw").mkdir()
    return path


def options(recipe: Path, data_dir: str | None) -> argparse.Namespace:
    return argparse.Namespace(data=str(recipe), data_dir=data_dir, set=[])


def finished(recipe: Path) -> RunConfig:
    """A run whose stages have all left their outputs and stamps."""
    config = load(str(recipe), [f"ingest.raw={recipe.parent / 'raw'}"])
    for stage in chain(config):
        for name in stage.writes:
            config.path(name, "text" if name in BY_SOURCE else None).mkdir(parents=True)
        if stage.name == "evaluate":
            (config.path("evaluate") / "results.json").write_text(json.dumps(RESULTS))
        mark_current(stage, config)
    return config


@pytest.mark.parametrize(
    ("folder", "told"), [(None, "--data-dir is missing: the folder of the raw files of"), ("no/such", "--data-dir no/such: no")]
)
def test_a_real_log_needs_its_folder(recipe: Path, folder: str | None, told: str) -> None:
    with pytest.raises(InputError, match=told):
        demo.run(options(recipe, folder))


def test_the_simulated_world_takes_no_folder() -> None:
    with pytest.raises(InputError, match="no raw files"):
        demo.run(argparse.Namespace(data="simulated", data_dir=".", set=[]))


def test_a_parent_folder_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my: logs" / "ifdb").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for folder in ("my: logs", "my: logs/ifdb"):
        (override,) = raw_files("ifdb", folder)
        key, _, value = override.partition("=")
        assert (key, yaml.safe_load(value)) == ("ingest.raw", str(tmp_path / "my: logs" / "ifdb"))


def test_a_finished_run_starts_no_process_and_prints_tables_and_report(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = finished(recipe)
    assert demo.run(options(recipe, str(recipe.parent / "raw"))) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:8] == [f"{stage.name}: up to date" for stage in chain(config)]
    assert lines[8] == "   total     0.0 s"
    assert sum(line.startswith(" random_hash") for line in lines) == 2
    assert lines[-1] == f"report: {config.path('report') / 'report.html'}"
    assert not (config.workdir / "logs").exists()


def test_a_stage_that_the_user_can_mend_ends_the_demo_with_exit_code_2(recipe: Path) -> None:
    code = (
        "import sys; from argparse import Namespace; from pipeline import demo\n"
        "sys.exit(demo.run(Namespace(data=sys.argv[1], data_dir=sys.argv[2], set=[])))"
    )
    command = [sys.executable, "-c", code, str(recipe), str(recipe.parent / "raw")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stdout == "ingest: raw files as published to canonical Parquet\n"
    first, last = result.stderr.splitlines()
    assert first.startswith("  ingest | semid ingest: ")
    assert last.startswith(f"semid demo: ingest: {first.removeprefix('  ingest | ')}")
    assert f"(exit code 2; logs in {recipe.parent / 'run' / 'logs'}" in last
