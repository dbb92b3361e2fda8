"""Writes what was found: reproduction.html, a page of its own that needs no network, reproduction.json and reproduction.md."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from markupsafe import Markup

from features.files import write_durably
from pipeline.report import environment, facts
from pipeline.reproduce.finding import Finding
from pipeline.reproduce.markdown import as_markdown
from pipeline.reproduce.results import VERDICTS, Made, Results, as_json, counted, figure, interval, minus, reason, results, summary
from pipeline.reproduce.runs import duration
from pipeline.reproduce.study import Study

NAME = "reproduction"
SCALE, MARGIN = 120, 5  # units of the view box's width in which the intervals of a finding are drawn
CLASSES = {"confirmed": "better", "not confirmed": "worse", "not testable": "muted", "shown": "muted"}


class Drawn(NamedTuple):
    """Where an interval lies in a drawing SCALE wide: its ends, its mean, and which of its ends are cut off."""

    low: float
    mean: float
    high: float
    cut_low: bool
    cut_high: bool


def write(out: Path, study: Study, findings: Sequence[Finding], made: Made) -> Results:
    """Write the three files into a folder; returns what reproduction.json holds."""
    told = results(study, findings, made)
    page = render(told, [finding.plots for finding in findings])
    for suffix, data in ((".json", as_json(told)), (".md", as_markdown(told).encode()), (".html", page.encode())):
        write_durably(out / f"{NAME}{suffix}", data)
    return told


def render(told: Results, plots: Sequence[Sequence[str]]) -> str:
    """The page.

    Args:
        told: of `pipeline.reproduce.results.results`.
        plots: inline SVG of each finding.
    """
    made = environment()
    made.filters |= {
        "figure": figure,
        "interval": interval,
        "counted": counted,
        "duration": duration,
        "minus": minus,
        "reason": lambda row: reason(row)[:1].upper() + reason(row)[1:],
        "yaml": _yaml,
        "setting": setting,
    }
    return made.get_template(f"{NAME}.html.j2").render(
        told=told,
        summary=summary(told),
        facts=facts(told["data"]),
        plots=[[Markup(svg) for svg in svgs] for svgs in plots],  # made by us, every name in it escaped
        intervals=[drawn_intervals(finding["rows"]) for finding in told["findings"]],
        marks=VERDICTS,
        classes=CLASSES,
        scale=SCALE,
    )


def drawn_intervals(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each row with a claimed sign, where zero, ours and the control lie; rows of one unit are on one scale, that holds zero.

    Returns:
        For each row `zero`, a place, and `ours` and `control`, a Drawn or None; empty where there is nothing to draw.
    """
    claimed = [row for row in rows if row["expected"] is not None and _has_interval(row["ours"])]
    scales = {unit: _scale([row["ours"] for row in claimed if row["unit"] == unit]) for unit in {row["unit"] for row in claimed}}
    drawn: list[dict[str, Any]] = []
    for row in rows:
        if row not in claimed:
            drawn.append({})
            continue
        scale = scales[row["unit"]]
        control = _drawn(row["control"], scale) if _has_interval(row["control"]) else None
        drawn.append({"zero": _place(0.0, scale), "ours": _drawn(row["ours"], scale), "control": control})
    return drawn


def _scale(intervals: Sequence[dict[str, float]]) -> tuple[float, float]:
    """Least and most that are shown: of all, but for the ends of a few that are far wider than the others."""
    limit = 4 * float(np.median([max(-each["low"], each["high"]) for each in intervals]))
    least, most = min(0.0, *(each["low"] for each in intervals)), max(0.0, *(each["high"] for each in intervals))
    return (max(least, -limit), min(most, limit)) if most > least else (-1.0, 1.0)


def _drawn(each: dict[str, float], scale: tuple[float, float]) -> Drawn:
    low, mean, high = (_place(each[key], scale) for key in ("low", "mean", "high"))
    return Drawn(low, mean, high, each["low"] < scale[0], each["high"] > scale[1])


def _place(value: float, scale: tuple[float, float]) -> float:
    """Within the drawing, with a margin for the dot of a mean at the edge."""
    least, most = scale
    return round(MARGIN + (SCALE - 2 * MARGIN) * (min(max(value, least), most) - least) / (most - least), 1)


def setting(value: Any) -> str:
    """A value of the recipe on one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _has_interval(each: dict[str, float | None] | None) -> bool:
    return each is not None and None not in each.values()


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, width=100, allow_unicode=True)
