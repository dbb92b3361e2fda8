"""Alignment of a refreshed codebook: permuted labels are found again exactly, drift keeps most prefixes, and the stage that does it."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from features.content import Content, content_schema, content_table
from features.dataset import DatasetWriter
from features.errors import InputError
from features.store.versions import open_snapshot
from models.quantizers.alignment import align, kept_prefixes, matchings
from models.quantizers.codebook import load
from models.quantizers.config import QuantizerConfig
from models.quantizers.fitting import fit
from models.quantizers.quantizer import Quantizer
from pipeline import assign, quantize
from pipeline.config import RunConfig
from pipeline.recipe import validate, with_overrides

K, L, DIM = 8, 3, 12
SMALL = QuantizerConfig(levels=L, codebook_size=K, hidden_dims=(16,), latent_dim=8, epochs=3, batch_size=64)
KINDS = {
    "rqvae": SMALL,
    "rqkmeans": QuantizerConfig(kind="rqkmeans", levels=L, codebook_size=K),
    "rqfsq": SMALL.model_copy(update={"kind": "rqfsq"}),
}


def items(count: int, seed: int, shift: float = 0.0) -> Tensor:
    """Items in 20 clusters that are always the same ones, moved by `shift`."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(20, DIM)) * 3
    moved = centres + shift * np.random.default_rng(8).normal(size=centres.shape)
    return torch.tensor(moved[rng.integers(0, 20, count)] + rng.normal(size=(count, DIM)), dtype=torch.float32)


def relabelled(model: Quantizer, seed: int) -> None:
    for level in range(model.config.levels):
        model.relabel(level, torch.randperm(K, generator=torch.Generator().manual_seed(seed + level)))


