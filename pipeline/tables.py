"""The comparison as tables for a terminal: one of the frozen models, two of the stream; built from evaluate's results.json."""

from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

WIDTH = 120  # columns, where the output is no terminal that tells its own
TITLES = {"frozen": "After training: models frozen, judged on the later period", "progressive": "As a stream: scored, then trained on"}
BY = {  # what parts the rows, in words
    "training_impressions": "the item's impressions in training",
    "past_impressions": "the item's impressions so far",
    "dense_age_hours": "the item's age",
}
NOTHING = "-"


def results_table(results: dict[str, Any]) -> RenderableType:
    """All tables and what must be known to read them.

    Args:
        results: the contents of evaluate's results.json.

    Returns:
        A rich renderable that fits WIDTH columns; printed to a file or pipe it is plain text.
    """
    data = results["data"]
    rows = f"{data['rows']:,} impressions, {data['train_rows']:,} of them for training, {data['evaluation_rows']:,} after it"
    origin = f"{results['name']} ({data['source']}): {rows}"
    if data.get("negatives"):
        origin += f"; negatives: {data['negatives']}"
    seeds = ", ".join(map(str, results["seeds"]))
    legend = (
        f"Below each segment: change of NE in percent against {results['baseline']} (negative is better; mean of seeds {seeds}), and its"
        " 95% interval, users resampled; * marks an interval clear of zero. NE alone where there is nothing to compare."
    )
    tables = [comparison_table(results, part, by) for part in TITLES for by in partings(results[part])]
    return Group(Text(origin), *tables, Text(legend, style="dim"))


def partings(judged: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """What parts the rows, to the segments: all rows, then those that part them.

    Args:
        judged: the frozen or the progressive part of results.json.
    """
    whole, *segments = judged["segments"]
    return {by: [whole, *(segment for segment in segments if segment["by"] == by)] for by in (s["by"] for s in segments)}


def comparison_table(results: dict[str, Any], part: str, by: str) -> Table:
    """One table: a row per variant in the file's order, a column per segment with its number of rows.

    Args:
        results: the contents of results.json.
        part: "frozen" or "progressive".
        by: what parts the rows.
    """
    segments = partings(results[part])[by]
    title = f"{TITLES[part]}; by {BY[by]}"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("variant", max_width=20, overflow="fold")
    table.add_column("table\nrows", justify="right")
    table.add_column("NE", justify="right")
    for segment in segments:
        table.add_column(f"{segment['name']}\n{segment['rows']:,}", justify="right")
    for variant, by_segment in results[part]["variants"].items():
        size = results["table_rows"].get(variant)
        overall = by_segment["all"]["ne"]
        cells = [_gain(by_segment[segment["name"]]) for segment in segments]
        # A name is broken after an underscore, so that two lines of it stand beside the two of each figure.
        name = variant.replace("_and_", "_\nand_")
        table.add_row(name, NOTHING if size is None else f"{size:,}", NOTHING if overall is None else f"{overall:.4f}", *cells)
    return table


def print_results(results: dict[str, Any]) -> None:
    """Print the tables on standard output: coloured on a terminal, plain elsewhere."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    console.print(results_table(results))


def _gain(cell: dict[str, float | None]) -> Text:
    """Gain over interval; green or red where the interval is clear of zero; the bare NE where there is no gain."""
    gain, low, high = cell["gain"], cell["low"], cell["high"]
    if gain is None or low is None or high is None:
        return Text(NOTHING if cell["ne"] is None else f"NE {cell['ne']:.4f}", style="dim")
    clear = clear_of_zero(low, high)
    style = ("green" if gain < 0 else "red") if clear else ""
    return Text.assemble((f"{percent(gain)}{'*' if clear else ''}", style), "\n", (f"{percent(low)}…{percent(high)}", "dim"))


def clear_of_zero(low: float, high: float) -> bool:
    """Whether an interval lies on one side of zero, so that the sign of the change is established."""
    return high < 0 or low > 0


def percent(value: float) -> str:
    """A signed percentage in five characters or less: two decimals below ten, one above."""
    return f"{value:+.2f}" if abs(value) < 9.995 else f"{value:+.1f}"
