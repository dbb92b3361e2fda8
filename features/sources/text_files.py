"""Text files as published: lines to string columns, with the numbers of the lines that could not be split."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from features.errors import InputError
from features.quarantine import Mask, Quarantine, numbers, row_numbers

BLOCK = 1 << 24  # bytes read at once; a line must fit in it


def read_delimited(
    path: Path, columns: Sequence[str], quarantine: Quarantine, *, delimiter: str, header: bool, quotes: bool
) -> tuple[pa.Table, npt.NDArray[np.int64]]:
    """Read a file with one delimiter character, UTF-8.

    Args:
        path: the file.
        columns: the columns wanted by name if there is a header, else all columns in order.
        quarantine: takes the lines with another number of columns.
        delimiter: one character.
        header: whether the first line names the columns.
        quotes: whether a double quote encloses a value.

    Returns:
        String columns [N] and the line number of each row, int64 [N].

    Raises:
        InputError: naming the file, if it is absent, empty or not UTF-8, or has no such column.
    """
    _require_content(path)
    broken: list[int] = []

    def skip(row: pa_csv.InvalidRow) -> str:
        broken.append(row.number)
        return "skip"

    read = pa_csv.ReadOptions(use_threads=False, block_size=BLOCK, column_names=None if header else list(columns))
    parse = pa_csv.ParseOptions(
        delimiter=delimiter, quote_char='"' if quotes else False, invalid_row_handler=skip, ignore_empty_lines=False
    )
    convert = pa_csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()), include_columns=list(columns))
    try:
        table = pa_csv.read_csv(path, read, parse, convert)
    except (pa.ArrowInvalid, KeyError) as error:
        raise InputError(f"{path}: cannot be read as columns {', '.join(columns)} ({' '.join(str(error).split())[:200]})") from error
    first = 2 if header else 1
    lines = np.setdiff1d(row_numbers(table.num_rows + len(broken), first), broken)
    quarantine.reject(path.name, np.array(broken, np.int64), "the line has another number of columns")
    return table, lines


def read_double_colon(path: Path, columns: Sequence[str], quarantine: Quarantine) -> tuple[pa.Table, npt.NDArray[np.int64]]:
    """Read a `a::b::c` file without header, Latin-1, as `read_delimited` does. Raises InputError if it is absent or empty."""
    _require_content(path)
    fields = pc.split_pattern(pa.array(path.read_text("latin-1").splitlines(), pa.string()), "::")
    whole = pc.equal(pc.list_value_length(fields), len(columns))
    lines, whole_mask = row_numbers(len(fields)), whole.to_numpy(zero_copy_only=False)
    quarantine.reject(path.name, lines[~whole_mask], f"expected {len(columns)} fields")
    kept = fields.filter(whole)
    return pa.table({name: pc.list_element(kept, index) for index, name in enumerate(columns)}), lines[whole_mask]


def whole_numbers(column: pa.ChunkedArray, digits: int = 18) -> tuple[npt.NDArray[np.int64], Mask]:
    """Strings to int64 [N] and where they are no whole number of at most so many digits (value 0 there)."""
    values, wrong = _matching(column, rf"^\d{{1,{digits}}}$")
    return numbers(values.cast(pa.int64())), wrong


def decimals(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.float64], Mask]:
    """Strings to float64 [N] and where they are no plain decimal number (value 0 there)."""
    values, wrong = _matching(column, r"^\d{1,6}(\.\d{1,6})?$")
    return numbers(values.cast(pa.float64())), wrong


def _matching(column: pa.ChunkedArray, pattern: str) -> tuple[pa.ChunkedArray, Mask]:
    good = pc.match_substring_regex(column, pattern)
    return pc.if_else(good, column, "0"), ~good.to_numpy()


def _require_content(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
