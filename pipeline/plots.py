"""Figures of the report as inline SVG in one style: colours that colour-blind readers tell apart, each with a marker or line of its own."""

import html
import io
import re
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.tables import BY, partings

# Okabe and Ito's palette without its yellow, which is too light on white; black is the baseline's.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "D", "^", "v", "P")
LINES = ("-", "--", "-.", (0, (3, 1, 1, 1, 1, 1)), (0, (5, 1)), ":")
BASELINE, MUTED, GRID = "#000000", "#666666", "#DDDDDD"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and copied
    "text.parse_math": False,  # a name may hold a dollar sign
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": "#222222",
    "ytick.labelcolor": "#222222",
}
WIDTH = 6.6  # inches; 475 points


def gain_plot(results: dict[str, Any], part: str, by: str) -> str:
    """Change of NE with its interval, a row per segment and a dot per variant; SVG.

    Args:
        results: the contents of evaluate's results.json.
        part: "frozen" or "progressive".
        by: what parts the rows.
    """
    segments = [segment["name"] for segment in partings(results[part])[by]]
    variants = [name for name in results["table_rows"] if name != results["baseline"]]
    with mpl.rc_context(STYLE):
        figure, axes = _figure(0.9 + len(segments) * (0.24 + 0.12 * len(variants)))
        axes.axvline(0, color=BASELINE, linewidth=1)
        for index, name in enumerate(variants):
            cells = [results[part]["variants"][name][segment] for segment in segments]
            gain, low, high = (np.array([cell[key] for cell in cells], float) for key in ("gain", "low", "high"))
            place = np.arange(len(segments)) + (index - (len(variants) - 1) / 2) * 0.8 / max(len(variants), 1)
            whiskers = np.nan_to_num([gain - low, high - gain])
            axes.errorbar(
                gain, place, xerr=whiskers, fmt=_of(MARKERS, index), color=_of(COLOURS, index), markersize=4.5, capsize=2, label=name
            )
        for edge in range(len(segments) - 1):
            axes.axhline(edge + 0.5, color=GRID, linewidth=0.8)
        axes.set_yticks(range(len(segments)), segments)
        axes.set_ylim(len(segments) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.set_xlabel(f"change of NE against {results['baseline']}, percent (left of zero is better)")
        axes.set_ylabel(BY[by])
        _legend(figure, len(variants))
        return _svg(
            figure, f"gain-{part}-{by}", f"Change of NE of each variant against {results['baseline']}, by {BY[by]}, with 95% intervals"
        )


def curve_plot(results: dict[str, Any]) -> str:
    """NE over the stream, a line per variant; the judged second half is marked; SVG."""
    rows = results["data"]["rows"]
    with mpl.rc_context(STYLE):
        figure, axes = _figure(3.1)
        axes.axvspan(rows - results["data"]["stream_rows"], rows, color="#F3F3F3", linewidth=0)
        others = 0
        for name, points in results["curve"].items():
            edges = np.linspace(0, rows, len(points) + 1)
            middle = (edges[1:] + edges[:-1]) / 2
            ne = np.array(points, float)  # a null becomes NaN, a gap in the line
            if name == results["baseline"]:
                axes.plot(middle, ne, color=BASELINE, linewidth=2.2, label=name)
            else:
                axes.plot(middle, ne, color=_of(COLOURS, others), linestyle=_of(LINES, others), label=name)
                others += 1
        axes.set_xlim(0, rows)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.grid(axis="y")
        axes.set_xlabel("impressions so far; the shaded half is what the stream is judged on")
        axes.set_ylabel("NE of the window")
        _legend(figure, len(results["curve"]))
        return _svg(figure, "curve", "NE over the stream for each variant")


def codebook_plot(quality: dict[str, Any], codebook_size: int) -> str:
    """Use and entropy of each level's codes, and how alike items are that share a prefix; SVG.

    Args:
        quality: the figures of `models.quantizers.codebook.CodebookQuality`.
        codebook_size: K.
    """
    usage = 100 * np.array(quality["usage"])
    entropy = 100 * np.array(quality["entropy_bits"]) / max(np.log2(codebook_size), 1e-9)
    level = np.arange(1, len(usage) + 1)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.7), layout="constrained")
        left, right = figure.subplots(1, 2)
        for offset, values, colour, label in ((-0.2, usage, COLOURS[0], "codes in use"), (0.2, entropy, COLOURS[4], "entropy / log2 K")):
            bars = left.bar(level + offset, values, 0.38, color=colour, label=label)
            left.bar_label(bars, fmt="%.0f", fontsize=8, padding=1)
        left.set(title="Use of the codes, percent", xlabel="level", ylim=(0, 118), xticks=level, yticks=(0, 50, 100))
        left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, handlelength=1.2, columnspacing=1.2)
        cosine = np.array(quality["prefix_cosine"], float)
        right.plot(np.arange(len(cosine)), cosine, color=COLOURS[0], marker="o", markersize=5)
        right.set(title="Content cosine of two items", xlabel="codes that they share", xticks=range(len(cosine)))
        right.set_ylim(min(0.0, float(np.nanmin(cosine, initial=0.0))) - 0.03, 1.03)
        right.grid(axis="y")
        return _svg(figure, "codebook", "Use and entropy of the codes of each level, and content similarity by length of the shared prefix")


def skew_plot(counts: NDArray[np.int64]) -> str:
    """Share of the impressions that the most impressed items have, over the share of the items; SVG.

    Args:
        counts: int64 [N], impressions per item, most impressed first.
    """
    share = np.cumsum(counts) / counts.sum()
    # A few hundred ranks, evenly spaced on the logarithmic axis, draw the same line as all of them.
    rank = np.unique(np.geomspace(1, len(counts), 240).round().astype(np.int64))
    with mpl.rc_context(STYLE):
        figure, axes = _figure(2.9)
        axes.plot(100 * rank / len(counts), 100 * share[rank - 1], color=COLOURS[0])
        axes.set_xscale("log")
        axes.set(ylim=(0, 103), xlabel="items, most impressed first, percent of all impressed items", ylabel="impressions, percent")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.grid()
        return _svg(figure, "skew", "Cumulative share of impressions by item rank")


def _figure(height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _legend(figure: Figure, entries: int) -> None:
    figure.legend(loc="outside upper left", ncols=min(entries, 3), handlelength=2.4, columnspacing=1.6)


def _of(cycle: tuple[Any, ...], index: int) -> Any:
    return cycle[index % len(cycle)]


def _svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an <svg> element that may stand in HTML beside others: no prolog, no outside names, ids that start with `name`."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href=", "href=")
    text = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    # The page gives the width; without a width and height of its own the view box keeps the proportions.
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)
