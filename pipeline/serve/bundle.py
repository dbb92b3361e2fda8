"""A bundle: all that scoring needs of a run, in a folder that is checked and mapped. Opening it runs nothing of what is in it.

bundle.json             what it is: pipeline.serve.description
manifest.json           bytes and sha256 of each other file, and the sha256 of that list
dense.safetensors       the weights that are in no table
tables/NAME.safetensors a table: float32 [H, D]; or uint8 [H, D + 8], each row with its float32 scale and offset
pieces/NAME/            the vocabulary of a table of scheme spm
dense_ids.safetensors   the dense id map, where a table has a row per item
program.pt2             a torch.export program for other runtimes. Its bytes are checked, but it is never loaded here:
                        torch.export.load evaluates what it reads, so that such a file is code
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pydantic import ValidationError

from features.batch import BatchSchema
from features.dense_ids import DenseIdMap
from features.errors import InputError
from features.files import sha256_file
from features.kjt import BatchBuilder
from features.semantic_id import CODE_DTYPE, SidContract
from features.sid_pieces import MODEL, SidPieces
from models.config import RankerConfig
from models.ranker import Ranker
from pipeline.serve.description import FORMAT, Description, RepresentationDescription
from pipeline.serve.tensor_files import Expected, map_tensors

DESCRIPTION, MANIFEST, PROGRAM = "bundle.json", "manifest.json", "program.pt2"
DENSE, DENSE_IDS = "dense.safetensors", "dense_ids.safetensors"
ID_MAP = ("ids", "table_rows", "first_rows")
INT8_EXTRA = 8  # bytes of a row's scale and offset


@dataclass(frozen=True)
class Bundle:
    """An opened bundle; its tensors are views of the mapped files.

    Attributes:
        path: its folder.
        fingerprint: sha256 of manifest.json; equal means equal contents.
        described: bundle.json.
        builder: makes batches as in training.
        dense: weights that are in no table, by their name in the ranker.
        tables: table name to float32 [H, D], or uint8 [H, D + 8] (`described.tables`).
    """

    path: Path
    fingerprint: str
    described: Description
    builder: BatchBuilder
    dense: dict[str, torch.Tensor]
    tables: dict[str, torch.Tensor]

    @property
    def contracts(self) -> dict[str, SidContract]:
        """Source to the contract that a store's Semantic IDs must have."""
        return self.described.sid_contracts

    @property
    def history_length(self) -> int:
        """T, history items that count."""
        return self.described.batch.history_length

    @cached_property
    def inputs(self) -> pa.Schema:
        """The columns of impressions that rows to be scored must have."""
        return self.described.input_schema


def open_bundle(path: Path, *, verify: bool = True) -> Bundle:
    """Check a bundle and map it.

    Args:
        path: the folder.
        verify: compare the sha256 of every file (reads every byte); else of the small JSON files alone, and of the others the sizes, for
            a process beside one that did.

    Raises:
        InputError: naming the file that is missing, damaged, of another format version, or not what bundle.json says.
    """
    files, fingerprint = _checked_files(path, verify)
    described = _described(path / DESCRIPTION)
    bare = bare_ranker(described.batch, described.model)
    weights, parameters = bare.state_dict(), table_parameters(bare)
    dense = {name: Expected.of(value) for name, value in weights.items() if name not in parameters.values()}
    needed = [DENSE, *map(table_file, parameters)] + ([] if described.items is None else [DENSE_IDS])
    needed += [f"{vocabulary_folder(r.name)}/{MODEL}" for r in described.representations if r.parameterization == "spm"]
    for name in needed + ([PROGRAM] if described.no_program is None else []):
        if name not in files:
            raise InputError(f"{path / name}: missing in {MANIFEST}")
    tables = {name: _map_table(path, described, name, weights[parameter]) for name, parameter in parameters.items()}
    return Bundle(path, fingerprint, described, _builder(path, described), map_tensors(path / DENSE, dense), tables)


def table_file(name: str) -> str:
    """Where a table lies in a bundle."""
    return f"tables/{name}.safetensors"


def vocabulary_folder(name: str) -> str:
    """Where the vocabulary of a table lies in a bundle."""
    return f"pieces/{name}"


def bare_ranker(schema: BatchSchema, config: RankerConfig) -> Ranker:
    """The ranker in evaluation mode, its tables on the meta device, where they take no memory. What else it has is not trained."""
    return Ranker(schema, config, torch.device("meta")).eval()  # the rest for real: it has constants that are in no state


