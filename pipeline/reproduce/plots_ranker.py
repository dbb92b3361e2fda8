"""Figures of what is measured in trained rankers, as inline SVG: where attention goes, and what each feature is worth."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from pipeline.plots import BASELINE, COLOURS, STYLE, WIDTH, _figure, _legend, _svg
from pipeline.reproduce.finding import Estimate

HISTORIES = {  # of a history's representation: its name, colour and marker
    "random_hash": ("hashed ids", BASELINE, "o"),
    "semantic_id": ("Semantic IDs", COLOURS[0], "s"),
    "shuffled_semantic_id": ("shuffled Semantic IDs", COLOURS[1], "D"),
}
FEATURES = {"Semantic ID": (COLOURS[0], "s"), "hashed id": (BASELINE, "o"), "dense or context": (COLOURS[2], "D")}


def attention_plot(levels: dict[str, dict[str, dict[str, float]]]) -> str:
    """A panel for each figure of the attention, a line for each arm, a dot for each representation of the history; SVG.

    Args:
        levels: figure, with its unit, to arm, to kind of history, to the mean.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
        for axes, (name, by_arm) in zip(figure.subplots(2, -(-len(levels) // 2)).flat, levels.items(), strict=True):
            for kind, (label, colour, marker) in HISTORIES.items():
                found = {place: values[kind] for place, values in enumerate(by_arm.values()) if kind in values}
                first = axes is figure.axes[0]  # whose entries stand in the legend for all
                axes.scatter(list(found.values()), list(found), color=colour, marker=marker, s=24, label=label if first else None)
            axes.set_title(name, fontsize=9)
            axes.set(yticks=range(len(by_arm)), yticklabels=list(by_arm), ylim=(len(by_arm) - 0.5, -0.5))
            axes.margins(x=0.15)
            axes.tick_params(axis="y", length=0)
            axes.grid()
        _legend(figure, len(HISTORIES))
        return _svg(figure, "attention", "Four figures of the attention in the history, with hashed ids and with Semantic IDs")


def importance_plot(rises: Sequence[tuple[str, str, Estimate]]) -> str:
    """Rise of NE by feature, the first on top; SVG.

    Args:
        rises: of each feature its name, which of `FEATURES` it is of, and the rise in percent.
    """
    with mpl.rc_context(STYLE):
        figure, axes = _figure(1.1 + 0.27 * len(rises))
        axes.axvline(0, color=BASELINE, linewidth=1)
        for group, (colour, marker) in FEATURES.items():
            places = [place for place, (_, its, _) in enumerate(rises) if its == group]
            mean, low, high = np.array([rises[place][2] for place in places], float).reshape(-1, 3).T
            whiskers = np.nan_to_num([mean - low, high - mean])
            axes.errorbar(mean, places, xerr=whiskers, fmt=marker, color=colour, markersize=5, capsize=2, label=group)
        axes.set(yticks=range(len(rises)), yticklabels=[name for name, _, _ in rises], ylim=(len(rises) - 0.5, -0.5))
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.set_xlabel("rise of NE when the feature is permuted, percent")
        _legend(figure, len(FEATURES))
        return _svg(figure, "importance", "Rise of NE when a feature is permuted among rows, by feature, with 95% intervals")
