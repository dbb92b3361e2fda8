"""Checkpoints: written into a new directory, read back and compared, then published; loaded in place and bit-exact."""

import io
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.planner import ReadItem

from features.errors import InputError
from features.files import fsync_path, sha256_file, write_durably
from models.sharding import ShardedModel
from pipeline.ranks import on_every_rank, on_rank_zero
from pipeline.starting_point import META


@dataclass(frozen=True)
class Position:
    """Where training stands.

    Attributes:
        step: batches trained, not fetched.
        plan: fingerprint of the batch plan that counts them.
        identity: what must be the same to go on: settings, seed, Semantic ID contract, looked-up codes and training code.
        layout: table name to what its optimizer state belongs to, as `ShardedModel.layout` says; ranks and plan may change, this not.
    """

    step: int
    plan: str
    identity: dict[str, Any]
    layout: dict[str, str]


def save(folder: Path, state: dict[str, Any], position: Position, keep: int, group: dist.ProcessGroup | None = None) -> Path:
    """Publish a checkpoint; a collective call.

    Every rank writes its shards, reads them back as a resumed run will, and compares them with what it holds, bit by bit; the files are
    hashed, rank 0 writes meta.json and renames the directory. Each file is synced before that rename and the folder after it. Older
    checkpoints than the newest `keep` are removed only then.

    Args:
        folder: of the checkpoints, which the ranks share.
        state: nested dict of tensors on the host, sharded tensors and plain values; must not change meanwhile.
        position: of the run whose state it is.
        keep: number of newest checkpoints to keep.
        group: of all ranks; its own where this runs beside the steps. The default one otherwise.

    Raises:
        InputError: if the files cannot be written, e.g. on a full disk.
        RuntimeError: if what was written is not what the ranks hold. Either error is raised on all ranks, and nothing half done is
            published; the checkpoint itself is, where only the removal of older ones failed.
    """
    path = folder / _name(position.step)
    staging = folder / f".{path.name}.tmp"
    try:
        on_rank_zero(lambda: _prepare(staging), group)
        dcp.save(state, storage_writer=FileSystemWriter(staging), process_group=group)
        dcp.load(state, storage_reader=FileSystemReader(staging), planner=_Comparison(), process_group=group)
        names = on_rank_zero(lambda: sorted(file.name for file in staging.iterdir()), group)
        digests = on_every_rank(lambda: {name: sha256_file(staging / name) for name in _mine(names)}, group)
        files = {name: digest for part in digests for name, digest in part.items()}
        on_rank_zero(lambda: _publish(staging, path, position, files, keep), group)
    except CheckpointException as error:
        raise _reason(error, path) from error
    except OSError as error:
        raise InputError(f"{path}: {error}") from error
    return path


def latest(folder: Path) -> Path | None:
    """The newest published checkpoint, None where there is none."""
    return max(_published(folder), default=None)


def load(path: Path, model: ShardedModel, metrics: dict[str, torch.Tensor], plan: str, identity: dict[str, Any]) -> int:
    """Restore tables, dense weights, optimizer state and metrics in place; a collective call.

    The checkpoint's index is a pickle, as PyTorch writes it: load only checkpoints of your own runs.

    Returns:
        The number of batches trained.

    Raises:
        InputError: if a file is damaged or missing, or the checkpoint belongs to other data, settings or Semantic IDs, or to tables
            whose columns were split otherwise, naming both.
    """
    meta = on_rank_zero(lambda: _read_meta(path))
    if path.name != _name(meta["step"]):
        raise InputError(f"{path / META}: damaged, it says step {meta['step']}")
    if meta["plan"] != plan:
        raise InputError(
            f"{path}: was trained on other data or another global batch than this run has (plan {meta['plan'][:12]}, {plan[:12]})"
        )
    for name, value in identity.items():
        if meta["identity"].get(name) != value:
            raise InputError(f"{path}: {name} is {meta['identity'].get(name)!r} in the checkpoint but {value!r} in this run")
    for table, here in model.layout().items():
        there = meta["layout"].get(table)
        if there != here:
            raise InputError(
                f"{path}: table '{table}' has a moment per row for {there} in the checkpoint but for {here} under this run's plan; "
                "train on with the sharding type and column width that it was saved under"
            )
    state = {**model.state_dict(), "metrics": metrics}
    read(path, state)
    model.load_state_dict(state)
    return int(meta["step"])