def table_parameters(ranker: Ranker) -> dict[str, str]:
    """Table name to its weight's name in the ranker's state."""
    return {name.split(".")[-2]: name for name in ranker.state_dict() if ".embedding_bags." in name}


def table_columns(width: int, precision: str) -> tuple[torch.dtype, int]:
    """Type and number of what a row is stored in."""
    return (torch.float32, width) if precision == "fp32" else (torch.uint8, width + INT8_EXTRA)


def manifest_of(path: Path) -> bytes:
    """manifest.json of the files that lie in a folder."""
    found = sorted(file for file in path.rglob("*") if file.is_file())
    files = {file.relative_to(path).as_posix(): {"bytes": file.stat().st_size, "sha256": sha256_file(file)} for file in found}
    return json.dumps({"files": files, "sha256": _digest(files)}, indent=1).encode()


def _checked_files(path: Path, verify: bool) -> tuple[dict[str, Any], str]:
    """What manifest.json names, and its own sha256."""
    where = path / MANIFEST
    try:
        data = where.read_bytes()
        manifest = json.loads(data)
        files, digest = dict(manifest["files"]), manifest["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{where}: no bundle's manifest ({error})") from error
    if _digest(files) != digest:
        raise InputError(f"{where}: damaged, the sha256 of its list differs")
    for name, about in files.items():
        file, relative = path / name, PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts:
            raise InputError(f"{where}: names {name}, which lies outside the bundle")
        if not file.is_file():
            raise InputError(f"{file}: missing")
        if file.stat().st_size != about["bytes"]:
            raise InputError(f"{file}: has {file.stat().st_size} bytes, but {MANIFEST} says {about['bytes']}")
        if (verify or name == DESCRIPTION) and sha256_file(file) != about["sha256"]:
            raise InputError(f"{file}: damaged, its sha256 differs from {MANIFEST}")
    return files, hashlib.sha256(data).hexdigest()


def _digest(files: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _described(where: Path) -> Description:
    try:
        told = json.loads(where.read_bytes())
        found = told.get("format") if isinstance(told, dict) else None
        if found != FORMAT:
            raise InputError(f"{where}: is of format {found}, and this version of semid reads format {FORMAT}")
        return Description.model_validate(told)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{where}: not a bundle's description ({error})") from error


def _map_table(path: Path, described: Description, name: str, weight: torch.Tensor) -> torch.Tensor:
    dtype, columns = table_columns(weight.shape[1], described.tables)
    return map_tensors(path / table_file(name), {"weight": Expected(dtype, (len(weight), columns))})["weight"]


def _builder(path: Path, described: Description) -> BatchBuilder:
    contracts = described.sid_contracts
    builder = BatchBuilder(
        representations=tuple(r.made(_vocabulary(path, r, contracts)) for r in described.representations),
        columns=tuple(described.inputs),
        history_length=described.batch.history_length,
        context_rows=described.model.context_rows,
        dense_ids=None if described.items is None else _dense_ids(path / DENSE_IDS, described.items),
        tasks=described.model.tasks,
        sources={source: contract.levels for source, contract in contracts.items()},
        id_dropout=0.0,
        seed=0,
        shared_source=described.shared_source,
    )
    if builder.schema != described.batch:
        raise InputError(f"{path / DESCRIPTION}: its representations and inputs make {builder.schema}, and its batch is another")
    return builder


def _vocabulary(path: Path, r: RepresentationDescription, contracts: dict[str, SidContract]) -> SidPieces | None:
    if r.parameterization != "spm" or r.source is None:
        return None
    folder, contract = path / vocabulary_folder(r.name), contracts[r.source]
    vocabulary = SidPieces.load(folder, contract)
    if vocabulary.key_space != r.rows:
        raise InputError(f"{folder}: has {vocabulary.key_space} pieces, but {DESCRIPTION} says {r.rows}")
    try:
        vocabulary.keys(np.zeros((1, contract.levels), CODE_DTYPE), r.rows)
    except RuntimeError as error:
        raise InputError(f"{folder / MODEL}: not a SentencePiece model ({error})") from error
    return vocabulary


def _dense_ids(where: Path, items: int) -> DenseIdMap:
    found = map_tensors(where, dict.fromkeys(ID_MAP, Expected(torch.int64, (items,))))
    return DenseIdMap(*(found[name].numpy() for name in ID_MAP))
