"""The whole chain for real: a small simulated world through TorchX, two ranks on one file whose rows no batch divides; then again."""

import json
import subprocess
import sys
from pathlib import Path

from launch.chain import ROOT

SIZES = {
    "simulate.impressions": 6007,
    "simulate.items": 400,
    "simulate.users": 200,
    "quantize.codebook_size": 16,
    "quantize.epochs": 3,
    "ingest.history_length": 6,
    "train.global_batch": 250,
    "train.checkpoint_every": 7,
    "evaluate.seeds": "[0, 1]",
    "evaluate.bootstrap": 100,
}
VARIANTS = ["no_item", "random_hash", "individual", "semantic_id", "semantic_id_and_random_hash", "shuffled_semantic_id"]


def test_raw_log_to_report_and_nothing_twice(tmp_path: Path) -> None:
    first = demo(tmp_path)
    assert first.returncode == 0, first.stderr[-3000:]
    results = json.loads((tmp_path / "evaluate" / "results.json").read_text())
    for part, segments in (("frozen", ["all", "head", "torso", "tail", "seen", "new"]), ("progressive", ["all", "0", "1-9"])):
        table = results[part]["variants"]
        assert list(table) == [*VARIANTS, "oracle"]
        assert all(segment in table["semantic_id"] for segment in segments)
        assert all(table["oracle"]["all"]["ne"] < table[name]["all"]["ne"] for name in VARIANTS)
        gain = table["semantic_id"]["all"]
        assert gain["low"] < gain["gain"] < gain["high"]
        assert table["random_hash"]["all"]["gain"] is None
    assert results["data"]["rows"] == 6007
    assert results["data"]["train_rows"] == 4750  # whole global batches of 80%
    assert len(list((tmp_path / "evaluate" / "runs").iterdir())) == len(VARIANTS) * 2
    report = tmp_path / "report" / "report.html"
    assert first.stdout.splitlines()[-1] == f"report: {report}"
    assert "semantic_id" in report.read_text()
    second = demo(tmp_path)
    assert second.returncode == 0
    assert second.stdout.count(": up to date") == 8
    assert second.stdout.splitlines()[-1] == first.stdout.splitlines()[-1]


def test_a_batch_that_the_ranks_do_not_divide_is_refused_in_one_line(tmp_path: Path) -> None:
    refused = demo(tmp_path, **{"train.global_batch": 251})
    assert refused.returncode == 2
    assert "train.global_batch 251 is not a multiple of ranks 2" in refused.stderr
    assert refused.stderr.count("\n") == 1


def demo(workdir: Path, **changes: object) -> subprocess.CompletedProcess[str]:
    settings = {"workdir": workdir, **SIZES, **changes}
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return subprocess.run([sys.executable, "-m", "pipeline.cli", "demo", *sets], cwd=ROOT, capture_output=True, text=True, check=False)
