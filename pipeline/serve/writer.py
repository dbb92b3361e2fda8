"""The files of a bundle, from a checkpoint of any ranks and plan, with no more than a block of a table in memory."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from features.dense_ids import DenseIdMap
from features.errors import InputError
from features.files import fsync_path, write_durably
from features.schema import CONTEXT, DENSE
from features.sid_pieces import SidPieces
from pipeline.loader import BatchSource
from pipeline.serve import bundle
from pipeline.serve.description import FORMAT, CheckpointDescription, Description, Precision, RepresentationDescription, type_name
from pipeline.serve.lookup import quantised
from pipeline.serve.program import save_program
from pipeline.serve.saved_state import SavedState
from pipeline.serve.tensor_files import Expected, write_tensors
from pipeline.starting_point import StartingPoint

ITEMS = ("timestamp", "item_id", "history_item_ids", "history_timestamps")  # columns that are read beside dense and context ones
IDS_AT_ONCE = 1 << 20


def write_bundle(
    path: Path, state: SavedState, start: StartingPoint, source: BatchSource, tables: Precision, *, program: bool = True
) -> None:
    """Write a bundle, durably.

    Args:
        path: the folder, which is made.
        state: the checkpoint, opened.
        start: the same checkpoint.
        source: the input of its run.
        tables: their precision.
        program: export the torch.export program, where it works.

    Raises:
        InputError: naming a weight that is missing in the checkpoint, has another shape or is not finite.
        OSError: where the disk is full or fails.
    """
    builder = source.builder
    ranker = bundle.bare_ranker(builder.schema, source.config.model)
    weights, parameters = ranker.state_dict(), bundle.table_parameters(ranker)
    (path / "tables").mkdir(parents=True)
    for name, parameter in parameters.items():
        _write_table(path / bundle.table_file(name), state, f"tables.{name}.weight", tuple(weights[parameter].shape), tables)
    dense = {name: _whole(state, f"dense.{name}.weight", value) for name, value in weights.items() if name not in parameters.values()}
    write_tensors(path / bundle.DENSE, {name: (Expected.of(value), [value]) for name, value in dense.items()})
    if builder.dense_ids is not None:
        _write_dense_ids(path / bundle.DENSE_IDS, builder.dense_ids)
    for r in builder.representations:
        if isinstance(r.parameterization, SidPieces):
            shutil.copytree(r.parameterization.path, path / bundle.vocabulary_folder(r.name))
    no_program: str | None = "none was asked for"
    if program and tables == "int8":
        no_program = "torch.export takes float32 tables alone"
    elif program:
        ranker.load_state_dict(dense, strict=False, assign=True)
        no_program = save_program(path / bundle.PROGRAM, ranker, builder.schema)
    described = _described(state, start, source, tables, no_program)
    write_durably(path / bundle.DESCRIPTION, described.model_dump_json(indent=1).encode())
    write_durably(path / bundle.MANIFEST, bundle.manifest_of(path))
    for file in [path, *path.rglob("*")]:
        fsync_path(file)


def _described(state: SavedState, start: StartingPoint, source: BatchSource, tables: Precision, no_program: str | None) -> Description:
    builder, schema, step = source.builder, source.dataset.schema, int(state.meta["step"])
    read = [name for name in schema.names if name in ITEMS or name.startswith((DENSE, CONTEXT))]
    return Description(
        format=FORMAT,
        model=source.config.model,
        batch=builder.schema,
        inputs={name: type_name(schema.field(name).type) for name in read},
        representations=tuple(map(RepresentationDescription.of, builder.representations)),
        sid_contracts=source.contracts,
        shared_source=builder.shared_source,
        items=None if builder.dense_ids is None else len(builder.dense_ids.ids),
        tables=tables,
        checkpoint=CheckpointDescription(
            run=start.path.parent.parent.name,
            step=step,
            rows=min(step * source.config.train.global_batch, source.dataset.rows),
            sha256=start.sha256,
            identity=start.identity,
        ),
        no_program=no_program,
    )


def _write_table(path: Path, state: SavedState, name: str, shape: tuple[int, ...], precision: Precision) -> None:
    _require_shape(state, name, shape)
    blocks = _finite(state, name)
    dtype, columns = bundle.table_columns(shape[1], precision)
    rows = blocks if precision == "fp32" else map(quantised, blocks)
    write_tensors(path, {"weight": (Expected(dtype, (shape[0], columns)), rows)})


def _whole(state: SavedState, name: str, like: torch.Tensor) -> torch.Tensor:
    _require_shape(state, name, tuple(like.shape))
    return torch.cat(list(_finite(state, name)))


def _require_shape(state: SavedState, name: str, shape: tuple[int, ...]) -> None:
    if state.sizes.get(name) != shape:
        raise InputError(f"{state.path}: {name} has shape {state.sizes.get(name)} there, and the model's is {shape}")


def _finite(state: SavedState, name: str) -> Iterator[torch.Tensor]:
    for block in state.blocks(name):
        if not torch.isfinite(block).all():
            raise InputError(f"{state.path}: {name} has a weight that is not finite; the training has diverged")
        yield block


def _write_dense_ids(path: Path, ids: DenseIdMap) -> None:
    def blocks(array: np.ndarray) -> Iterator[torch.Tensor]:
        for first in range(0, len(array), IDS_AT_ONCE):
            yield torch.from_numpy(np.array(array[first : first + IDS_AT_ONCE]))

    columns = dict(zip(bundle.ID_MAP, (ids.ids, ids.table_rows, ids.first_rows), strict=True))
    write_tensors(path, {name: (Expected(torch.int64, (len(ids.ids),)), blocks(column)) for name, column in columns.items()})
