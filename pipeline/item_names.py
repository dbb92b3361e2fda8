"""What an item is called on a page: its title, or else the beginning of its text, on one line."""

import pyarrow as pa
import pyarrow.compute as pc

SHOWN_CHARACTERS = 110
NAME_COLUMNS = ("title", "text")


def name_columns(schema: pa.Schema) -> list[str]:
    """Those of an items schema that names are made of; none where it has neither."""
    return [name for name in NAME_COLUMNS if name in schema.names]


def item_names(items: pa.Table) -> pa.Array:
    """A name per row, string [N] without nulls; empty where the item has no title and no text, or only blanks."""
    columns = [one_line(items.column(name)) for name in name_columns(items.schema)]
    if not columns:
        return pa.repeat("", items.num_rows)
    chosen = pc.fill_null(pc.coalesce(*(pc.if_else(pc.equal(column, ""), None, column) for column in columns)), "")
    whole = pc.less_equal(pc.utf8_length(chosen), SHOWN_CHARACTERS)
    cut = pc.binary_join_element_wise(pc.utf8_slice_codeunits(chosen, 0, SHOWN_CHARACTERS - 1), "…", "")
    names: pa.Array = pc.if_else(whole, chosen, cut).combine_chunks()
    return names


def one_line(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Strings without breaks or control characters, and with single spaces."""
    blanks = r"[\p{Z}\p{Cc}]+"  # spaces and breaks of any script, and control characters
    return pc.utf8_trim(pc.replace_substring_regex(column.cast(pa.string()), blanks, " "), " ")
