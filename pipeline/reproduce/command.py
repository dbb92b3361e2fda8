"""The command `semid reproduce`: prepares the worlds, trains what the findings need, and tells what was found."""

import argparse
import importlib
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from features.errors import InputError
from features.files import write_durably
from pipeline import recipe as recipes
from pipeline.config import RunConfig
from pipeline.recipe import with_overrides
from pipeline.reproduce.core import core
from pipeline.reproduce.finding import Finding
from pipeline.reproduce.page import write
from pipeline.reproduce.results import Made
from pipeline.reproduce.runs import TaskFailed, Workers, duration, progress, stoppable
from pipeline.reproduce.study import Study, merged
from pipeline.reproduce.tasks import Code, Prepare, alone, code_behind
from pipeline.reproduce.terminal import print_findings
from pipeline.reproduce.world import OWN, Coding, Variant, World
from pipeline.stage import code_fingerprint

# In the order of the page.
FINDINGS = (
    "table_2",
    "table_3a",
    "table_3b",
    "table_4",
    "table_5",
    "table_6",
    "table_7",
    "table_8",
    "distributions",
    "click_loss",
    "copies",
    "paper_b_ctr",
    "prefix_similarity",
    "stability",
    "importance",
    "progressive",
)
VIEWS = 6  # of the content of simulated items, for paper A's six sources in production; the log is the same however many there are
SHARES = (0.8, 0.4, 0.0)  # of the item effect that lies in the topics, of the simulated worlds; the first is judged by every finding
OURS = {  # keys that this command sets itself, and what is there instead
    "workdir": "--out is the folder",
    "ranks": "each training runs on one; --processes is how many there are at a time",
    "ingest.last_rows": "--rows is the length of the log",
    "simulate.impressions": "--rows is the length of the log",
    "simulate.semantic_share": f"the worlds have {', '.join(map(str, SHARES))}",
    "train.input": "codes are looked up as the log is read",
    "train.seed": "--seeds is how many there are",
    "train.store": "findings choose it",
    "model.representations": "findings choose them",
    "evaluate": "findings choose what is compared",
}


class Size(NamedTuple):
    """How much is trained: rows of the log, the latest ones of a real log; None for all that the recipe has. And training seeds."""

    rows: int | None
    seeds: int


SIZES = {"small": Size(80_000, 3), "full": Size(None, 5)}


def run(options: argparse.Namespace) -> int:
    """Reproduce on one log.

    Args:
        options: `data`, a recipe's name or path; `data_dir`, folder of the raw files; `size`, `rows`, `seeds`, `only`, `processes`, `out`
            and `set`, as `semid reproduce --help` tells.

    Returns:
        0, whatever was found; 1 after a line on standard error, where a task has failed for no fault of the user's.

    Raises:
        InputError: for a wrong recipe, override, folder or name of a finding.
        Preempted: after SIGTERM or Ctrl-C.
    """
    size, out = _size(options), Path(options.out or f"runs/reproduction/{Path(options.data).stem}")
    modules = [importlib.import_module(f"pipeline.reproduce.findings.{name}") for name in _chosen(options.only)]
    worlds = [World(name, config, out) for name, config in _configs(options, size)]
    with stoppable(), alone(out / ".lock", wait=False) as is_alone:
        if not is_alone:
            raise InputError(f"{out}: another 'semid reproduce' is at work there")
        try:
            _reproduce(options, size.seeds, out, modules, worlds)
        except TaskFailed as failure:
            print(f"semid reproduce: {failure}", file=sys.stderr, flush=True)
            return 1
    return 0


