"""What a run tells while it trains: a line on rank 0's standard output, and TensorBoard curves."""

import time
from pathlib import Path

import torch.distributed as dist
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import FileWriter

from pipeline.metrics import Table
from pipeline.progress import say


class TrainingLog:
    """Writes metrics as they come; silent on all ranks but rank 0.

    Args:
        folder: of the TensorBoard files.
        global_batch: rows of a step.
        quiet: print no lines.
    """

    def __init__(self, folder: Path, global_batch: int, *, quiet: bool) -> None:
        self._board = FileWriter(str(folder)) if dist.get_rank() == 0 else None
        self._global_batch, self._quiet = global_batch, quiet
        self._since = (0, 0.0)  # step and time of the last line

    def begin(self, step: int) -> None:
        """Start the clock of the examples per second; later points of a run that was killed after `step` are no longer shown."""
        self._since = (step, time.perf_counter())
        if self._board is not None:
            self._board.add_event(Event(session_log=SessionLog(status=SessionLog.START)), step + 1)

    def write(self, step: int, steps: int, window: Table, lifetime: Table) -> None:
        """Tell the metrics of the window that ends at `step` of `steps`, and of all steps so far."""
        (first, clock), self._since = self._since, (step, time.perf_counter())
        rate = (step - first) * self._global_batch / (self._since[1] - clock)
        if self._board is None:
            return
        if not self._quiet:
            for task in window:
                now, ever = window[task]["all"], lifetime[task]["all"]
                say(
                    f"step {step}/{steps}{f'  {task}' if len(window) > 1 else ''}  NE {now.ne:.4f} (all so far {ever.ne:.4f})  "
                    f"AUC {now.auc:.4f}  calibration {now.calibration:.3f}  {rate:,.0f} examples/s"
                )
        curves = {
            f"{task}/{metric}/{span}/{segment}": value
            for span, table in (("window", window), ("lifetime", lifetime))
            for task, segments in table.items()
            for segment, metrics in segments.items()
            for metric, value in metrics._asdict().items()
        }
        curves["examples_per_second"] = rate
        # In one event: an `add_scalar` for each of these hundred takes as long as a fifth of a small model's step.
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in curves.items()]
        self._board.add_summary(Summary(value=values), step)

    def close(self) -> None:
        """Finish the TensorBoard file."""
        if self._board is not None:
            self._board.close()
