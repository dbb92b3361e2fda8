"""`semid export`: the newest checkpoint of a run as a bundle, all that serving needs of it, published whole."""

import argparse
import resource
import shutil
import sys
from pathlib import Path

from pydantic import ValidationError

from features.errors import InputError
from features.files import fsync_path
from pipeline.config import RunConfig
from pipeline.loader import BatchSource
from pipeline.model import identity
from pipeline.progress import say
from pipeline.ranks import quiet_libraries
from pipeline.serve.bundle import Bundle, open_bundle
from pipeline.serve.judge import judge
from pipeline.serve.saved_state import SavedState
from pipeline.serve.writer import write_bundle
from pipeline.starting_point import StartingPoint, find

MEANING = ("sid_contracts", "pieces", "model", "columns", "dense_ids")  # of a checkpoint's identity: what its weights stand for


def run(options: argparse.Namespace) -> None:
    """Write a bundle, open it as serving will, and rename it into place.

    Args:
        options: of the command line: run, bundle, tables and judge.

    Raises:
        InputError: naming what is no run, is damaged, or is no longer what the checkpoint was trained on; or if the bundle is there already
            or cannot be written.
    """
    quiet_libraries()
    target = Path(options.bundle)
    if target.exists():
        raise InputError(f"{target}: is there already, and a bundle is never changed; name a new folder")
    start = find(Path(options.run), "semid export")
    source = BatchSource(_config(start))
    _require_unchanged(start, source)
    staging = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        state = SavedState(start.path)
        write_bundle(staging / "bundle", state, start, source, options.tables)
        made = open_bundle(staging / "bundle")
        if options.judge:
            judge(_in_fp32(made, staging / "fp32", state, start, source), source, options.judge)
        made.path.rename(target)
        fsync_path(target.parent)
    except OSError as error:
        raise InputError(f"{target}: cannot be made ({error})") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    _tell(target, made)


def _in_fp32(made: Bundle, path: Path, state: SavedState, start: StartingPoint, source: BatchSource) -> dict[str, Bundle]:
    """The bundle, and before it one in fp32 to compare it with, if it is none."""
    precision = made.described.tables
    if precision != "fp32":
        write_bundle(path, state, start, source, "fp32", program=False)
    return {"fp32": open_bundle(path), precision: made} if precision != "fp32" else {precision: made}


def _config(start: StartingPoint) -> RunConfig:
    where = start.path.parent.parent / "config.json"
    try:
        return RunConfig.model_validate_json(where.read_bytes())
    except (OSError, ValidationError) as error:
        raise InputError(f"{where}: not the configuration of a run ({' '.join(str(error).split())[:300]})") from error


def _require_unchanged(start: StartingPoint, source: BatchSource) -> None:
    """The run's inputs lie beside it, and may have been made anew since it was trained."""
    today = identity(source.config, source, None)
    for name in MEANING:
        there, here = start.identity.get(name), today[name]
        if there != here:
            raise InputError(f"{start.path}: {name} is {there!r} in the checkpoint but {here!r} in {source.config.workdir} now")


def _tell(target: Path, made: Bundle) -> None:
    tables = sum(table.nbytes for table in made.tables.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
    why = made.described.no_program
    say(
        f"exported step {made.described.checkpoint.step}: {len(made.tables)} tables in {made.described.tables}, {tables / 2**20:,.1f} MiB; "
        f"{'with a torch.export program' if why is None else f'no torch.export program, {why}'}; peak memory {peak / 2**10:,.0f} MiB"
    )
    say(f"bundle {target}, fingerprint {made.fingerprint[:12]}")


if __name__ == "__main__":
    from pipeline.cli import main

    sys.exit(main(stage="export"))