def _reproduce(options: argparse.Namespace, seeds: int, out: Path, modules: Sequence[ModuleType], worlds: Sequence[World]) -> None:
    started, (main, *further) = time.monotonic(), worlds
    processes = options.processes or len(os.sched_getaffinity(0))
    if options.only and not any(getattr(module, "OTHER_WORLDS", False) for module in modules):
        further = []
    with Workers(processes, out / "logs") as workers:
        workers.perform("world", [Prepare(main.config)])
        workers.perform("other worlds", [Prepare(world.config, main.config.workdir) for world in further])
        others = tuple(Study(world, core(world), tuple(range(seeds))) for world in further)
        variants = list(merged([*core(main), *(each for module in modules for each in module.variants(main))]).values())
        study = Study(main, variants, tuple(range(seeds)), others)
        study.require_rows()
        codings = _codings(modules, main, variants)
        for coding in codings:
            main.share(coding)
        workers.perform("quantizers", [Code(main.coded(coding), coding.until) for coding in codings])
        _write_logs(modules, main)
        workers.perform("rankers", [task for each in (study, *others) for task in each.tasks()])
    findings: list[Finding] = []
    with progress("findings", len(modules), len(modules)) as advance:
        for module in modules:
            findings.append(module.find(study))
            advance(1)
    results = write(out, study, findings, Made(_command(options), time.monotonic() - started, processes))
    print_findings(results)
    print(
        f"\nreproduction: {out / 'reproduction.html'}, and .json and .md beside it, in {duration(time.monotonic() - started)}", flush=True
    )


def _size(options: argparse.Namespace) -> Size:
    for name in ("rows", "seeds", "processes"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} {value}: at least 1")
    size = SIZES[options.size]
    return Size(options.rows or size.rows, options.seeds or size.seeds)


def _chosen(only: str | None) -> Sequence[str]:
    """Names of findings, in the order of the page, each once."""
    if only is None:
        return FINDINGS
    names = {name.strip() for name in only.split(",")}
    for name in sorted(names.difference(FINDINGS)):
        raise InputError(f"--only: there is no finding '{name}'; there are {', '.join(FINDINGS)}")
    return [name for name in FINDINGS if name in names]


def _configs(options: argparse.Namespace, size: Size) -> list[tuple[str, RunConfig]]:
    """Name and recipe of each world."""
    for override in options.set:
        for key, instead in OURS.items():
            if f"{override.partition('=')[0]}.".startswith(f"{key}."):
                raise InputError(f"--set {override}: not here, {instead}")
    own = recipes.load(options.data, options.set)
    tells_itself = options.data_dir is None and own.ingest.raw is not None  # where its raw files lie
    config = recipes.load(options.data, [*([] if tells_itself else recipes.raw_files(own.ingest.source, options.data_dir)), *options.set])
    if config.ingest.source != recipes.SIMULATED:
        return [(config.name, with_overrides(config, {"ingest.last_rows": size.rows} if size.rows else {}))]
    simulate = {"simulate.views": max(VIEWS, config.simulate.views)} | ({"simulate.impressions": size.rows} if size.rows else {})
    return [
        (f"{config.name}_{round(100 * share)}", with_overrides(config, {**simulate, "simulate.semantic_share": share})) for share in SHARES
    ]


def _codings(modules: Sequence[ModuleType], world: World, variants: Sequence[Variant]) -> list[Coding]:
    """All but the world's own, each once."""
    asked = [variant.coding for variant in variants]
    asked += [coding for module in modules for coding in getattr(module, "codings", lambda _: ())(world)]
    return [coding for coding in dict.fromkeys(asked) if coding != OWN]


def _write_logs(modules: Sequence[ModuleType], world: World) -> None:
    """The logs that findings make of the world's; a module's `logs(world)` gives name to the function that writes one into a folder."""
    for module in modules:
        made_of = f"{world.impressions.fingerprint} {code_fingerprint(code_behind(module.__name__))}"
        for name, make in getattr(module, "logs", lambda _: {})(world).items():
            stamp = world.log(name) / "made_of"
            if not stamp.exists() or stamp.read_text() != made_of:
                print(f"log {name}", flush=True)
                stamp.unlink(missing_ok=True)
                make(world.log(name))
                write_durably(stamp, made_of.encode())


def _command(options: argparse.Namespace) -> str:
    """What to type to have the same again."""
    words = ["semid", "reproduce", "--data", options.data]
    for name in ("data_dir", "size", "rows", "seeds", "only"):
        value = getattr(options, name)
        if value is not None and (name, value) != ("size", "small"):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join([*words, *(word for override in options.set for word in ("--set", override))])
