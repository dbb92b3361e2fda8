"""Table 6: Semantic IDs instead of hashed ids in the user's history, under three ways to aggregate it."""

from pipeline.reproduce.core import SHUFFLED, represented
from pipeline.reproduce.finding import Estimate, Finding, Row
from pipeline.reproduce.study import Part, Study
from pipeline.reproduce.world import Variant, World

ARMS = {"bypass": "Bypass", "transformer": "Transformer", "pma": "PMA"}
CONTROLLED = ("bypass", "transformer")
PARTS: dict[Part, str] = {"training": "train", "frozen": "evaluation"}
PAPER = {"bypass": ("-0.056%", "-0.085%"), "transformer": ("-0.071%", "-0.110%"), "pma": ("-0.073%", "-0.100%")}


def variants(world: World) -> list[Variant]:
    """Each arm with either history, and the controls."""
    arms = [with_history(world, arm, kind) for arm in ARMS for kind in ("random_hash", "semantic_id")]
    return [*arms, *(with_history(world, arm, "shuffled_semantic_id") for arm in CONTROLLED)]


def with_history(world: World, arm: str, kind: str, *probes: str) -> Variant:
    """The target by hashed ids, the history by `kind`, from a table of its own, aggregated by `arm`; both tables have the recipe's rows."""
    rows, shuffled = world.config.model.rows, kind.startswith("shuffled_")
    tables = {
        "target": {"kind": "random_hash", "history": False, "rows": rows},
        "history": {"kind": kind.removeprefix("shuffled_"), "target": False, "rows": rows},
    }
    variant = represented(named(arm, kind), tables, model__history=arm)
    return Variant(variant.name, {**variant.settings, **(SHUFFLED if shuffled else {})}, probes=probes)


def named(arm: str, kind: str) -> str:
    """A variant's name."""
    return f"{arm}_of_{kind}_history"


def find(study: Study) -> Finding:
    """The gain of either period, arm by arm."""
    rows = [_row(study, arm, part, paper) for arm in ARMS for part, paper in zip(PARTS, PAPER[arm], strict=True)]
    rows += [_against_control(study, arm, part) for arm in CONTROLLED for part in PARTS]
    config, judged = study.world.config, len(study.labels("frozen"))
    share = 100 * judged / len(study.log["item_id"])
    return Finding(
        6,
        "Table 6: Semantic IDs in the user's history",
        "The target is represented by hashed ids. Do Semantic IDs instead of hashed ids in the history improve NE, however it is "
        "aggregated?",
        tuple(rows),
        (
            f"Equal rows: {study.table_rows(named('bypass', 'random_hash')):,} with hashed ids and "
            f"{study.table_rows(named('bypass', 'semantic_id')):,} with Semantic IDs, half of them the target's table. "
            "Target and history have tables of their own, so that the history alone differs.",
            f"Histories are of {config.ingest.history_length} items where the paper's are of about 100, and an arm is one block of width "
            f"{config.model.embedding_dim}. Evaluated are the {judged:,} rows after training, {share:.0f}% "
            "of the log, where the paper evaluates the next six hours. Train NE is that of every row before it is trained on.",
            "The control, for two of the arms, has shuffled Semantic IDs. An item of these has several rows, too, whose sum may learn "
            "faster than the one row of a hashed id, semantics or not: the rows against shuffled ones are free of that.",
        ),
    )


def _against_control(study: Study, arm: str, part: Part) -> Row:
    what = f"{ARMS[arm]}: {PARTS[part]} NE, Semantic IDs against shuffled ones in the history"
    return Row(what, "", study.gain(named(arm, "semantic_id"), named(arm, "shuffled_semantic_id"), part))


def _row(study: Study, arm: str, part: Part, paper: str) -> Row:
    def gain(kind: str) -> Estimate:
        return study.gain(named(arm, kind), named(arm, "random_hash"), part)

    control = gain("shuffled_semantic_id") if arm in CONTROLLED else None
    what = f"{ARMS[arm]}: {PARTS[part]} NE, Semantic IDs against hashed ids in the history"
    return Row(what, paper, gain("semantic_id"), expected="negative", control=control)
