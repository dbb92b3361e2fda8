"""The command `semid`: one subcommand per stage, and those of COMMANDS; user errors end with one line and exit code 2."""

import argparse
import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path

from features.dataset import ROWS_PER_FILE
from features.errors import InputError
from features.files import write_durably
from pipeline import recipe as recipes
from pipeline.config import settings_help
from pipeline.preemption import RESUME_ME, Preempted, hold_back_sigterm
from pipeline.stage import STAGES, bring_up_to_date

USER_ERROR = 2
PREEMPTIBLE = ("train", "evaluate")  # these heed SIGTERM between two steps
COMMANDS = {  # beside stages and doctor; the modules are imported when they are called
    "demo": "pipeline.demo",
    "explore": "pipeline.explore",
    "export": "pipeline.export",
    "follow": "pipeline.follow",
    "reproduce": "pipeline.reproduce.command",
}
RECIPE_HELP = "a name in pipeline/recipes or the path of a YAML file"


def main(argv: list[str] | None = None, *, stage: str | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments, those of the process by default.
        stage: the stage that `python -m pipeline.NAME` stands for; the arguments are then only its own.

    Returns:
        0; 2 for what the user got wrong, or 75 for a run that SIGTERM has stopped and that goes on when it is started again, after one
        line on standard error.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(arguments if stage is None else [stage, *arguments])
    try:
        if options.command == "doctor":
            return _call("pipeline.doctor", "run")
        if options.command in COMMANDS:
            return _call(COMMANDS[options.command], "run", options)
        if options.command == "quantize" and _inspects(options):
            return _call("pipeline.inspect_codebook", "run", options)
        return _run_stage(options)
    except (InputError, Preempted) as error:
        line, code = f"semid {options.command}: {error}", RESUME_ME if isinstance(error, Preempted) else USER_ERROR
        print(line, file=sys.stderr, flush=True)
        _tell_launcher(line, code)
        return code
    except Exception as error:
        _tell_launcher(f"{type(error).__name__}: {error}", 1)
        raise


def _run_stage(options: argparse.Namespace) -> int:
    chosen = STAGES[options.command]
    config = recipes.load(options.recipe, options.set)
    if chosen.name in PREEMPTIBLE:
        hold_back_sigterm()
    bring_up_to_date(chosen, config, force=options.force)
    return 0


def _inspects(options: argparse.Namespace) -> bool:
    """Whether `quantize` only inspects. Raises InputError for an option of the one use beside the other."""
    inspects = options.inspect is not None
    others = {"--set": options.set, "--force": options.force} if inspects else {"--content": options.content, "--out": options.out}
    for name, value in others.items():
        if value:
            raise InputError(f"{name} does not go {'with' if inspects else 'without'} --inspect")
    return inspects


def _tell_launcher(message: str, code: int) -> None:
    """Leave the error where torchelastic and TorchX look for it, in their form; torchrun itself passes no exit code on."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path is None:
        return
    details = {"timestamp": str(int(time.time()))} | ({} if code in (USER_ERROR, RESUME_ME) else {"py_callstack": traceback.format_exc()})
    text = json.dumps({"message": {"message": message, "errorCode": code, "extraInfo": details}})
    write_durably(Path(path), text.encode())


def _call(module: str, function: str, *arguments: object) -> int:
    return getattr(importlib.import_module(module), function)(*arguments) or 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="semid", description="Ranking models whose item ids are Semantic IDs: from raw logs to an evaluated ranker."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for stage in STAGES.values():
        example = f"example: semid {stage.name} simulated --set workdir=runs/try"
        if stage.name == "quantize":
            example += "\n         semid quantize --inspect runs/try/codebook/text"
        epilog = "\n".join([example, "", "keys that it depends on:", *settings_help(stage.settings)])
        sub = commands.add_parser(
            stage.name, help=stage.summary, description=stage.summary, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        _add_inspection(sub) if stage.name == "quantize" else sub.add_argument("recipe", help=RECIPE_HELP)
        sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one key, e.g. train.global_batch=2048")
        sub.add_argument("--force", action="store_true", help="run even if nothing has changed")
    _add_follow(commands)
    _add_explore(commands)
    _add_export(commands)
    summary = "the whole chain through TorchX, on the simulated world or a real log"
    demo = commands.add_parser("demo", help=summary, description=summary, epilog="example: semid demo --data ifdb --data-dir ~/logs")
    demo.add_argument("--data", default="simulated", choices=["simulated", "ifdb", "online_retail", "movielens", "mind"], help="which log")
    demo.add_argument("--data-dir", help="folder of the raw files, or its parent; not needed for the simulated world")
    demo.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one key of the recipe")
    _add_reproduce(commands)
    summary = "whether torch, fbgemm, torchrec and torchx fit together here, and how to mend what does not"
    commands.add_parser("doctor", help=summary, description=summary, epilog="example: semid doctor")
    return parser


def _add_follow(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Stage enrich for impressions that keep coming."""
    summary = "enrich impressions as they come, until their end or SIGTERM; run again, it goes on where it stopped"
    example = "example: semid follow simulated --from redis://localhost/impressions --set locations.enriched=runs/stream"
    follow = commands.add_parser("follow", help=summary, description=summary, epilog=example)
    follow.add_argument("recipe", help=RECIPE_HELP)
    follow.add_argument(
        "--from",
        required=True,
        dest="source",
        metavar="PLACE",
        help="a folder, path or URI, in which finished Parquet files appear in ascending order of name, and _SUCCESS as the last; or a "
        "Redis stream, redis://[USER:PASSWORD@]HOST[:PORT]/STREAM",
    )
    rows_help = "rows gathered for one file of the output, by default %(default)s"
    follow.add_argument("--rows-per-part", type=int, default=ROWS_PER_FILE, help=rows_help)
    follow.add_argument("--max-seconds", type=float, default=60.0, help="how long rows are gathered at most, by default %(default)s")
    follow.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one key, e.g. enrich.also=[context]")


def _add_export(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """What serving needs of a run."""
    summary = "a run's newest checkpoint as a bundle for serving: weights, tables, vocabularies and what features are made of"
    example = "example: semid export runs/try/train runs/try/bundle --tables int8 --judge 100000"
    export = commands.add_parser("export", help=summary, description=summary, epilog=example)
    export.add_argument("run", metavar="RUN", help="a checkpoint, a run's folder (its newest checkpoint), or a folder train with one run")
    export.add_argument("bundle", metavar="BUNDLE", help="the folder to make, which must not be there yet")
    tables_help = "precision of the embedding tables, by default %(default)s; int8 has a float32 scale and offset per row"
    export.add_argument("--tables", choices=["fp32", "int8"], default="fp32", help=tables_help)
    judge_help = "also score so many rows after the training period with fp32 tables and with these, and print the NE of both"
    export.add_argument("--judge", type=int, default=0, metavar="ROWS", help=judge_help)


def _add_reproduce(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The tables and figures of the papers."""
    summary = "every table and figure of the papers on one log: reproduction.html and reproduction.json"
    example = "example: semid reproduce --data ifdb --data-dir ~/logs"
    reproduce = commands.add_parser("reproduce", help=summary, description=summary, epilog=example)
    reproduce.add_argument("--data", default="simulated", help=f"which log: {RECIPE_HELP}; by default %(default)s")
    reproduce.add_argument("--data-dir", help="folder of the raw files, or its parent; not needed for the simulated world")
    reproduce.add_argument("--size", default="small", choices=["small", "full"], help="how much is trained, by default %(default)s")
    reproduce.add_argument("--rows", type=int, help="impressions of the log, instead of the size's; of a real log the latest ones")
    reproduce.add_argument("--seeds", type=int, help="trainings of each variant, instead of the size's")
    reproduce.add_argument("--only", metavar="NAMES", help="findings to reproduce, e.g. table_2,table_3a; all by default")
    reproduce.add_argument("--processes", type=int, help="trainings at a time, one per core by default")
    reproduce.add_argument("--out", metavar="DIR", help="folder of all that is written, by default runs/reproduction/DATA")
    reproduce.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one key of the recipe")


def _add_explore(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """One HTML page of a store's Semantic IDs."""
    summary = "one HTML page of a store's Semantic IDs: walk down the prefixes, search items, see their codes, mates and table rows"
    example = "examples: semid explore runs/simulated --rows 3300\n          semid explore STORE --items items.parquet --out explorer.html"
    explore = commands.add_parser(
        "explore", help=summary, description=summary, epilog=example, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    explore.add_argument("place", metavar="STORE", help="folder of an entity store; or of a run, which has all of the following but --rows")
    explore.add_argument("--source", metavar="NAME", help="whose Semantic IDs, where the store has several sources")
    explore.add_argument("--items", metavar="PLACE", help="Parquet file or data set with item_id, and title or text")
    explore.add_argument("--impressions", metavar="PLACE", help="Parquet file or data set with item_id and label_click: click rates")
    explore.add_argument("--content", metavar="PLACE", help="Parquet file or data set with item_id and vector: content cosines")
    explore.add_argument("--rows", type=int, help="rows of the table that is shown, model.rows of a recipe; without, one for every prefix")
    explore.add_argument("--depth", type=int, help="prefixes that have rows, n of prefix_ngram; as in a recipe, by default 3")
    mapping_help = "how they fit into fewer rows; as in a recipe, by default exact_coarse"
    explore.add_argument("--mapping", choices=["exact_coarse", "nested", "modulo"], help=mapping_help)
    explore.add_argument("--out", metavar="FILE", help="the HTML file, by default explorer_SOURCE.html beside the store")


def _add_inspection(quantize: argparse.ArgumentParser) -> None:
    """Stage quantize takes a recipe, or a finished codebook to report on."""
    either = quantize.add_mutually_exclusive_group(required=True)
    either.add_argument("recipe", nargs="?", help=RECIPE_HELP)
    either.add_argument("--inspect", metavar="ARTIFACT", help="train nothing: write the quality report of a finished codebook")
    quantize.add_argument(
        "--content", metavar="DIR", help="with --inspect: content vectors to measure on, else those that the artifact names"
    )
    quantize.add_argument(
        "--out", metavar="FILE", help="with --inspect: the HTML file, by default codebook_report_SOURCE.html beside the artifact"
    )


if __name__ == "__main__":
    sys.exit(main())
