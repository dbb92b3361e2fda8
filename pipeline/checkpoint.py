"""Checkpoints: saved into a new directory, verified, then published; loaded in place and bit-exact."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata

from features.errors import InputError
from features.files import publish_folder, sha256_file, write_durably
from models.sharding import ShardedModel
from pipeline.ranks import on_rank_zero

META = "meta.json"


@dataclass(frozen=True)
class Position:
    """Where training stands.

    Attributes:
        step: batches trained, not fetched.
        plan: fingerprint of the batch plan that counts them.
        identity: what must be the same to go on: settings, seed, Semantic ID contract, looked-up codes and training code.
    """

    step: int
    plan: str
    identity: dict[str, Any]


def save(folder: Path, model: ShardedModel, metrics: dict[str, torch.Tensor], position: Position, keep: int) -> Path:
    """Publish a checkpoint of the model, its optimizer and the metrics so far (equal on all ranks); a collective call.

    Every rank writes its shards; rank 0 then checks that each tensor of each rank is in the checkpoint, hashes the files, writes meta.json,
    and renames the directory. Older checkpoints than the newest `keep` are deleted only after that.
    """
    path = folder / f"step-{position.step:09d}"
    staging = folder / f".step-{position.step:09d}.tmp"
    on_rank_zero(lambda: _empty(staging))
    state = _state(model, metrics)
    dcp.save(state, storage_writer=FileSystemWriter(staging))
    names: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(names, sorted(_tensor_names(state)))
    on_rank_zero(lambda: _verify_and_publish(staging, path, position, set().union(*names), keep))
    return path


def latest(folder: Path) -> Path | None:
    """The newest published checkpoint, None where there is none."""
    return max((path.parent for path in folder.glob(f"step-*/{META}")), default=None)


def load(path: Path, model: ShardedModel, metrics: dict[str, torch.Tensor], plan: str, identity: dict[str, Any]) -> int:
    """Restore tables, dense weights, optimizer state and metrics in place; a collective call.

    The checkpoint's index is a pickle, as PyTorch writes it: load only checkpoints of your own runs.

    Returns:
        The number of batches trained.

    Raises:
        InputError: if a file is damaged or missing, or the checkpoint belongs to other data, settings or Semantic IDs, naming both.
    """
    meta = json.loads((path / META).read_text())
    on_rank_zero(lambda: _check_files(path, meta["files"]))
    if meta["plan"] != plan:
        raise InputError(
            f"{path}: was trained on other data or another global batch than this run has (plan {meta['plan'][:12]}, {plan[:12]})"
        )
    for name, value in identity.items():
        if meta["identity"].get(name) != value:
            raise InputError(f"{path}: {name} is {meta['identity'].get(name)!r} in the checkpoint but {value!r} in this run")
    state = _state(model, metrics)
    dcp.load(state, storage_reader=FileSystemReader(path))
    model.load_state_dict(state)
    return int(meta["step"])


def _state(model: ShardedModel, metrics: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {**model.state_dict(), "metrics": metrics}


def _tensor_names(value: Any, prefix: str = "") -> list[str]:
    """Names as DCP flattens them: the keys on the way, joined by dots."""
    if isinstance(value, dict):
        return [name for key, item in value.items() for name in _tensor_names(item, f"{prefix}{key}.")]
    return [prefix.removesuffix(".")] if hasattr(value, "shape") or hasattr(value, "local_shards") else []


def _verify_and_publish(staging: Path, path: Path, position: Position, names: set[str], keep: int) -> None:
    metadata: Metadata = FileSystemReader(staging).read_metadata()
    missing = names - set(metadata.state_dict_metadata)
    if missing:
        raise RuntimeError(f"{staging}: the checkpoint lacks {len(missing)} tensors, e.g. {min(missing)}")
    files = {file.name: sha256_file(file) for file in sorted(staging.iterdir())}
    meta = {"step": position.step, "plan": position.plan, "identity": position.identity, "files": files}
    write_durably(staging / META, json.dumps(meta, indent=1).encode())
    publish_folder(staging, path)
    for old in sorted(path.parent.glob(f"step-*/{META}"))[:-keep]:
        shutil.rmtree(old.parent)


def _check_files(path: Path, files: dict[str, str]) -> None:
    for name, digest in files.items():
        if not (path / name).is_file() or sha256_file(path / name) != digest:
            raise InputError(f"{path / name}: missing, or its sha256 differs from {META}")


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
