"""The state of an unfinished quantizer training: saved into a new folder, verified, then published; found again by its identity alone."""

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from features.errors import InputError
from features.files import publish_folder, sha256_file, write_durably
from pipeline.progress import say
from pipeline.ranks import on_rank_zero

STATE = "state.pt"
META = "meta.json"


class TrainingStateFolder:
    """Keeps the newest state in `folder`, which the ranks share; `models.quantizers.training.StateStore` says what for.

    Args:
        folder: of the published states, one folder each, of which the newest is kept.
        identity: hash of all that a state depends on: settings, content and code. A state of another identity is not gone on from.
        label: what its lines begin with.
    """

    def __init__(self, folder: Path, identity: str, label: str = "") -> None:
        self._folder, self._identity, self._label = folder, identity, label
        self._number = max((int(path.name.removeprefix("state-")) for path in self._published()), default=0)

    def load(self) -> dict[str, Any] | None:
        """The newest state of this identity, None where there is none. Raises InputError naming the file where it is damaged."""
        path = max(self._published(), default=None)
        if path is None:
            return None
        try:
            meta = json.loads((path / META).read_text())
            identity, digest = meta["identity"], meta["sha256"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path / META}: damaged; remove {path} to train from the start") from error
        if identity != self._identity:
            return None
        if not (path / STATE).is_file() or sha256_file(path / STATE) != digest:
            raise InputError(f"{path / STATE}: missing, or its sha256 differs from {META}; remove {path} to train from the start")
        state: dict[str, Any] = torch.load(path / STATE, map_location="cpu", weights_only=True)
        say(f"  {self._label}goes on after {state['epoch']} epochs and {state['step']} steps of the next")
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Publish `state`, which rank 0 writes, and remove older ones; a collective call."""
        self._number += 1
        on_rank_zero(lambda: self._publish(state))

    def clear(self) -> None:
        """Remove all states."""
        if dist.get_rank() == 0:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _publish(self, state: dict[str, Any]) -> None:
        staging = self._folder / f".state.{os.getpid()}.tmp"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_durably(staging / STATE, buffer.getvalue())
        write_durably(staging / META, json.dumps({"identity": self._identity, "sha256": sha256_file(staging / STATE)}).encode())
        older = self._published()
        publish_folder(staging, self._folder / f"state-{self._number:09d}")
        for path in older:
            shutil.rmtree(path)

    def _published(self) -> list[Path]:
        return [path.parent for path in self._folder.glob(f"state-*/{META}")]
