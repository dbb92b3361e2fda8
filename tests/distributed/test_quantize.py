"""Quantizers on two ranks against one, and the stage killed by SIGKILL: the same codebook on all ranks, and after going on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

from features.content import content_schema
from features.dataset import DatasetWriter
from models.quantizers.codebook import load
from tests.distributed.ranks import ROOT, run_ranks
from tests.unit.test_config import MINIMAL

ROWS, DIM = 9001, 12  # two blocks of rows, and a last batch that is short
CONFIGS = {
    "rqvae": {"codebook_size": 16, "batch_size": 512, "epochs": 3, "hidden_dims": [16], "latent_dim": 8},
    "rqvae_step": {"codebook_size": 300, "batch_size": 512, "epochs": 2, "hidden_dims": [16], "latent_dim": 8, "reset": "step"},
    "rqkmeans": {"kind": "rqkmeans", "codebook_size": 16, "batch_size": 512, "exact_passes": 3},
    "rqkmeans_large": {"kind": "rqkmeans", "levels": 2, "codebook_size": 128, "batch_size": 500, "exact_passes": 2},
    "rqfsq": {"kind": "rqfsq", "codebook_size": 16, "batch_size": 512, "epochs": 3, "hidden_dims": [16], "latent_dim": 8},
}


def write_content(path: Path, source: str = "text") -> None:
    """Items in clusters of clusters, in Parquet."""
    rng = np.random.default_rng(0)
    centres = (rng.normal(size=(8, 1, DIM)) * 4 + rng.normal(size=(8, 6, DIM))).reshape(48, DIM)
    vectors = (centres[rng.integers(0, 48, ROWS)] + rng.normal(size=(ROWS, DIM)) * 0.3).astype(np.float32)
    schema = content_schema(DIM)
    columns = [pa.array(np.arange(ROWS)), pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIM)]
    with DatasetWriter(path, schema, {"source": source}, rows_per_file=5000, rows_per_group=1024) as writer:
        writer.write(pa.table(columns, schema=schema))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, object]]]:
    """What each rank of a run on one rank and of one on two has found, by world and rank."""
    folder = tmp_path_factory.mktemp("quantize")
    write_content(folder / "content")
    for world in (1, 2):
        result = run_ranks(world, "tests.distributed.quantize_worker", str(folder / "content"), str(folder), json.dumps(CONFIGS))
        assert result.returncode == 0, result.stderr[-3000:]
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1")}


@pytest.mark.parametrize("name", CONFIGS)
def test_two_ranks_have_the_same_codebook_and_that_of_one_rank_nearly(name: str, outcomes: dict[str, dict[str, dict[str, object]]]) -> None:
    alone, first, second = (outcomes[key][name] for key in ("1-0", "2-0", "2-1"))
    assert first == second
    assert first["error"] == pytest.approx(alone["error"], rel=0.02)
    assert first["unique"] == pytest.approx(alone["unique"], abs=0.03)
    assert first["usage"] == pytest.approx(alone["usage"], abs=0.05)
    # The ranks' shares are one batch, so that one epoch's figures differ by rounding alone, before that grows.
    assert np.array(first["epochs"])[0] == pytest.approx(np.array(alone["epochs"])[0], rel=2e-3)


def test_the_configuration_that_must_reset_codes_does(outcomes: dict[str, dict[str, dict[str, object]]]) -> None:
    """300 codes for 512 items a step: most steps leave some unused at the levels that follow."""
    usage = outcomes["2-0"]["rqvae_step"]["usage"]
    assert isinstance(usage, list)
    assert min(usage) > 0.5


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    write_content(tmp_path / "run" / "content" / "text")
    path = tmp_path / "tiny.yaml"
    quantize = {**CONFIGS["rqvae"], "epochs": 12, "checkpoint_every": 5, "patience": 12}
    path.write_text(yaml.safe_dump({**MINIMAL, "workdir": str(tmp_path / "run"), "quantize": quantize}))
    return path


def stage(recipe: Path, *sets: str) -> list[str]:
    return [sys.executable, "-m", "pipeline.quantize", str(recipe), *(part for text in sets for part in ("--set", text))]


def finish(recipe: Path, *sets: str) -> tuple[str, str]:
    """Run the stage to its end; the codebook's hash and what was printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(stage(recipe, *sets), cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return load(recipe.parent / "run" / "codebook" / "text").contract.codebook_hash, result.stdout


def kill_once_saved(recipe: Path, states: int, *sets: str) -> None:
    """Start the stage, and kill it when it has published `states` states."""
    folder = recipe.parent / "run" / "quantize" / "state" / "text"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(stage(recipe, *sets), cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    newest = 0
    while newest < states and process.poll() is None:
        newest = max((int(path.name.removeprefix("state-")) for path in folder.glob("state-*")), default=0)
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed"


def test_two_ranks_train_a_codebook_for_each_source(recipe: Path) -> None:
    run = recipe.parent / "run"
    write_content(run / "content" / "vector_image", "vector_image")
    sets = ["quantize.epochs=3", "embed.sources=[text, vector_image]"]
    result = run_ranks(2, "pipeline.quantize", str(recipe), *(part for text in sets for part in ("--set", text)))
    assert result.returncode == 0, result.stderr[-3000:]
    text, image = (load(run / "codebook" / source) for source in ("text", "vector_image"))
    assert (text.contract.source, image.contract.source) == ("text", "vector_image")
    # The same vectors under two names: nothing is carried over from one training to the next.
    assert text.contract.codebook_hash == image.contract.codebook_hash
    lines = result.stdout.splitlines()
    for source in ("text", "vector_image"):
        assert sum(line.startswith(f"  {source}: epoch 3/3: ") for line in lines) == 1


@pytest.mark.parametrize("kind", ["rqvae", "rqkmeans"])
def test_a_killed_run_goes_on_to_the_same_codebook(recipe: Path, kind: str) -> None:
    sets = [] if kind == "rqvae" else ["quantize={kind: rqkmeans, codebook_size: 128, exact_passes: 5, checkpoint_every: 5}"]
    expected, _ = finish(recipe, *sets)
    (recipe.parent / "run" / "codebook" / "stage.json").unlink()
    kill_once_saved(recipe, 7, *sets)
    found, printed = finish(recipe, *sets)
    assert "goes on" in printed
    assert found == expected
    assert not list((recipe.parent / "run" / "quantize" / "state").iterdir())
