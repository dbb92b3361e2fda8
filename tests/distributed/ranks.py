"""Runs a worker program on several ranks."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_ranks(world: int, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m module arguments` on `world` gloo ranks, which import the libraries together, and wait for them."""
    command = [sys.executable, "-m", "tests.distributed.forked", str(world), module, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
