"""The whole chain for `semid demo`: every stage that is not current through TorchX, then the table of results and the report's path."""

import argparse
import json
import sys

from torchx.specs import AppDef

from launch import components
from launch.chain import Chain, StageFailed
from pipeline import recipe as recipes
from pipeline.config import RunConfig
from pipeline.stage import Stage, chain, is_current
from pipeline.tables import print_results


def run(options: argparse.Namespace) -> int:
    """Run what is not up to date, then print the results.

    Args:
        options: `data`, the recipe's name; `data_dir`, folder of the raw files or its parent, None for the simulated world; `set`,
            overrides of the recipe, KEY=VALUE each.

    Returns:
        0, or the exit code of the stage that failed.

    Raises:
        InputError: for a wrong recipe, override or folder.
    """
    overrides = [*recipes.raw_files(options.data, options.data_dir), *options.set]
    config = recipes.load(options.data, overrides)
    try:
        seconds = _run_stages(config, options.data, overrides)
    except StageFailed as failure:
        print(f"semid demo: {failure}", file=sys.stderr, flush=True)
        return failure.exit_code
    _print_times(seconds)
    print_results(json.loads((config.path("evaluate") / "results.json").read_text()))
    print(f"\nreport: {config.path('report') / 'report.html'}", flush=True)
    return 0


def _run_stages(config: RunConfig, recipe: str, overrides: list[str]) -> dict[str, float]:
    """Run the stages in order; seconds by stage, of those that ran."""
    seconds = {}
    with Chain(config.workdir / "logs") as runner:
        for stage in chain(config):
            if is_current(stage, config):
                print(f"{stage.name}: up to date", flush=True)
                continue
            print(f"{stage.name}: {stage.summary}", flush=True)
            seconds[stage.name] = runner.run(_app(stage, config, recipe, overrides))
    return seconds


def _app(stage: Stage, config: RunConfig, recipe: str, overrides: list[str]) -> AppDef:
    component = getattr(components, stage.name)
    ranks = {"j": f"1x{config.ranks}"} if "ranks" in stage.settings else {}  # the quantizer trains faster on one
    app: AppDef = component(*overrides, recipe=recipe, python=sys.executable, **ranks)
    return app


def _print_times(seconds: dict[str, float]) -> None:
    for name, value in seconds.items():
        print(f"{name:>8} {value:7.1f} s")
    print(f"{'total':>8} {sum(seconds.values()):7.1f} s\n", flush=True)
