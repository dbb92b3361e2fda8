"""A study of a toy log whose results a test makes up, as if all variants had been trained."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import recipe as recipes
from pipeline.reproduce.study import Study
from pipeline.reproduce.tasks import Train
from pipeline.reproduce.world import Variant, World
from tests.toy_log import toy_recipe, write_toy_log
from tests.unit.toy_study import put_scores

ROWS = 2000
Logits = NDArray[np.float32]
Results = tuple[Logits, dict[str, Mapping[str, NDArray[Any]]]]


def toy_world(folder: Path) -> World:
    """A world with a toy log and its stores."""
    world = World("toy", recipes.load("simulated", toy_recipe(folder, **{"model.rows": 60})), folder)
    write_toy_log(world.config.workdir, rows=ROWS)
    return world


def toy_study(world: World, module: ModuleType, results: Callable[[Variant, int], Results], seeds: int = 2) -> Study:
    """Write down what the trainings of a finding would have given.

    Args:
        world: of `toy_world`.
        module: of the finding.
        results: takes a variant and a seed; gives the logits of all rows of the log, float32 [N], and by probe what it measured.
        seeds: how many.
    """
    study = Study(world, module.variants(world), tuple(range(seeds)))
    for variant in study.variants:
        for seed in study.seeds:
            logits, probed = results(variant, seed)
            assert {probe.split(":")[1] for probe in variant.probes} == probed.keys()
            put_scores(
                study, Train(variant.name, world.run_config(variant, seed), variant.probes, world.folder / "runs").results, logits, probed
            )
    return study
