"""Table 3b of paper A: how much better a model knows the latest rows than those of two days before."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.history import MICROSECONDS_PER_HOUR
from pipeline.exact_metrics import log_losses
from pipeline.reproduce import paper_a
from pipeline.reproduce.compare import Bools, Float, claimed, ne
from pipeline.reproduce.finding import Estimate, Finding, Row
from pipeline.reproduce.study import Study
from pipeline.reproduce.world import Variant, World
from pipeline.segments import by_training_impressions

HOURS = 96  # of the paper's training period
WORDS = {paper_a.RANDOM_HASH: "random hash", paper_a.INDIVIDUAL: "a row per item", paper_a.SEMANTIC_ID: "Semantic IDs"}
PAPER = {  # NE 42-48 h before the end minus NE of the last 6 h: RH, IE, SemID
    segment: dict(zip(WORDS, gaps, strict=True))
    for segment, gaps in {
        "all": (0.0083, 0.0074, 0.0073),
        "head": (0.0057, 0.0065, 0.0059),
        "torso": (0.0087, 0.0075, 0.0076),
        "tail": (0.0128, 0.0103, 0.0106),
    }.items()
}
PROBE = f"{__name__}:probe_drift"


class Window(NamedTuple):
    """Rows of the training period, as the trained model scores them.

    Attributes:
        losses: float64 [S, n], log losses of each seed.
        labels: float64 [n].
        rows: which they are.
    """

    losses: Float
    labels: Float
    rows: slice


def variants(world: World) -> list[Variant]:
    """The three representations and the control."""
    made = (paper_a.random_hash, paper_a.individual, paper_a.prefix_3, paper_a.shuffled)
    return [replace(each(world), probes=(PROBE,)) for each in made]


def windows(train_rows: int) -> tuple[slice, slice]:
    """Rows of the earlier window and of the last one: the paper's hours as shares of the training period."""

    def before_the_end(hours: int) -> int:
        return train_rows - round(train_rows * hours / HOURS)

    return slice(before_the_end(48), before_the_end(42)), slice(before_the_end(6), train_rows)


def probe_drift(trainer: Any) -> dict[str, NDArray[Any]]:
    """Logits of both windows' rows by a trainer at the end of its training period: float32 [n] each."""
    early, late = windows(trainer.train_rows)
    return {name: trainer.score(rows.start, rows.stop, trained_on=True)[:, 0] for name, rows in (("early", early), ("late", late))}


def drift_gap(early: Window, late: Window, weights: Float) -> Float:
    """NE of the earlier window minus that of the later one, of weighted rows: float64 [S].

    Args:
        early: the earlier window.
        late: the later one.
        weights: float64 [N], of all rows of the training period.
    """
    return ne(early.losses, early.labels, weights[early.rows]) - ne(late.losses, late.labels, weights[late.rows])


def find(study: Study) -> Finding:
    """The gap of each representation, and how much smaller that of Semantic IDs is than that of hashed ids."""
    drifts = {variant: _windows_of(study, variant) for variant in (*WORDS, paper_a.SHUFFLED_SEMANTIC_ID)}
    items = study.log["item_id"][: study.train_rows]
    segments = by_training_impressions(np.concatenate((items, items)), study.train_rows).segments
    counted = {"all": np.ones(len(items), bool)} | {name: segments[name] for name in ("head", "torso", "tail")}
    rows = [row for segment, chosen in counted.items() for row in _rows_of(study, drifts, segment, chosen)]
    early, late = windows(study.train_rows)
    times = study.log["timestamp"]
    hours = [f"{(times[each.stop - 1] - times[each.start]) / MICROSECONDS_PER_HOUR:,.1f} h" for each in (early, late)]
    notes = (
        paper_a.SETTING,
        paper_a.scale(study.world),
        f"{paper_a.equal_rows(study.world)} A row per item has more.",
        "The model as training left it is scored on rows that it was trained on. The paper's windows, 42 to 48 and the last 6 of 96 hours, "
        f"are taken as shares of the training period's rows: rows {early.start:,} to {early.stop:,}, {hours[0]}, and {late.start:,} to "
        f"{late.stop:,}, {hours[1]}.",
        "A gap alone also tells how hard the rows of its windows are to predict; that is the same for all representations, so the claim is "
        "judged on the difference of two gaps. Its number in the paper's column is the difference of the paper's two.",
    )
    question = "Does a model with Semantic IDs forget less of what it learned some days ago? NE of earlier rows minus NE of the latest."
    return Finding(3, "Table 3b: drift of the representation", question, tuple(rows), notes)


def _windows_of(study: Study, variant: str) -> tuple[Window, Window]:
    scored, labels = study.probed(variant, "probe_drift"), study.labels("training")
    made = []
    for name, rows in zip(("early", "late"), windows(study.train_rows), strict=True):
        logits = np.stack([seed[name] for seed in scored])
        made.append(Window(log_losses(logits, labels[rows]), labels[rows], rows))
    early, late = made
    return early, late


def _rows_of(study: Study, drifts: dict[str, tuple[Window, Window]], segment: str, chosen: Bools) -> list[Row]:
    def gap(variant: str, less: str | None = None) -> Estimate:
        def statistic(weights: Float) -> Float:
            counted = np.where(chosen, weights, 0.0)
            mine = drift_gap(*drifts[variant], counted)
            return mine if less is None else mine - drift_gap(*drifts[less], counted)

        return study.estimate("training", statistic)

    numbers = [sum(chosen[rows]) for rows in windows(study.train_rows)]
    of = f"{segment} ({numbers[0]:,} and {numbers[1]:,} rows)"
    rows = [Row(f"Gap of {words}: {of}", f"{PAPER[segment][variant]:.4f}", gap(variant), unit="") for variant, words in WORDS.items()]
    theirs = f"{PAPER[segment][paper_a.SEMANTIC_ID] - PAPER[segment][paper_a.RANDOM_HASH]:+.4f}"
    less, control = (gap(variant, paper_a.RANDOM_HASH) for variant in (paper_a.SEMANTIC_ID, paper_a.SHUFFLED_SEMANTIC_ID))
    what = f"Gap of Semantic IDs minus that of random hash: {of}"
    return [*rows, Row(what, theirs, less, unit="", expected=claimed(theirs), control=control)]
