"""Memory and time of `semid export`: a large table beside a small one.

A run of one rank saves a table of 2 GiB, which is exported in fp32 and in int8, each in a process of its own, and so is a run with a table
of a hundredth of that. Bar: the large one's peak memory is at most 64 MiB above the small one's, since tables are read in blocks of rows.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from _figures import Row, arguments, row, show
from _train_step_data import configuration, write_random_log

WIDTH = 32
MORE = 64 << 20  # bytes of peak memory that a table a hundred times as large may take


class Used(NamedTuple):
    """What a process took: seconds by the clock, and bytes of memory at its peak."""

    seconds: float
    peak: int


def main() -> None:
    """Train, export, print the table."""
    options = arguments(__doc__ or "")
    size = (200 << 20) if options.small else (2 << 30)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder)
        write_random_log(workdir, 2048, 5, 3)
        for name, table in (("small", size // 100), ("large", size)):
            run([__file__, str(workdir), name, str(table // (4 * WIDTH))])
        for tables in ("fp32", "int8"):
            small, large = (exported(workdir / name, workdir / f"{name}-{tables}", tables) for name in ("small", "large"))
            rows += figures(tables, small, large, size)
    show("semid export", rows, options.json)


def figures(tables: str, small: Used, large: Used, size: int) -> list[Row]:
    """Peak memory and speed."""
    more = large.peak - small.peak
    bar = f"<= {MORE >> 20} MiB above it"
    return [
        row(
            f"peak memory, {tables}, a table of {size / 2**30:.3g} GiB (of a hundredth)",
            large.peak / 2**20,
            "MiB",
            baseline=small.peak / 2**20,
            bar=bar,
            holds=more <= MORE,
        ),
        row(f"time, {tables}, the process's start and all hashes included (of a hundredth)", large.seconds, "s", baseline=small.seconds),
    ]


def exported(run_folder: Path, bundle: Path, tables: str) -> Used:
    """Export a run in a process of its own."""
    return run(["-m", "pipeline.export", str(run_folder), str(bundle), "--tables", tables])


def run(command: list[str]) -> Used:
    """Run Python, and say what it took."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return Used(time.perf_counter() - started, usage.ru_maxrss << 10)


def train(workdir: Path, name: str, rows: int) -> None:
    """A run of two steps with a table of so many rows."""
    from pipeline.ranks import start_process_group
    from pipeline.trainer import Trainer

    representation = f"{{hash: {{kind: random_hash, rows: {rows - 1}}}}}"
    config = configuration(workdir, model__representations=representation, model__embedding_dim=WIDTH, ranks=1, evaluate__variants="{}")
    trainer = Trainer(config, workdir / name, start_process_group(), quiet=True)
    trainer.train(trainer.train_rows)
    trainer.close()


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[3].isdigit():
        train(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    else:
        main()
