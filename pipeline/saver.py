"""Writes checkpoints beside the training: a copy of the state on the host, and one thread that puts it into files."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.staging import BlockingAsyncStager

from pipeline.ranks import TIMEOUT


class BackgroundSaver:
    """Runs one save at a time in a thread of its own, whose collectives have a process group of their own.

    The copy is made before the next step may change the state; only then does the thread write. What goes wrong there is raised by
    `wait`. The caller must come to it on all ranks at the same step: `failed` says that it is time.
    """

    def __init__(self, device: torch.device) -> None:
        """Args: device of the state. A collective call."""
        self._group = dist.new_group(backend="gloo", timeout=TIMEOUT)
        # Page-locked buffers take a GPU's memory several times faster, and are kept since they are slow to get.
        self._stager = BlockingAsyncStager(cache_staged_state_dict=device.type == "cuda")
        # Without this the thread would open a context on the first GPU, on every rank.
        prepare = (lambda: torch.cuda.set_device(device)) if device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint", initializer=prepare)
        self._save: Future[object] | None = None

    def start(self, state: dict[str, Any], publish: Callable[[dict[str, Any], dist.ProcessGroup], object]) -> None:
        """Copy the state and begin to publish the copy, after an earlier save has ended; a collective call.

        Args:
            state: nested dict of tensors, sharded tensors and plain values, as it is at this step.
            publish: called in the thread with the copy on the host, and the group for its collectives.
        """
        self.wait()
        self._save = self._thread.submit(publish, self._stager.stage(state), self._group)

    @property
    def failed(self) -> bool:
        """Whether the save that was started last has ended in an error."""
        return self._save is not None and self._save.done() and self._save.exception() is not None

    def wait(self) -> None:
        """Wait for the save that runs, if one does; raises its error."""
        save, self._save = self._save, None
        if save is not None:
            save.result()

    def close(self) -> None:
        """Wait, and leave the group; the other ranks must do so too."""
        self.wait()
        self._thread.shutdown()
        dist.destroy_process_group(self._group)
