"""Gains by segment of a finding, in the report's plot of them."""

from collections.abc import Mapping

import numpy as np

from pipeline.plots import gain_plot
from pipeline.reproduce.finding import Estimate
from pipeline.reproduce.study import Part, Study
from pipeline.segments import Parting


def segment_plot(study: Study, name: str, part: Part, parting: Parting, variants: Mapping[str, str], baseline: str) -> str:
    """Change of NE with its interval, a row per segment and a dot per variant; SVG.

    Args:
        study: what is compared.
        name: of the plot, unique on the page.
        part: whose rows.
        parting: how they are parted.
        variants: name of a variant to what it is called.
        baseline: name of the variant with hashed ids.
    """
    segments = {"all": np.ones(len(study.labels(part)), bool)} | {key: rows for key, rows in parting.segments.items() if rows.any()}
    gains = {
        words: {segment: _cell(study.gain(variant, baseline, part, chosen)) for segment, chosen in segments.items()}
        for variant, words in variants.items()
    }
    judged = {"segments": [{"name": segment, "by": parting.by} for segment in segments], "variants": gains}
    # evaluate's results.json, as far as the plot reads it
    return gain_plot({"baseline": "random hash", "table_rows": [*variants.values()], name: judged}, name, parting.by)


def _cell(gain: Estimate) -> dict[str, float]:
    return {"gain": gain.mean, "low": gain.low, "high": gain.high}
