"""Online Retail (UCI): invoice lines of a gift wholesaler; purchases are the positives, negatives are constructed."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.ids import hash_ids
from features.quarantine import Fault, Quarantine, is_empty, is_null, numbers, row_numbers
from features.schema import TIMESTAMP
from features.sources.log import (
    EVENTS,
    SourceLog,
    impressions_of,
    impressions_schema_of,
    items_table,
    raw_file,
    read_columns,
    with_negatives,
)

FILE = "online_retail.parquet"
LINES = pa.schema(
    [
        ("InvoiceNo", pa.string()),
        ("StockCode", pa.string()),
        ("Description", pa.string()),
        ("Quantity", pa.int64()),
        ("InvoiceDate", TIMESTAMP),
        ("UnitPrice", pa.float64()),
        ("CustomerID", pa.int64()),
        ("Country", pa.string()),
    ]
)


def read(raw: Path, *, history_length: int, negatives_per_positive: int, seed: int) -> SourceLog:
    """Read online_retail.parquet, the published columns.

    A positive is a line of a known customer with a description and positive quantity and price that is no cancellation; each line
    counts, also where an invoice names an item twice. Shop time is taken as UTC.

    Args:
        raw: the folder of the file, or its parent with a folder 'online_retail'.
        history_length: T.
        negatives_per_positive: N; from the same day, by that day's purchases.
        seed: of the negatives and of the order of simultaneous rows.

    Raises:
        InputError: naming the file or column that is missing or cannot be read.
    """
    path = raw_file(raw, ("online_retail",), FILE)
    quarantine = Quarantine()
    lines = read_columns(path, LINES)
    lines = quarantine.keep(lines, file=FILE, rows=row_numbers(lines.num_rows), faults=_faults(lines))

    item_ids, ones = hash_ids(lines["StockCode"]), np.ones(lines.num_rows, np.int8)
    positives = pa.table([lines["InvoiceDate"], lines["CustomerID"], item_ids, ones], schema=EVENTS)
    country = pa.field("context_country", pa.int64(), nullable=False)
    positives = positives.append_column(country, pa.array(hash_ids(lines["Country"])))
    days = numbers(lines["InvoiceDate"]) // 86_400_000_000
    events, missing = with_negatives(positives, days, per_positive=negatives_per_positive, exponent=1.0, seed=seed)
    metadata = {
        "source": "online_retail",
        "credit": "Chen, D. (2015), Online Retail, UCI Machine Learning Repository, doi 10.24432/C5BW33, CC BY 4.0",
        "positive": "a purchased line",
        "negatives": f"constructed: {negatives_per_positive} per purchase, items sold the same day that this customer never bought, drawn "
        "by that day's purchases",
        "negatives_missing": missing,
        "past_count": "positives",
        "text": "the most frequent description of the item's purchases",
    }
    impressions = impressions_of(events, past_count="positives", history_length=history_length)
    return SourceLog(_items(lines), impressions_schema_of(events.schema), impressions, quarantine, metadata)


def _faults(lines: pa.Table) -> list[Fault]:
    return [
        Fault(is_empty(lines["InvoiceNo"]), "no invoice number"),
        Fault(is_empty(lines["StockCode"]), "no stock code"),
        Fault(is_null(lines["InvoiceDate"]), "no invoice date"),
        Fault(pc.fill_null(pc.starts_with(lines["InvoiceNo"], "C"), False).to_numpy(), "cancellation"),
        Fault(numbers(lines["Quantity"]) <= 0, "quantity not positive"),
        Fault(~(numbers(lines["UnitPrice"]) > 0), "price not positive"),
        Fault(is_null(lines["CustomerID"]), "no customer"),
        Fault(is_empty(lines["Description"]), "no description"),
        Fault(is_empty(lines["Country"]), "no country"),
    ]


def _items(lines: pa.Table) -> pa.Table:
    """One item per stock code; its text is the most frequent description, the earliest of equally frequent ones."""
    named = pa.table(
        {"code": lines["StockCode"], "text": pc.utf8_trim_whitespace(lines["Description"]), "row": row_numbers(lines.num_rows)}
    )
    counted = named.group_by(["code", "text"]).aggregate([("row", "count"), ("row", "min")])
    ranked = counted.sort_by([("row_count", "descending"), ("row_min", "ascending")])
    # Arrow's group_by keeps no order, so the best description is found as the smallest rank.
    best = ranked.append_column("rank", pa.array(row_numbers(ranked.num_rows, 0))).group_by("code").aggregate([("rank", "min")])
    chosen = ranked.take(best["rank_min"]).sort_by("row_min")
    return items_table(hash_ids(chosen["code"]), original_ids=chosen["code"], titles=chosen["text"], texts=chosen["text"])
