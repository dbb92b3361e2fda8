"""Names of items against Python's strings."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.item_names import SHOWN_CHARACTERS, item_names, name_columns

TEXTS = st.lists(
    st.tuples(*[st.none() | st.text("ab \n\t\u00a0\u2028\u0001é…😀", max_size=9) | st.just("long word " * 30)] * 2), min_size=1, max_size=9
)


def expected(title: str | None, text: str | None) -> str:
    for value in (title, text):
        line = " ".join((value or "").replace("\u0001", " ").split())
        if line:
            return line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 1] + "…"
    return ""


@given(TEXTS)
def test_a_name_is_the_title_or_else_the_text_on_one_line(rows: list[tuple[str | None, str | None]]) -> None:
    titles, texts = (pa.array(column, pa.string()) for column in zip(*rows, strict=True))
    items = pa.table({"item_id": range(len(rows)), "text": texts, "title": titles})
    assert item_names(items).to_pylist() == [expected(*row) for row in rows]


def test_without_title_and_text_there_are_no_names() -> None:
    items = pa.table({"item_id": [1, 2]})
    assert name_columns(items.schema) == []
    assert item_names(items).to_pylist() == ["", ""]
