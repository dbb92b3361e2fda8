"""Table 4 of paper A: a training period five times as long."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from features.dataset import DatasetWriter, iter_row_groups
from features.history import MICROSECONDS_PER_HOUR
from pipeline.reproduce import paper_a
from pipeline.reproduce.compare import Float, change, gain_row, losses
from pipeline.reproduce.finding import Estimate, Finding, Row
from pipeline.reproduce.study import Study
from pipeline.reproduce.world import Variant, World

TIMES = 5  # 20 days instead of 4
LOG = "last_fifth_of_training"
SHORT = "_last_fifth"  # ends the names of the variants with the short period
SHORTENED = (paper_a.random_hash, paper_a.prefix_3, paper_a.shuffled)


def variants(world: World) -> list[Variant]:
    """Hashed ids, Semantic IDs and the control, each with the whole training period and with the last fifth of it."""
    start, train_rows = short_period(world)
    # Half a row more lets no rounding take one away; the trainer rounds down to whole batches.
    share = (train_rows - start + 0.5) / (world.impressions.rows - start)
    longer = [made(world) for made in SHORTENED]
    shorter = [replace(each, name=each.name + SHORT, log=LOG, settings={**each.settings, "train.train_fraction": share}) for each in longer]
    return [*longer, *shorter]


def short_period(world: World) -> tuple[int, int]:
    """First row of the short training period, and the row that both end before; whole batches lie between."""
    train = world.config.train
    batches = int(world.impressions.rows * train.train_fraction) // train.global_batch
    return (batches - batches // TIMES) * train.global_batch, batches * train.global_batch


def logs(world: World) -> dict[str, Callable[[Path], None]]:
    """The log without the rows before the short training period."""
    start, _ = short_period(world)

    def write(folder: Path) -> None:
        with DatasetWriter(folder, world.impressions.schema, world.impressions.metadata) as writer:
            before = 0
            for group in iter_row_groups(world.impressions):
                writer.write(group.slice(min(max(start - before, 0), group.num_rows)))
                before += group.num_rows

    return {LOG: write}


def more_gain(mine: tuple[Float, Float], theirs: tuple[Float, Float], weights: Float) -> Float:
    """How much more one representation gains by the long period than another, in points of percent: float64 [S].

    Args:
        mine: log losses of one, float64 [S, n], after the long period and after the short one.
        theirs: of the other.
        weights: float64 [n].
    """
    return change(*mine, weights) - change(*theirs, weights)


def find(study: Study) -> Finding:
    """Gain by the long period of both, and their difference."""
    start, train_rows = short_period(study.world)
    ours, control = (_more_gain(study, variant) for variant in (paper_a.SEMANTIC_ID, paper_a.SHUFFLED_SEMANTIC_ID))
    rows = (
        _gain(study, "Random hash", paper_a.RANDOM_HASH, "-0.18%"),
        _gain(study, "Semantic IDs", paper_a.SEMANTIC_ID, "-0.23%"),
        Row("Semantic IDs' gain minus random hash's", "-0.05 points", ours, unit="points", expected="negative", control=control),
    )
    leads = [
        gain_row(study, f"Semantic IDs against random hash after the {words} period", semantic_id, random_hash, "frozen")
        for words, semantic_id, random_hash in (
            ("short", paper_a.SEMANTIC_ID + SHORT, paper_a.RANDOM_HASH + SHORT),
            ("long", paper_a.SEMANTIC_ID, paper_a.RANDOM_HASH),
        )
    ]
    times = study.log["timestamp"]
    days = [(times[train_rows - 1] - times[first]) / (24 * MICROSECONDS_PER_HOUR) for first in (0, start)]
    notes = (
        paper_a.SETTING,
        paper_a.scale(study.world),
        paper_a.equal_rows(study.world),
        f"The long training period is this world's, {train_rows:,} rows or {days[0]:,.1f} days; the short one its last fifth, "
        f"{train_rows - start:,} rows or {days[1]:,.1f} days (paper: 20 days and 4). Both end at the same row, and "
        "both models are judged on the same rows after it, as training left them.",
        "What is known of an item and a user when a row is shown, counts and history, is the same in both: it comes from the whole log.",
        "Whoever learns from fewer rows leads after the short period and has less to gain by the long one: the last two rows tell.",
    )
    question = "Do Semantic IDs profit more from a longer training period than hashed ids? Change of evaluation NE."
    return Finding(4, "Table 4: five times the training period", question, (*rows, *leads), notes)


def _gain(study: Study, words: str, variant: str, paper: str) -> Row:
    return gain_row(study, f"{words}: five times the training period against one", variant, variant + SHORT, "frozen", paper=paper)


def _more_gain(study: Study, variant: str) -> Estimate:
    mine, theirs = ((losses(study, each, "frozen"), losses(study, each + SHORT, "frozen")) for each in (variant, paper_a.RANDOM_HASH))
    return study.estimate("frozen", partial(more_gain, mine, theirs))
