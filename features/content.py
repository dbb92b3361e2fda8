"""Item text or given vectors to content embeddings, float32 [N, D]; items that have neither are left out and counted."""

import importlib.util
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.dataset import open_dataset, read_table
from features.errors import InputError
from features.schema import require

INSTALL_HINT = "pip install 'semid[text]'"
ITEM_ID = pa.field("item_id", pa.int64(), nullable=False)


@dataclass(frozen=True)
class Content:
    """Items with their content vectors.

    Attributes:
        item_ids: int64 [N].
        vectors_ND: float32 [N, D], finite.
        source: name of the content source, "text" or the vector column's; the Semantic ID contract carries it.
        left_out: items that have no usable content and so no vector.
    """

    item_ids: npt.NDArray[np.int64]
    vectors_ND: npt.NDArray[np.float32]
    source: str
    left_out: int


def content_schema(dim: int) -> pa.Schema:
    """Arrow schema of the content data set: `item_id` int64 and `vector` float32[dim]."""
    return pa.schema([ITEM_ID, pa.field("vector", pa.list_(pa.float32(), dim), nullable=False)])


def content_table(content: Content) -> pa.Table:
    """`content` as an Arrow table of `content_schema`, sharing its memory."""
    dim = content.vectors_ND.shape[1]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(content.vectors_ND.reshape(-1)), dim)
    return pa.table([pa.array(content.item_ids), vectors], schema=content_schema(dim))


def read_content(path: Path) -> Content:
    """Read the content data set that the embed stage wrote. Raises InputError where it is missing, damaged or of another schema."""
    dataset = open_dataset(path)
    if "source" not in dataset.metadata:
        raise InputError(f"{path}: this is no content data set (its manifest names no source)")
    return replace(given_vectors(read_table(dataset), "vector", str(path)), source=dataset.metadata["source"])


def given_vectors(items: pa.Table, column: str, where: str) -> Content:
    """Take a fixed-size-list column as it is; the numbers are not copied where the column is one chunk without rejected rows.

    Args:
        items: has `item_id` int64 and `column` fixed_size_list<float32>[D].
        column: which vector column.
        where: names the items in errors.

    Returns:
        The items whose vector is neither null nor holds a null, NaN or infinite number; the others are counted in `left_out`.

    Raises:
        InputError: if a column is missing or of another type, or no item has a vector.
    """
    require(items.schema, pa.schema([ITEM_ID]), where)
    kind = items.schema.field(column).type if column in items.schema.names else None
    if kind is None or not pa.types.is_fixed_size_list(kind) or kind.value_type != pa.float32():
        raise InputError(f"{where}: column '{column}' must be fixed_size_list<float32>, found {kind or 'no such column'}")
    present = items.filter(items.column(column).is_valid()) if items.column(column).null_count else items
    vectors_ND = _one_array(present.column(column)).flatten().to_numpy(zero_copy_only=False).reshape(-1, kind.list_size)
    item_ids = present.column("item_id").to_numpy()
    finite = np.isfinite(vectors_ND).all(axis=1)
    if not finite.all():
        item_ids, vectors_ND = item_ids[finite], vectors_ND[finite]
    if not len(item_ids):
        raise InputError(f"{where}: no item has a finite vector in column '{column}'")
    return Content(item_ids, vectors_ND, column, items.num_rows - len(item_ids))


def embed_text(items: pa.Table, where: str, *, model: str, max_tokens: int, batch_size: int) -> Content:
    """Encode the `text` column with a sentence-transformers model that is already on this machine; nothing is downloaded.

    Args:
        items: has `item_id` int64 and `text` string.
        where: names the items in errors.
        model: installed package that carries a model, or a model's folder.
        max_tokens: tokens read per text, longer texts are cut.
        batch_size: texts per step. The vectors differ by about 1e-7 with it.

    Returns:
        The items whose text is neither null nor blank, unit vectors if the model normalises; the others are counted in `left_out`.

    Raises:
        InputError: if a column is missing, no item has a text, or the model or the extra `text` is not installed.
    """
    require(items.schema, pa.schema([ITEM_ID, pa.field("text", pa.string())]), where)
    present = items.filter(pc.fill_null(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(items.column("text"))), 0), False))
    if not present.num_rows:
        raise InputError(f"{where}: no item has a text")
    folder = model_folder(model)
    # Hugging Face's libraries read these when they are first imported.
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    try:
        from sentence_transformers import SentenceTransformer
        from transformers.utils.logging import disable_progress_bar
    except ModuleNotFoundError as error:
        raise InputError(f"embedding text needs '{error.name}', which is not installed: {INSTALL_HINT}") from error
    disable_progress_bar()
    encoder = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    encoder.max_seq_length = max_tokens
    vectors_ND = encoder.encode(present.column("text").to_pylist(), batch_size=batch_size, show_progress_bar=False, convert_to_numpy=True)
    vectors_ND = np.ascontiguousarray(vectors_ND, np.float32)
    return Content(present.column("item_id").to_numpy(), vectors_ND, "text", items.num_rows - present.num_rows)


def model_folder(model: str) -> Path:
    """Folder of a sentence-transformers model, which holds `modules.json`.

    Args:
        model: a folder, or the name of an installed package that has such a folder inside; the package is not imported.

    Raises:
        InputError: if it is neither.
    """
    if (Path(model) / "modules.json").is_file():
        return Path(model)
    package = importlib.util.find_spec(model) if model.isidentifier() else None
    for root in (package.submodule_search_locations or ()) if package else ():
        for found in sorted(Path(root).rglob("modules.json")):
            return found.parent
    raise InputError(f"model '{model}' is neither a folder nor an installed package with a sentence-transformers model: {INSTALL_HINT}")


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
