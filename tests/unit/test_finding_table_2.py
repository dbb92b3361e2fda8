"""Table 2: the paper's numbers, the order that they claim, and what each scheme is trained with."""

from pathlib import Path

import numpy as np
import pytest

from features.parameterization import Ngrams
from pipeline import recipe as recipes
from pipeline.reproduce.core import core
from pipeline.reproduce.findings import table_2
from pipeline.reproduce.study import merged
from pipeline.reproduce.world import OWN, Variant, World
from tests.toy_log import write_toy_log
from tests.unit.toy_finding import Results, toy_study, toy_world

K = 128


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World("simulated", recipes.load("simulated", [f"quantize.codebook_size={K}"]), tmp_path)


def test_the_order_is_that_of_the_papers_numbers() -> None:
    for better, worse in table_2.ORDER:
        mine, theirs = table_2.SCHEMES[better].paper, table_2.SCHEMES[worse].paper
        assert mine is not None
        assert theirs is not None
        assert mine < theirs


def test_each_scheme_fits_its_codes_and_the_rows(world: World) -> None:
    shapes, depths = {}, {}
    for variant in merged([*core(world), *table_2.variants(world)]).values():
        config = world.run_config(variant, 0)  # raises where the settings do not fit each other
        if variant.name in table_2.SCHEMES:
            table = config.model.representations["target"]
            assert (table.target, table.history, config.model.rows_of("target")) == (True, False, config.model.rows)
            assert config.model.representations["hashed_history"].kind == "random_hash"
            shapes[variant.name] = (table.chosen_scheme, config.quantize.levels, config.quantize.codebook_size)
            if table.chosen_scheme != "spm":
                assert table.chosen_mapping == "modulo"
                depth = table.chosen_depth if table.chosen_scheme == "prefix_ngram" else 0
                depths[variant.name] = depth
                Ngrams(table.chosen_scheme, config.quantize.levels, config.quantize.codebook_size, depth)
    assert shapes == {
        "target_trigram": ("trigram", 3, K),
        "target_fourgram": ("fourgram", 4, K),
        "target_all_bigrams": ("all_bigrams", 4, K),
        "target_prefix_3_quarter": ("prefix_ngram", 3, K // 4),
        "target_prefix_3_half": ("prefix_ngram", 3, K // 2),
        "target_prefix_3_modulo": ("prefix_ngram", 3, K),
        "target_prefix_5": ("prefix_ngram", 6, K),
        "target_prefix_6": ("prefix_ngram", 6, K),
        "target_unigram": ("unigram", 3, K),
        "target_spm": ("spm", 3, K),
    }
    assert [depths[f"target_prefix_{depth}"] for depth in ("3_quarter", "3_half", "3_modulo", "5", "6")] == [3, 3, 3, 5, 6]


def test_the_control_differs_in_the_store_alone(world: World) -> None:
    by_name = {variant.name: variant for variant in table_2.variants(world)}
    true, control = (world.run_config(by_name[f"target_prefix_3_modulo{end}"], 0) for end in ("", "_shuffled"))
    assert control.train.store == "store_shuffled"
    assert control.model_dump(exclude={"train": {"store"}}) == true.model_dump(exclude={"train": {"store"}})


def test_gains(tmp_path: Path) -> None:
    """Logits of +a for clicks and -a for others lose ln(1 + e^-a) each, so that gains are known."""
    world = toy_world(tmp_path)
    for seed, coding in enumerate({variant.coding for variant in table_2.variants(world)} - {OWN}, start=1):
        write_toy_log(world.folder / coding.name, rows=20, seed=seed)  # for its store
    clicks = world.columns(["label_click"])["label_click"]
    sure = {name: 0.3 - scheme.paper for name, scheme in table_2.SCHEMES.items() if scheme.paper is not None}
    sure |= {"target_random_hash": 0.3, "target_prefix_3_modulo_shuffled": 0.29, "target_unigram": 0.2, "target_spm": 0.4}

    def results(variant: Variant, seed: int) -> Results:
        return ((2.0 * clicks - 1) * sure[variant.name]).astype(np.float32), {}

    rows = table_2.find(toy_study(world, table_2, results)).rows
    pairs = [(name, "target_random_hash") for name in table_2.SCHEMES] + [*table_2.ORDER]
    pairs.append(("target_prefix_3_modulo", "target_prefix_3_modulo_shuffled"))
    gains = [100 * (np.log1p(np.exp(-sure[mine])) / np.log1p(np.exp(-sure[theirs])) - 1) for mine, theirs in pairs]
    assert [row.ours.mean for row in rows if row.ours] == pytest.approx(gains, rel=1e-4)
    assert [row.verdict for row in rows] == ["confirmed"] * 8 + ["shown"] * 2 + ["confirmed"] * 8
    assert [row.paper for row in rows[4:13]] == ["-0.097%", "-0.141%", "-0.208%", "-0.215%", "", "", "-0.063%", "-0.044%", "-0.067%"]
    assert [index for index, row in enumerate(rows) if row.control] == [5]
