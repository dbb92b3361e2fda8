"""docs/integration.md as something that runs: its fenced blocks by name, and what the pure kernel says to the same log."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from features.dataset import Dataset
from features.dense_statistics import DenseStatistics
from features.enrich import Additions, enrich
from features.store.versions import open_snapshot
from launch.chain import ROOT

PAGE = ROOT / "docs" / "integration.md"
BIN = Path(sys.executable).parent


class Block(NamedTuple):
    """A fenced block: its language, and its text after as many empty lines as put it on the page's line numbers."""

    language: str
    text: str


def blocks() -> dict[str, Block]:
    """The page's fenced blocks by the name that follows their language."""
    page = PAGE.read_text()
    found = list(re.finditer(r"^```(\w+) (\S+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    assert 2 * len(found) == page.count("```"), f"{PAGE}: a fenced block has no name"
    return {block[2]: Block(block[1], "\n" * page.count("\n", 0, block.start(3)) + block[3]) for block in found}


@dataclass(frozen=True)
class Page:
    """The page in a working directory, which is the process's own while the tests of this file run."""

    folder: Path
    names: dict[str, Any]
    """What the first block has defined."""

    def python(self, name: str) -> dict[str, Any]:
        """Run a Python block after the first one; its names."""
        names = {**self.names, "__name__": "__main__"}
        exec(compile(blocks()[name].text, str(PAGE), "exec"), names)
        return names

    def bash(self, name: str, **environment: str) -> str:
        """Run a bash block; what it printed."""
        command = ["bash", "-euc", blocks()[name].text]
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, **environment}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def file(self, name: str) -> Path:
        """Write a block to the file that it is named after."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(blocks()[name].text.lstrip())
        return path

    def expected(self, rows: pa.Table, job: Dataset | None = None) -> pa.Table:
        """The kernel's own answer, with the statistics of a job that has measured some."""
        additions: Additions = self.names["additions"]
        if job is not None:
            statistics = {name: DenseStatistics(**told) for name, told in job.metadata["dense_statistics"].items()}
            additions = replace(additions, dense=statistics)
        (batch,) = rows.combine_chunks().to_batches()
        return pa.Table.from_batches([enrich(batch, open_snapshot(self.folder / "runs/mylog/store"), additions).batch])

    @property
    def log(self) -> pa.Table:
        """The log, with a number in each row."""
        return pq.read_table(self.folder / "log")
