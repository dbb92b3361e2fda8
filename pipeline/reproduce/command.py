"""The command `semid reproduce`: prepares the worlds, trains what the findings need, and writes reproduction.html and reproduction.json."""

import argparse
import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from features.errors import InputError
from pipeline import recipe as recipes
from pipeline.config import RunConfig
from pipeline.recipe import with_overrides
from pipeline.reproduce.core import core
from pipeline.reproduce.finding import Finding
from pipeline.reproduce.page import write
from pipeline.reproduce.runs import Code, Prepare, perform_all
from pipeline.reproduce.study import Study, merged
from pipeline.reproduce.world import OWN, Coding, Variant, World

# In the order of the page.
FINDINGS: tuple[str, ...] = ()
SHARES = (0.8, 0.4, 0.0)  # of the item effect that lies in the topics, of the simulated worlds; the first is judged by every finding


class Size(NamedTuple):
    """How much is trained: rows of the log, the latest ones of a real log; None for all that the recipe has. And training seeds."""

    rows: int | None
    seeds: int


SIZES = {"small": Size(120_000, 3), "full": Size(None, 5)}


def run(options: argparse.Namespace) -> int:
    """Reproduce on one log.

    Args:
        options: `data`, a recipe's name or path; `data_dir`, folder of the raw files; `size`, `rows`, `seeds`, `only`, `processes`, `out`
            and `set`, as `semid reproduce --help` tells.

    Raises:
        InputError: for a wrong recipe, override, folder or name of a finding.
    """
    size = _size(options)
    out = Path(options.out or f"runs/reproduction/{Path(options.data).stem}")
    modules = [importlib.import_module(f"pipeline.reproduce.findings.{name}") for name in _chosen(options.only)]
    worlds = [World(name, config, out) for name, config in _configs(options, size)]
    processes = options.processes or len(os.sched_getaffinity(0))
    logs = out / "logs"
    main, *further = worlds
    perform_all("world", [Prepare(main.config)], processes, logs)
    perform_all("other worlds", [Prepare(world.config, main.config.workdir) for world in further], processes, logs)
    seeds = tuple(range(size.seeds))
    others = tuple(Study(world, core(world), seeds) for world in further)
    variants = list(merged([*core(main), *(each for module in modules for each in module.variants(main))]).values())
    study = Study(main, variants, seeds, others)
    codings = _codings(modules, main, variants)
    for coding in codings:
        main.share(coding)
    perform_all("quantizers", [Code(main.coded(coding)) for coding in codings], processes, logs)
    _write_logs(modules, main)
    perform_all("rankers", [task for each in (study, *others) for task in each.tasks()], processes, logs)
    findings: list[Finding] = [module.find(study) for module in modules]
    write(out, study, findings)
    return 0


def _size(options: argparse.Namespace) -> Size:
    size = SIZES[options.size]
    return Size(options.rows or size.rows, options.seeds or size.seeds)


def _chosen(only: str | None) -> Sequence[str]:
    names = only.split(",") if only else FINDINGS
    for name in names:
        if name not in FINDINGS:
            raise InputError(f"--only: there is no finding '{name}'; there are {', '.join(FINDINGS)}")
    return names


def _configs(options: argparse.Namespace, size: Size) -> list[tuple[str, RunConfig]]:
    """Name and recipe of each world."""
    own_recipe = Path(options.data).is_file() and options.data_dir is None  # which says itself where its files lie
    raw = [] if own_recipe else recipes.raw_files(options.data, options.data_dir)
    config = recipes.load(options.data, [*raw, *options.set])
    if config.ingest.source != recipes.SIMULATED:
        return [(config.name, with_overrides(config, {"ingest.last_rows": size.rows} if size.rows else {}))]
    rows = {"simulate.impressions": size.rows} if size.rows else {}
    return [(f"{config.name}_{round(100 * share)}", with_overrides(config, {**rows, "simulate.semantic_share": share})) for share in SHARES]


def _codings(modules: Sequence[ModuleType], world: World, variants: Sequence[Variant]) -> list[Coding]:
    """All but the world's own, each once."""
    asked = [variant.coding for variant in variants]
    asked += [coding for module in modules for coding in getattr(module, "codings", lambda _: ())(world)]
    return [coding for coding in dict.fromkeys(asked) if coding != OWN]


def _write_logs(modules: Sequence[ModuleType], world: World) -> None:
    """The logs that findings make of the world's; a module's `logs(world)` gives name to the function that writes one into a folder."""
    for module in modules:
        for name, make in getattr(module, "logs", lambda _: {})(world).items():
            if not (world.log(name) / "made").exists():
                make(world.log(name))
                (world.log(name) / "made").touch()
