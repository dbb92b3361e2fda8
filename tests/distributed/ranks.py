"""Runs a worker program on several ranks with torchrun, as the launcher does."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_ranks(world: int, module: str, *arguments: str, timeout: int = 240) -> subprocess.CompletedProcess[str]:
    """Start `python -m module arguments` on `world` gloo ranks and wait for them."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}", "-m", module, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, timeout=timeout, capture_output=True, text=True, check=False)
