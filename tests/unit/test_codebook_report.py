"""The quality report's measurements against brute force over pairs and scikit-learn, and `semid quantize --inspect` as a whole."""

import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from features.content import Content, content_schema, content_table
from features.dataset import DatasetWriter, open_dataset
from features.errors import InputError
from features.schema import ITEMS
from models.quantizers.codebook import ContentOrigin, measure, save
from models.quantizers.codebook_report import CodebookReport, inspect
from models.quantizers.collisions import collisions
from models.quantizers.config import QuantizerConfig
from models.quantizers.fitting import fit
from models.quantizers.kinds import build
from models.quantizers.neighbours import NeighbourAgreement, neighbour_agreement, prefix_groups
from models.quantizers.quantizer import Quantizer
from pipeline.cli import main

K, L, DIM, ITEM_COUNT = 8, 3, 12, 400
SMALL = QuantizerConfig(levels=L, codebook_size=K, hidden_dims=(16,), latent_dim=8, epochs=2, batch_size=64)
EVIL = "<b>bold</b> & long " + "word " * 40


def vectors(seed: int = 0) -> np.ndarray:
    """Items in 10 clusters, each item and its near copy."""
    rng = np.random.default_rng(seed)
    half = rng.normal(size=(10, DIM))[rng.integers(0, 10, ITEM_COUNT // 2)] * 2 + rng.normal(size=(ITEM_COUNT // 2, DIM))
    return np.concatenate([half, half + 0.01 * rng.normal(size=half.shape)]).astype(np.float32)


@pytest.fixture(scope="module")
def measured() -> tuple[Quantizer, np.ndarray, np.ndarray, CodebookReport]:
    """A trained model, its vectors, their codes, and the report."""
    x = vectors()
    model = fit(torch.from_numpy(x), SMALL)
    return model, x, model.encode(torch.from_numpy(x)).numpy(), inspect(model, torch.from_numpy(x))


def test_use_and_collisions_are_those_that_counting_gives(measured: tuple[Quantizer, np.ndarray, np.ndarray, CodebookReport]) -> None:
    _, _, codes, report = measured
    for level, use in enumerate(report.levels):
        counts = Counter(codes[:, level].tolist())
        assert use.usage == len(counts) / K
        assert use.entropy_bits == pytest.approx(-sum(n / ITEM_COUNT * np.log2(n / ITEM_COUNT) for n in counts.values()))
        assert use.entropy_share == pytest.approx(use.entropy_bits / 3)
        assert (use.largest, use.largest_share) == (max(counts.values()), max(counts.values()) / ITEM_COUNT)
    sizes = Counter(map(tuple, codes.tolist())).values()
    expected = [[n for n in sizes if low <= n <= high] for low, high in ((1, 1), (2, 2), (3, 3), (4, 10), (11, 10**9))]
    assert report.collisions.ids == tuple(map(len, expected))
    assert report.collisions.items == tuple(map(sum, expected))
    assert report.collisions.largest == max(sizes)
    assert report.collisions.unique_share == len(expected[0]) / ITEM_COUNT


def test_each_bin_of_the_collision_histogram_has_its_edges() -> None:
    found = collisions(np.array([1, 1, 2, 3, 4, 10, 11, 500]))
    assert found.ids == (2, 1, 1, 2, 2)
    assert found.items == (2, 2, 3, 14, 511)
    assert found.largest == 500


def test_prefix_clusters_are_those_of_all_pairs(measured: tuple[Quantizer, np.ndarray, np.ndarray, CodebookReport]) -> None:
    _, x, codes, report = measured
    unit = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    for row in report.prefixes:
        prefixes = [tuple(code[: row.length]) for code in codes.tolist()]
        cosines = [unit[a] @ unit[b] for a, b in combinations(range(ITEM_COUNT), 2) if prefixes[a] == prefixes[b]]
        sizes = list(Counter(prefixes).values())
        assert row.clusters == len(sizes)
        assert row.cosine == pytest.approx(np.mean(cosines), abs=1e-5)
        assert (row.mean, row.median, row.p90) == pytest.approx((np.mean(sizes), np.median(sizes), np.percentile(sizes, 90)))
        assert row.largest == max(sizes)


def test_neighbours_agree_with_scikit_learn_and_all_pairs(measured: tuple[Quantizer, np.ndarray, np.ndarray, CodebookReport]) -> None:
    _, x, codes, report = measured
    found = report.neighbours
    assert isinstance(found, NeighbourAgreement)
    assert (found.items, found.queries, found.nearest) == (ITEM_COUNT, ITEM_COUNT, 10)
    near = NearestNeighbors(n_neighbors=11, metric="cosine", algorithm="brute").fit(x.astype(np.float64)).kneighbors(return_distance=False)
    near = near[:, :10]
    for length in range(1, L + 1):
        shared = (codes[near][..., :length] == codes[:, None, :length]).all(-1)
        assert found.near_share[length - 1] == pytest.approx(shared.mean(), abs=1e-3)  # of equally near ones either may be taken
        same = (codes[:, None, :length] == codes[None, :, :length]).all(-1)
        assert found.random_share[length - 1] == pytest.approx((same.sum() - ITEM_COUNT) / (ITEM_COUNT * (ITEM_COUNT - 1)))


def test_the_rank_of_an_item_of_the_same_id_is_found_by_sorting() -> None:
    # Items come in pairs of one id, so that the random mate is no matter of chance.
    x = vectors()
    codes = np.concatenate([np.arange(ITEM_COUNT // 2), np.arange(ITEM_COUNT // 2)])[:, None]
    unit = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    mates = (np.arange(ITEM_COUNT) + ITEM_COUNT // 2) % ITEM_COUNT
    for shift in (0, 57):  # with the shift the mates are strangers
        shifted = np.roll(mates[: ITEM_COUNT // 2], shift)
        codes[shifted, 0] = np.arange(ITEM_COUNT // 2)
        partner = np.empty(ITEM_COUNT, np.int64)
        partner[: ITEM_COUNT // 2], partner[shifted] = shifted, np.arange(ITEM_COUNT // 2)
        order = np.argsort(-cosines, axis=1)
        ranks = np.argmax(order == partner[:, None], axis=1) + 1
        found = neighbour_agreement(torch.from_numpy(x), prefix_groups(codes, ITEM_COUNT), queries=ITEM_COUNT, nearest=5, seed=3)
        assert found.mate_rank[0] == pytest.approx(np.median(ranks), abs=1)
        assert (np.median(ranks) == 1) == (shift == 0)


def test_items_alone_with_their_id_have_no_rank_and_many_blocks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, alone = torch.from_numpy(vectors()), np.arange(ITEM_COUNT)[:, None]
    assert neighbour_agreement(x, prefix_groups(alone, ITEM_COUNT), queries=50, nearest=5, seed=0).mate_rank == (None,)
    groups = prefix_groups(np.random.default_rng(0).integers(0, K, (ITEM_COUNT, L)), K)
    at_once = neighbour_agreement(x, groups, queries=101, nearest=5, seed=0)
    monkeypatch.setattr("models.quantizers.neighbours.BLOCK_CELLS", 7 * ITEM_COUNT)
    assert neighbour_agreement(x, groups, queries=101, nearest=5, seed=0) == at_once


def test_examples_are_items_of_their_prefix(measured: tuple[Quantizer, np.ndarray, np.ndarray, CodebookReport]) -> None:
    _, _, codes, report = measured
    assert {len(example.prefix) for example in report.examples} == {1, 2, 3}
    for example in report.examples:
        of_prefix = (codes[:, : len(example.prefix)] == example.prefix).all(1)
        assert example.size == of_prefix.sum() > 1
        assert of_prefix[list(example.rows)].all()
        assert len(set(example.rows)) == min(5, example.size)
    largest = Counter(codes[:, 0].tolist()).most_common(1)[0][1]
    assert report.examples[0].size == largest


@pytest.mark.parametrize("kind", ["rqkmeans", "rqfsq"])
def test_other_kinds_of_quantizers_are_inspected_too(kind: str) -> None:
    config = QuantizerConfig(kind=kind, codebook_size=K, levels=2) if kind == "rqkmeans" else SMALL.model_copy(update={"kind": kind})
    x = torch.from_numpy(vectors())
    report = inspect(fit(x, config), x)
    assert report.items == ITEM_COUNT
    assert len(report.levels) == config.levels


def test_what_is_wrong_is_said() -> None:
    same = torch.ones(60, DIM) + torch.arange(60)[:, None].remainder(2)  # two different vectors
    model = build(DIM, SMALL)  # untrained: every code is equal
    problems = " / ".join(inspect(model, same).problems)
    assert "level 1 uses 12.5% of its 8 codes" in problems
    assert "level 3 uses 12.5% of its 8 codes" in problems
    assert "only 0.0% of the items have a Semantic ID of their own; one is shared by 60" in problems
    assert "items that share 1 codes are no more alike (cosine 1.00) than those that share fewer (1.00)" in problems
    assert inspect(model, same[:1]).neighbours is None


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """A codebook as the stage publishes it, its content and its items beside it."""
    x, ids = vectors(), np.arange(ITEM_COUNT) * 3
    write_content(tmp_path / "content" / "text", x)
    texts = {"title": [EVIL if i % 2 else None for i in range(ITEM_COUNT)], "text": [f"text of {i}" for i in ids]}
    columns = {name: pa.array(texts[name]) if name in texts else pa.nulls(ITEM_COUNT, ITEMS.field(name).type) for name in ITEMS.names}
    with DatasetWriter(tmp_path / "items", ITEMS, {}) as writer:
        writer.write(pa.table(columns | {"item_id": pa.array(ids, pa.int64())}, schema=ITEMS))
    model = fit(torch.from_numpy(x), SMALL)
    origin = ContentOrigin("../../content/text", open_dataset(tmp_path / "content" / "text").fingerprint)
    save(tmp_path / "codebook" / "text", model, measure(model, torch.from_numpy(x)), "text", content=origin)
    return tmp_path / "codebook" / "text"


def write_content(folder: Path, x: np.ndarray, source: str = "text") -> None:
    with DatasetWriter(folder, content_schema(x.shape[1]), {"source": source}) as writer:
        writer.write(content_table(Content(np.arange(len(x)) * 3, x, source, 0)))


def test_the_artifact_alone_suffices(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", "--inspect", str(artifact)]) == 0
    printed = capsys.readouterr().out
    page = (artifact.parent / "codebook_report_text.html").read_text()
    assert printed.strip().endswith(f"quality report: {artifact.parent / 'codebook_report_text.html'}")
    assert re.search(r"^ *1 +\d+\.\d% +\d\.\d\d +\d+\.\d% +\d+ \(\d+\.\d\d%\)$", printed, re.MULTILINE)
    assert "  text of " in printed
    assert "  <b>bold</b> & long word" in printed
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; long word" in page
    assert "<b>bold" not in page
    assert main(["quantize", "--inspect", str(artifact.parent)]) == 2
    assert f"codebook: a folder of codebooks, text: name one, e.g. {artifact}" in capsys.readouterr().err
    assert re.findall(r"(?:src|href)=\"(?!#)", page) == []
    assert max(map(len, re.findall(r"<div>(.*?)</div>", page))) < 160


def test_content_elsewhere_and_the_page_elsewhere(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (artifact.parents[1] / "content" / "text").rename(tmp_path / "moved")
    assert main(["quantize", "--inspect", str(artifact)]) == 2
    assert "--content DIR says where the vectors of the codebook lie" in capsys.readouterr().err
    assert main(["quantize", "--inspect", str(artifact), "--content", str(tmp_path / "moved"), "--out", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").stat().st_size > 10_000
    assert not (artifact.parent / "codebook_report_text.html").exists()


def test_other_content_is_refused_unless_it_is_asked_for(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_content(artifact.parents[1] / "content" / "text", vectors(seed=1))
    assert main(["quantize", "--inspect", str(artifact)]) == 2
    assert "no longer the content that the codebook" in capsys.readouterr().err
    assert main(["quantize", "--inspect", str(artifact), "--content", str(artifact.parents[1] / "content" / "text")]) == 0
    assert "WRONG: the items are not those that the codebook was trained on" in capsys.readouterr().out
    for source, x in (("vector_image", vectors()), ("text", vectors()[:, :5])):
        write_content(tmp_path / "other", x, source)
        assert main(["quantize", "--inspect", str(artifact), "--content", str(tmp_path / "other")]) == 2
        assert f"source '{source}' and width {x.shape[1]}, but the codebook" in capsys.readouterr().err


def test_options_that_do_not_go_together(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", "--inspect", str(artifact), "--force"]) == 2
    assert "--force does not go with --inspect" in capsys.readouterr().err
    assert main(["quantize", "simulated", "--out", "x.html"]) == 2
    assert "--out does not go without --inspect" in capsys.readouterr().err
    for arguments in ([], ["simulated", "--inspect", str(artifact)]):
        with pytest.raises(SystemExit, match="2"):
            main(["quantize", *arguments])
    assert main(["quantize", "--inspect", str(artifact / "nowhere")]) == 2
    with pytest.raises(InputError, match="no such file"):
        from models.quantizers.codebook import load

        load(artifact / "nowhere")
