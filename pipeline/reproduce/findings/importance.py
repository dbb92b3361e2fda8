"""Feature importance: how much NE rises when one feature at a time is permuted among the rows that are scored."""

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.positions import list_lengths
from features.schema import HISTORY_CODES, TARGET_CODES
from pipeline.exact_metrics import log_losses
from pipeline.reproduce.core import SHUFFLED, core
from pipeline.reproduce.finding import Estimate, Finding, Row
from pipeline.reproduce.plots_ranker import importance_plot
from pipeline.reproduce.study import Study
from pipeline.reproduce.world import Variant, World

if TYPE_CHECKING:
    from pipeline.trainer import Trainer

BOTH, SHUFFLED_BOTH, PROBE = "semantic_id_and_random_hash", "shuffled_semantic_id_and_random_hash", "permuted"
TARGET_SID, TARGET_HASH = "target Semantic ID", "target hashed id"
HISTORY_SID, HISTORY_HASH = "history Semantic IDs", "history hashed ids"
HISTORY = "history_"  # what its columns' names begin with
Float = NDArray[np.float64]


def variants(world: World) -> list[Variant]:
    """Semantic IDs and hashed ids, of target and history; and with Semantic IDs shuffled."""
    (both,) = (variant for variant in core(world) if variant.name == BOTH)
    probes = (f"{__name__}:{PROBE}",)
    return [Variant(BOTH, both.settings, probes=probes), Variant(SHUFFLED_BOTH, {**both.settings, **SHUFFLED}, probes=probes)]


def permuted(trainer: "Trainer") -> dict[str, NDArray[Any]]:
    """Probe: names of the features, str [F], and the logits of the rows after training with each one permuted, float32 [F, n]."""
    builder, seed = trainer.source.builder, trainer.config.train.seed
    features = features_of(list(builder.sources), [*builder.dense_columns, *builder.context_columns])
    logits = []
    for number, columns in enumerate(features.values()):

        def change(rows: pa.Table, first_row: int, columns: list[str] = columns, number: int = number) -> pa.Table:
            return permute(rows, columns, np.random.default_rng([seed, number, first_row]))

        logits.append(trainer.score(trainer.train_rows, trainer.rows, change=change)[:, 0])
    return {"features": np.array(list(features)), "logits": np.stack(logits)}


def features_of(sources: list[str], others: list[str]) -> dict[str, list[str]]:
    """Feature, in words, to the columns that it is made of.

    Args:
        sources: of Semantic IDs.
        others: the dense and context columns.
    """
    items = {
        TARGET_SID: [TARGET_CODES + source for source in sources],
        TARGET_HASH: ["item_id"],
        HISTORY_SID: [HISTORY_CODES + source for source in sources],
        HISTORY_HASH: ["history_item_ids"],
    }
    return items | {name: [name] for name in others}


def permute(rows: pa.Table, columns: list[str], rng: np.random.Generator) -> pa.Table:
    """The rows with some columns dealt out anew, all of them alike, so that each row has those of another one.

    Those of the history, whose columns must fit each other, are exchanged among rows with equally long histories alone.
    """
    of_history = columns[0].startswith(HISTORY)
    length = list_lengths(rows, "history_item_ids") if of_history else np.zeros(rows.num_rows, np.int64)
    source = np.empty(rows.num_rows, np.int64)
    source[np.argsort(length, kind="stable")] = np.lexsort((rng.random(rows.num_rows), length))
    for name in columns:
        rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), rows.column(name).take(pa.array(source)))
    return rows


class Rises(NamedTuple):
    """Log losses of one model.

    Attributes:
        losses_SN: float64 [S, n], of the rows as they are.
        permuted_FSN: by feature, float64 [S, n].
    """

    losses_SN: Float
    permuted_FSN: dict[str, Float]

    def rise(self, feature: str, weight_N: Float) -> Float:
        """Of NE, in percent: float64 [S]."""
        rise_S: Float = 100 * (self.permuted_FSN[feature] @ weight_N / (self.losses_SN @ weight_N) - 1)
        return rise_S


def find(study: Study) -> Finding:
    """Rank the features, and compare Semantic IDs with hashed ids."""
    ours, control = _rises(study, BOTH), _rises(study, SHUFFLED_BOTH)
    rises = {name: study.estimate("frozen", partial(ours.rise, name)) for name in ours.permuted_FSN}
    ranked = sorted(rises, key=lambda name: -rises[name].mean)
    return Finding(
        15,
        "Feature importance by permutation",
        "A ranker has Semantic IDs and hashed ids, of the target and of the history. By how much does NE rise when one feature at a time "
        "is permuted among the rows?",
        (
            Row(
                "rise of NE by the target's Semantic ID, less that by its hashed id",
                "Semantic IDs are among the top sparse features",
                _difference(study, ours, TARGET_SID, TARGET_HASH),
                "points",
                "positive",
                _difference(study, control, TARGET_SID, TARGET_HASH),
            ),
            Row(
                "the same of the history's",
                "",
                _difference(study, ours, HISTORY_SID, HISTORY_HASH),
                "points",
                control=_difference(study, control, HISTORY_SID, HISTORY_HASH),
            ),
            *(Row(f"{place}. {name}", "", rises[name]) for place, name in enumerate(ranked, start=1)),
        ),
        (
            "On the rows after training, by the model as training left it; a feature is permuted within each batch, once for each seed, "
            "and nothing is trained again. Codes and ids of an item are permuted apart from each other, which makes items that there are "
            "not.",
            "A history is exchanged with one of as many items, and its ages stay. Features that say the same are worth little each: NE "
            "rises by what the others cannot make up for.",
            f"Tables have equal rows, {study.table_rows(BOTH):,} in all. The control has shuffled Semantic IDs.",
        ),
        (importance_plot([(name, _group(name), rises[name]) for name in ranked]),),
    )


def _rises(study: Study, variant: str) -> Rises:
    labels, probed = study.labels("frozen"), study.probed(variant, PROBE)
    logits_FSN = np.stack([seed["logits"] for seed in probed], 1)
    by_feature = dict(zip(probed[0]["features"].tolist(), (log_losses(logits_SN, labels) for logits_SN in logits_FSN), strict=True))
    return Rises(log_losses(study.scores(variant, "frozen"), labels), by_feature)


def _difference(study: Study, rises: Rises, one: str, other: str) -> Estimate:
    return study.estimate("frozen", lambda weights: rises.rise(one, weights) - rises.rise(other, weights))


def _group(feature: str) -> str:
    """Which of `plots_ranker.FEATURES`."""
    if feature in (TARGET_SID, HISTORY_SID):
        return "Semantic ID"
    return "hashed id" if feature in (TARGET_HASH, HISTORY_HASH) else "dense or context"
