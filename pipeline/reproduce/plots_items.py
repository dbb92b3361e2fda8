"""Figures of the findings about items: curves with whiskers, in the style of `pipeline.plots`."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np

from pipeline.plots import COLOURS, LINES, MARKERS, STYLE, _figure, _legend, _of, _svg
from pipeline.reproduce.finding import Estimate

FEW = 24  # points up to which each has a marker


class Axis(NamedTuple):
    """Its label, whether it is logarithmic, and whether only whole numbers are marked."""

    label: str
    log: bool = False
    whole: bool = False


def curves(name: str, label: str, series: Mapping[str, tuple[Sequence[float], Sequence[Estimate]]], x: Axis, y: Axis) -> str:
    """A line per series, with whiskers where an interval is known; SVG.

    Args:
        name: of the figure, unique on its page.
        label: what it shows, read aloud.
        series: legend entry to places on the x axis and the figures there.
        x: the horizontal axis.
        y: the vertical one.
    """
    with mpl.rc_context(STYLE):
        figure, axes = _figure(2.9)
        for index, (entry, (places, figures)) in enumerate(series.items()):
            mean, low, high = (np.array([each[part] for each in figures], float) for part in range(3))
            whiskers = np.nan_to_num([mean - low, high - mean]).clip(min=0)
            marker = _of(MARKERS, index) if len(places) <= FEW else ""
            style = {"color": _of(COLOURS, index), "linestyle": _of(LINES, index), "marker": marker, "markersize": 4.5, "capsize": 2}
            axes.errorbar(np.asarray(places, float), mean, yerr=whiskers if whiskers.any() else None, label=entry, **style)
        for axis, scale in ((x, axes.set_xscale), (y, axes.set_yscale)):
            if axis.log:
                scale("log")
        for axis, ticks in ((x, axes.xaxis), (y, axes.yaxis)):
            if axis.log:
                ticks.set_major_formatter(lambda value, _: f"{value:g}")
            elif axis.whole:
                ticks.get_major_locator().set_params(integer=True)
        if not y.log and axes.get_ylim()[0] > 0:
            axes.set_ylim(bottom=0)
        axes.set(xlabel=x.label, ylabel=y.label)
        axes.grid()
        if len(series) > 1:
            _legend(figure, len(series))
        return _svg(figure, name, label)


def exact(values: Sequence[float]) -> list[Estimate]:
    """Figures without an interval."""
    return [Estimate(float(value), np.nan, np.nan) for value in values]
