"""What was found as tables for the terminal, printed at the end of `semid reproduce`."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.reproduce.results import VERDICTS, Results, counted, figure, interval, minus, reason, summary
from pipeline.tables import WIDTH

STYLES = {"confirmed": "green", "not confirmed": "red", "not testable": "yellow", "shown": "dim"}


def findings_tables(told: Results) -> list[Table]:
    """One of each finding's rows, their columns below each other's; printed to a file or pipe they are plain text.

    Args:
        told: of `pipeline.reproduce.results.results`.
    """
    return [_table(finding) for finding in told["findings"]]


def print_findings(told: Results) -> None:
    """Print the tables and the summary: coloured on a terminal, plain elsewhere."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    console.print(*findings_tables(told), Text(summary(told), style="bold"), sep="\n")


def _table(finding: Results) -> Table:
    title = Text.assemble((finding["title"], "bold"), (f"  {counted(finding['verdicts'])}", "dim"))
    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, expand=True)
    table.add_column("", overflow="fold", ratio=6)
    for name, share in (("paper", 2), ("here", 2), ("95% interval", 3), ("shuffled", 2)):
        table.add_column(name, justify="right", overflow="fold", ratio=share)
    table.add_column("", overflow="fold", ratio=5)
    for row in finding["rows"]:
        verdict = Text(f"{VERDICTS[row['verdict']]} {row['verdict']}", style=STYLES[row["verdict"]])
        if row["verdict"] in ("not confirmed", "not testable"):
            verdict.append(f": {reason(row)}", style="dim")
        control = "" if row["control"] is None else figure(row, "control")
        table.add_row(Text(row["what"]), Text(minus(row["paper"])), Text(figure(row)), Text(interval(row)), Text(control), verdict)
    return table
