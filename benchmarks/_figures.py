"""What all benchmarks share: their arguments, fair timing, and the table of figures beside their baselines."""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: what was measured; names the baseline or ceiling too where there is one, e.g. "prefix-ngram, H rows (of memory copy)".
        value: our figure, in `unit`.
        unit: e.g. "keys/s".
        baseline: the figure it is held against, in the same unit and run; null where there is none.
        ratio: value / baseline.
        bar: what was asked, in words; empty where nothing was.
        holds: whether it was reached; null where nothing was asked.
    """

    name: str
    value: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None
    bar: str = ""
    holds: bool | None = None


def row(name: str, value: float, unit: str, *, baseline: float | None = None, bar: str = "", holds: bool | None = None) -> Row:
    """A Row with its ratio."""
    return Row(name, value, unit, baseline, value / baseline if baseline else None, bar, holds)


def parser(description: str) -> argparse.ArgumentParser:
    """The arguments of every benchmark: `--small` ends within a minute, `--json FILE` also writes the rows there."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--small", action="store_true", help="smaller inputs; ends within a minute")
    options.add_argument("--json", type=Path, help="also write the rows to this file")
    return options


def arguments(description: str) -> argparse.Namespace:
    """The arguments of a benchmark that has no others."""
    return parser(description).parse_args()


def median_seconds(actions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median time of each action over `rounds` rounds in which all of them take turns, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds + 1):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(measured[1:]) for name, measured in times.items()}


def show(title: str, rows: Sequence[Row], json_path: Path | None) -> None:
    """Print the table; write the JSON where asked."""
    table = Table("figure", "value", "unit", "baseline", "ratio", "bar", "holds", title=title)
    for line in rows:
        holds = "" if line.holds is None else "yes" if line.holds else "NO"
        table.add_row(line.name, _number(line.value), line.unit, _number(line.baseline), _number(line.ratio), line.bar, holds)
    Console(width=160).print(table)
    if json_path is not None:
        json_path.write_text(json.dumps({"machine": machine(), "rows": [asdict(line) for line in rows]}, indent=1))


def machine() -> str:
    """The processor, its cores and the interpreter, in words."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
