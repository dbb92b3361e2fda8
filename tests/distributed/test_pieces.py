"""Training with SPM pieces and with every other scheme on two ranks: one vocabulary, learned once, is part of the run."""

from pathlib import Path

import numpy as np
import pytest

from tests.distributed.ranks import run_ranks
from tests.toy_log import rows_of, toy_recipe, write_enriched_toy_log

TABLES = ", ".join(
    [
        "spm: {kind: semantic_id, scheme: spm, rows: 97}",
        "pairs: {kind: semantic_id, scheme: bigram, rows: 97, history: false}",
        "levels: {kind: semantic_id, scheme: unigram}",
        "overlapping: {kind: semantic_id, scheme: all_bigrams, rows: 97}",
        "triples: {kind: semantic_id, scheme: trigram, rows: 97, target: false}",
    ]
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pieces")
    write_enriched_toy_log(folder, rows=1500)
    return folder


def train(workdir: Path) -> tuple[str, np.ndarray]:
    """What the run printed, and its scores."""
    recipe = toy_recipe(workdir, **{"model.representations": f"{{{TABLES}}}"})
    done = run_ranks(2, "pipeline.train", "simulated", "--force", *(part for text in recipe for part in ("--set", text)))
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = {line.removeprefix("run ") for line in done.stdout.splitlines() if line.startswith("run ")}
    return done.stdout, np.concatenate([np.load(file) for file in sorted((Path(folder) / "scores").glob("*.npy"))])


def test_the_vocabulary_is_learned_once_and_belongs_to_the_run(workdir: Path) -> None:
    first, scores = train(workdir)
    assert f"learned from {rows_of(workdir) // 2:,} rows" in first
    assert np.isfinite(scores).all()
    (vocabulary,) = (workdir / "pieces").iterdir()
    written = {file.name: file.stat().st_mtime_ns for file in vocabulary.iterdir()}
    second, again = train(workdir)
    assert "resumed after step" in second
    assert "pieces of" not in second
    assert np.array_equal(scores, again)
    assert {file.name: file.stat().st_mtime_ns for file in vocabulary.iterdir()} == written
