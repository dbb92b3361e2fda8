"""What several findings do alike: the sign that a printed number claims, gains of a part's rows, and NE of weighted rows."""

import numpy as np
from numpy.typing import NDArray

from pipeline.exact_metrics import log_losses
from pipeline.reproduce.finding import Row, Sign
from pipeline.reproduce.study import Part, Study

Float = NDArray[np.float64]
Bools = NDArray[np.bool_]


def claimed(paper: str) -> Sign | None:
    """The sign of a number as a paper prints it, such as "-0.41%"; None where it prints none."""
    if not paper:
        return None
    number = float(paper.split()[0].rstrip("%"))
    return "negative" if number < 0 else "positive" if number > 0 else "zero"


def gain_row(
    study: Study,
    what: str,
    variant: str,
    baseline: str,
    part: Part,
    chosen: Bools | None = None,
    *,
    paper: str = "",
    expected: Sign | None = None,
    control: str | None = None,
) -> Row:
    """Change of NE of one variant against another.

    Args:
        study: has both.
        what: in words; their first letter becomes a capital.
        variant: its name.
        baseline: its name.
        part: whose rows.
        chosen: bool [n], which of them; all by default.
        paper: the number as it prints it.
        expected: the sign claimed; by default that of the paper's number.
        control: name of the variant with shuffled Semantic IDs.
    """
    what, sign = what[:1].upper() + what[1:], expected or claimed(paper)
    if chosen is not None and not chosen.any():
        return Row(what, paper, None, expected=sign, why_not="no row that is judged is of this kind")
    wrong = study.gain(control, baseline, part, chosen) if control else None
    return Row(what, paper, study.gain(variant, baseline, part, chosen), expected=sign, control=wrong)


def losses(study: Study, variant: str, part: Part) -> Float:
    """Log loss of each row of a part: float64 [S, n]."""
    return log_losses(study.scores(variant, part), study.labels(part))


def ne(losses_SN: Float, labels_N: Float, weights_N: Float) -> Float:
    """Normalized entropy of weighted rows: float64 [S]; NaN where one label has no weight."""
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = (labels_N @ weights_N) / weights_N.sum()
        entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
        normalized: Float = losses_SN @ weights_N / weights_N.sum() / entropy
    return normalized


def change(variant_SN: Float, baseline_SN: Float, weights_N: Float) -> Float:
    """Change of NE in percent on the same weighted rows, negative is better: float64 [S]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        percent: Float = 100 * (variant_SN @ weights_N / (baseline_SN @ weights_N) - 1)
    return percent