def read(path: Path, state: dict[str, Any], planner: DefaultLoadPlanner | None = None) -> None:
    """Check the checkpoint's files and read the tensors of `state` in place; a collective call.

    Args:
        path: a published checkpoint.
        state: nested dict of tensors as this run's plan shards them.
        planner: what is read where, if a tensor's shape is not the saved one.

    Raises:
        InputError: if a file is damaged or missing, naming it.
        RuntimeError: if a tensor is missing or has another shape, naming it.
    """
    files = on_rank_zero(lambda: _read_meta(path))["files"]
    on_every_rank(lambda: _check_files(path, files))
    try:
        dcp.load(state, storage_reader=FileSystemReader(path), planner=planner)
    except CheckpointException as error:
        raise _reason(error, path) from error


class _Comparison(DefaultLoadPlanner):
    """Loads nothing: compares what is read with what is there, and raises where they differ or where something was not written."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        name = read_item.dest_index.fqn
        if torch.load(value, weights_only=False) != self.state_dict[name]:
            raise RuntimeError(f"{name} was not written as this rank holds it")

    def resolve_tensor(self, read_item: ReadItem) -> torch.Tensor:
        return torch.empty_like(super().resolve_tensor(read_item))

    def commit_tensor(self, read_item: ReadItem, tensor: torch.Tensor) -> None:
        held = super().resolve_tensor(read_item)
        if not torch.equal(*(side.reshape(-1).view(torch.uint8) for side in (tensor, held))):  # a NaN is equal to itself here
            raise RuntimeError(f"{read_item.dest_index.fqn} was not written as this rank holds it")


def _name(step: int) -> str:
    return f"step-{step:09d}"


def _prepare(staging: Path) -> None:
    """An empty folder; at most one save runs, so that any other unfinished one here is of a process that has died."""
    folder = staging.parent
    if not folder.exists():
        folder.mkdir(parents=True)
        fsync_path(folder.parent)
    for rest in folder.glob(".step-*"):
        shutil.rmtree(rest)
    staging.mkdir()


def _publish(staging: Path, path: Path, position: Position, files: dict[str, str], keep: int) -> None:
    write_durably(staging / META, json.dumps({**asdict(position), "files": files}, indent=1).encode())
    staging.rename(path)  # the directory is new: there is no moment without the older one, and none with half of this one
    fsync_path(path.parent)
    for old in sorted(_published(path.parent))[:-keep]:
        doomed = old.with_name(f".{old.name}.old")  # hidden at once, so that a kill leaves no half of it to be taken for a whole
        old.rename(doomed)
        shutil.rmtree(doomed)


def _published(folder: Path) -> list[Path]:
    return [path.parent for path in folder.glob(f"step-*/{META}")]


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta: dict[str, Any] = json.loads((path / META).read_text())
    except ValueError as error:
        raise InputError(f"{path / META}: damaged") from error
    return meta


def _mine(names: list[str]) -> list[str]:
    """This rank's share of the files to be hashed."""
    return sorted(names)[dist.get_rank() :: dist.get_world_size()]


def _check_files(path: Path, files: dict[str, str]) -> None:
    for name in _mine(list(files)):
        if not (path / name).is_file() or sha256_file(path / name) != files[name]:
            raise InputError(f"{path / name}: missing, or its sha256 differs from {META}")


def _reason(error: CheckpointException, path: Path) -> Exception:
    """The first rank's error, as one that is no BaseException."""
    rank, (cause, _) = min(error.failures.items(), key=lambda failure: failure[0])
    if isinstance(cause, InputError):
        return cause
    if isinstance(cause, OSError):
        return InputError(f"{path}: rank {rank}: {cause}")
    if "inline_container" in str(cause):  # torch.save's archive, which hides the system's error that it has met
        return InputError(f"{path}: rank {rank}: the disk is full or fails ({cause})")
    return RuntimeError(f"{path}: rank {rank}: {cause}")