@pytest.mark.parametrize("kind", KINDS)
def test_permuted_labels_of_a_model_are_found_again(kind: str) -> None:
    x = items(500, 0)
    model = fit(x, KINDS[kind])
    codes, decoded = model.encode(x).numpy(), model.decode(model.encode(x))
    relabelled(model, 3)
    permuted = model.encode(x).numpy()
    assert kept_prefixes(codes, permuted)[L - 1] < 0.1
    assert np.array_equal(align(model, codes, permuted), codes)
    assert np.array_equal(model.encode(x).numpy(), codes)
    assert torch.equal(model.decode(model.encode(x)), decoded)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 9), st.integers(1, 4), st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_any_permutation_is_undone(size: int, levels: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    old = rng.integers(0, size, (count, levels))
    names = np.stack([rng.permutation(size) for _ in range(levels)])
    found = matchings(old, names[np.arange(levels), old], size)
    for level, permutation in enumerate(found):
        assert sorted(permutation) == list(range(size))
        assert np.array_equal(permutation[names[level, old[:, level]]], old[:, level])


def test_the_matching_of_each_level_is_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        old = rng.integers(0, 4, (30, 2))
        new = np.where(rng.random((30, 2)) < 0.5, (old + 1) % 4, rng.integers(0, 4, (30, 2)))
        first, second = matchings(old, new, 4)
        kept = first[new[:, 0]] == old[:, 0]
        permutations = np.array(list(itertools.permutations(range(4))))
        assert kept.sum() == max((p[new[:, 0]] == old[:, 0]).sum() for p in permutations)
        scores = [((kept & (p[new[:, 1]] == old[:, 1])).sum(), (p[new[:, 1]] == old[:, 1]).sum()) for p in permutations]
        assert ((kept & (second[new[:, 1]] == old[:, 1])).sum(), (second[new[:, 1]] == old[:, 1]).sum()) == max(scores)


def test_a_code_that_no_item_with_a_kept_prefix_has_is_matched_by_all_items() -> None:
    # The items of old code 1 split over two new codes, so that those with the smaller one lose their prefix.
    old = np.array([[0, 0]] * 5 + [[1, 1]] * 5 + [[1, 2]] * 3)
    new = np.array([[1, 2]] * 5 + [[0, 0]] * 5 + [[2, 1]] * 3)
    first, second = matchings(old, new, 3)
    assert first.tolist() == [1, 0, 2]
    assert second.tolist() == [1, 2, 0]


def test_items_with_a_kept_prefix_outweigh_more_items_without() -> None:
    # New code 0 of level 1 stays old code 0, so the items of old codes 1 and 2 in it lose their prefix, and have no say at level 2.
    old = np.array([[0, 0]] * 5 + [[1, 1]] * 4 + [[2, 1]] * 4)
    new = np.array([[0, 1]] * 13)
    first, second = matchings(old, new, 3)
    assert first[0] == 0
    assert second[1] == 0


def test_kept_prefixes_are_of_whole_prefixes() -> None:
    old, new = np.array([[1, 2, 3], [1, 2, 3], [1, 2, 3]]), np.array([[1, 2, 4], [1, 0, 3], [1, 2, 3]])
    assert kept_prefixes(old, new) == pytest.approx((1, 2 / 3, 1 / 3))


@pytest.mark.parametrize("kind", ["rqvae", "rqkmeans"])
def test_drifted_items_keep_far_more_prefixes_than_by_chance(kind: str) -> None:
    old_items, new_items = items(800, 0), items(1000, 1, shift=0.3)
    old, scratch = fit(old_items, KINDS[kind]), fit(new_items, KINDS[kind].model_copy(update={"seed": 5}))
    warm = fit(new_items, KINDS[kind], start=old)
    old_codes = old.encode(new_items).numpy()
    kept = {}
    for name, model in (("scratch", scratch), ("warm", warm)):
        codes = model.encode(new_items).numpy()
        kept[name] = (kept_prefixes(old_codes, codes), kept_prefixes(old_codes, align(model, old_codes, codes)))
    before, after = kept["scratch"]
    assert after[0] > 2 * before[0]
    assert after[2] > 2 * before[2]
    assert kept["warm"][1][0] > 0.8
    assert kept["warm"][1][2] > after[2]


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    values = {
        "name": "small",
        "workdir": str(tmp_path / "new"),
        "ingest": {"source": "canonical"},
        "quantize": SMALL.model_dump(mode="json"),
        "model": {"representations": {"sid": {"kind": "semantic_id", "rows": 100}}},
    }
    config = validate(values, "test")
    for name, x in (("old", items(600, 0)), ("new", items(900, 1, shift=0.2))):
        write_content(tmp_path / name / "content" / "text", x)
    quantize.run(with_overrides(config, {"workdir": str(tmp_path / "old")}))
    return config


def write_content(folder: Path, x: Tensor, source: str = "text") -> None:
    with DatasetWriter(folder, content_schema(x.shape[1]), {"source": source}) as writer:
        writer.write(content_table(Content(np.arange(len(x)), x.numpy(), source, 0)))


@pytest.mark.parametrize("latent_dim", [8, 6])
def test_the_stage_refreshes_from_an_older_codebook(config: RunConfig, latent_dim: int, capsys: pytest.CaptureFixture[str]) -> None:
    older = config.workdir.parent / "old" / "codebook" / "text"
    capsys.readouterr()
    # Another latent width leaves nothing to start from, so only the names can be kept.
    quantize.run(with_overrides(config, {"quantize.refresh_from": str(older), "quantize.latent_dim": latent_dim, "quantize.seed": 4}))
    printed = capsys.readouterr().out
    old, new = load(older), load(config.path("codebook", "text"))
    assert (new.contract.generation, new.contract.aligned_with) == (2, old.contract.codebook_hash)
    assert new.contract.codebook_hash != old.contract.codebook_hash
    x = items(900, 1, shift=0.2)
    kept = kept_prefixes(old.model.encode(x).numpy(), new.model.encode(x).numpy())
    shares = {name: [float(s) for s in re.findall(r"([\d.]+)%", line)] for name, line in re.findall(r"(matched|after) (.*)", printed)}
    assert shares["after"] == pytest.approx([100 * share for share in kept], abs=0.06)
    assert kept[0] > (0.8 if latent_dim == 8 else 0.4)
    assert latent_dim == 8 or shares["matched"][0] < 35
    assert re.search(r"reconstruction error on the new content: 0\.\d{4} by the older codebook, 0\.\d{4} by the new one", printed)


def test_the_store_tells_what_its_codebook_was_aligned_with(config: RunConfig) -> None:
    older = config.workdir.parent / "old" / "codebook" / "text"
    quantize.run(with_overrides(config, {"quantize.refresh_from": str(older)}))
    assign.run(config)
    contract, shuffled = (open_snapshot(config.path(store)).contract() for store in ("store", "store_shuffled"))
    assert contract == load(config.path("codebook", "text")).contract
    assert contract.aligned_with == load(older).contract.codebook_hash
    assert shuffled.aligned_with is None  # its codes are drawn anew: they keep no meaning


def test_a_codebook_that_does_not_fit_is_refused_with_both_sides(config: RunConfig) -> None:
    older = str(config.workdir.parent / "old" / "codebook" / "text")
    refreshed = with_overrides(config, {"quantize.refresh_from": older})
    with pytest.raises(InputError, match=r"levels is 3 in .*old/codebook/text but 2 in the new codebook"):
        quantize.run(with_overrides(refreshed, {"quantize.levels": 2}))
    with pytest.raises(InputError, match=r"codebook_size is 8 in .*old/codebook/text but 16 in the new codebook"):
        quantize.run(with_overrides(refreshed, {"quantize.codebook_size": 16}))
    with pytest.raises(InputError, match="is the folder that the stage writes"):
        quantize.run(with_overrides(refreshed, {"workdir": str(config.workdir.parent / "old")}))
    with pytest.raises(InputError, match=r"codebook\.json: no such file"):
        quantize.run(with_overrides(config, {"quantize.refresh_from": "nowhere"}))
    write_content(config.path("content", "text"), items(900, 1)[:, :10])
    with pytest.raises(InputError, match=r"width is 12 in .*old/codebook/text but 10 in the new codebook"):
        quantize.run(refreshed)
    images = with_overrides(refreshed, {"embed.sources": ["vector_image"]})
    write_content(images.path("content", "vector_image"), items(900, 1), source="vector_image")
    with pytest.raises(InputError, match=r"source is 'text' in .*old/codebook/text but 'vector_image' in the new codebook"):
        quantize.run(images)


def test_of_several_sources_each_goes_on_from_its_own_codebook(config: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    older = config.workdir.parent / "old" / "codebook"
    two = with_overrides(config, {"embed.sources": ["text", "vector_image"], "quantize.refresh_from": str(older)})
    write_content(two.path("content", "vector_image"), items(700, 3)[:, :9], source="vector_image")
    capsys.readouterr()
    quantize.run(two)
    printed = capsys.readouterr().out
    assert f"quantize: {older} has no codebook of vector_image, which is trained from the start" in printed
    assert "  text: refreshed from codebook" in printed
    assert "vector_image: refreshed" not in printed
    contracts = [load(two.path("codebook", source)).contract for source in two.embed.sources]
    assert [(contract.source, contract.generation) for contract in contracts] == [("text", 2), ("vector_image", 1)]
    again = with_overrides(two, {"quantize.refresh_from": str(two.path("codebook").rename(older.parent / "both"))})
    quantize.run(again)
    assert [load(two.path("codebook", source)).contract.generation for source in two.embed.sources] == [3, 2]
    with pytest.raises(InputError, match=r"is one codebook, but embed\.sources are text, vector_image: name the folder of theirs"):
        quantize.run(with_overrides(two, {"quantize.refresh_from": str(older / "text")}))
