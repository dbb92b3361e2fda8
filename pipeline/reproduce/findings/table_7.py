"""Table 7: where attention goes in the user's history, with hashed ids and with Semantic IDs."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.reproduce.finding import Estimate, Finding, Row, Sign
from pipeline.reproduce.findings.table_6 import ARMS, named, with_history
from pipeline.reproduce.plots_ranker import attention_plot
from pipeline.reproduce.study import Study
from pipeline.reproduce.world import Variant, World

if TYPE_CHECKING:
    from pipeline.trainer import Trainer

PROBE, EXAMPLES = "attention", 1000
KINDS = {"transformer": ("random_hash", "semantic_id", "shuffled_semantic_id"), "pma": ("random_hash", "semantic_id")}
Float = NDArray[np.float64]
Figures = dict[str, Float]


class Figure(NamedTuple):
    """What is told of one: in words, the factor to its unit, its unit, the sign that Semantic IDs give to its change."""

    words: str
    factor: float
    unit: str
    claimed: Sign | None


FIGURES = {
    "first": Figure("attention to the first position", 100, "points", "positive"),
    "padding": Figure("attention to padding", 100, "points", "negative"),
    "entropy": Figure("entropy", 1, "bits", "negative"),
    "self": Figure("attention to itself", 100, "points", None),
}
PAPER = {
    "transformer": {
        "first": "+1.3 points (.030 to .043)",
        "padding": "-4.2 points (.460 to .418)",
        "entropy": "-0.182 bits (2.149 to 1.967)",
        "self": "-0.7 points (.052 to .045)",
    },
    "pma": {
        "first": "+0.3 points (.071 to .074)",
        "padding": "-3.8 points (.351 to .313)",
        "entropy": "-0.050 bits (3.075 to 3.025)",
    },
}
MASKED = "masked_"  # of the figures without padding


def variants(world: World) -> list[Variant]:
    """Those of table 6 that attend, looked into."""
    return [with_history(world, arm, kind, f"{__name__}:{PROBE}") for arm, kinds in KINDS.items() for kind in kinds]


def attention(trainer: "Trainer") -> dict[str, NDArray[Any]]:
    """Probe: `figures` of the first 1,000 rows after training, float64 [n] each; and padded, the share of padding in their histories."""
    from torch import nn

    from models.history import HistoryArm

    weights, masks = [], []

    def keep_mask(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        masks.append(arguments[2].cpu().numpy())

    def keep_weights(module: nn.Module, arguments: tuple[Any, ...], __: dict[str, Any]) -> None:
        # Called as a function, it does not come back to this hook.
        weights.append(module.forward(*arguments, need_weights=True)[1].float().cpu().numpy())

    modules = list(trainer.model.module.modules())
    hooks = [each.register_forward_pre_hook(keep_mask) for each in modules if isinstance(each, HistoryArm)]
    hooks += [each.register_forward_pre_hook(keep_weights, with_kwargs=True) for each in modules if isinstance(each, nn.MultiheadAttention)]
    stop = min(trainer.train_rows + EXAMPLES, trainer.rows)
    try:
        trainer.score(trainer.train_rows, stop)
    finally:
        for hook in hooks:
            hook.remove()
    rows = stop - trainer.train_rows
    of_positions = trainer.config.model.history == "transformer"
    weight_BST, real_BT = np.concatenate(weights)[:rows].astype(np.float64), np.concatenate(masks)[:rows]
    return figures(weight_BST, real_BT, of_positions=of_positions) | {"padded": 1 - real_BT.mean(1)}


def figures(weight_BST: Float, real_BT: NDArray[np.bool_], *, of_positions: bool) -> dict[str, Float]:
    """Paper A's four figures of an attention matrix, by example, and the same as if padding had been masked.

    Args:
        weight_BST: float64 [B, S, T], rows that sum to 1.
        real_BT: bool [B, T], False where padded.
        of_positions: whether query s is position s, as in a transformer; else there is no figure of attention to itself.

    Returns:
        float64 [B] each. first: (1/S) sum_s a_s1; padding: (1/S) sum_s sum_t [t is padding] a_st; entropy: (1/S) sum_s -sum_t a_st
        log2 a_st; self: (1/S) sum_s a_ss. As masked_first and so on: of real queries, without the columns of padding, each row made to
        sum to 1 again; NaN for an example that is padding alone.
    """
    real_B1T = real_BT[:, None, :]
    every_BS = np.ones(weight_BST.shape[:2], bool)
    whole = _figures(weight_BST, every_BS, of_positions) | {"padding": _mean((weight_BST * ~real_B1T).sum(2), every_BS)}
    kept_BST = weight_BST * real_B1T
    total_BS1 = kept_BST.sum(2, keepdims=True)
    masked_BST = np.divide(kept_BST, total_BS1, out=np.zeros_like(kept_BST), where=total_BS1 > 0)
    query_BS = real_BT if of_positions else np.broadcast_to(real_BT.any(1, keepdims=True), every_BS.shape)
    return whole | {MASKED + name: values for name, values in _figures(masked_BST, query_BS, of_positions).items()}


def _figures(weight_BST: Float, query_BS: NDArray[np.bool_], of_positions: bool) -> dict[str, Float]:
    logarithm_BST = np.log2(weight_BST, out=np.zeros_like(weight_BST), where=weight_BST > 0)
    found = {"first": _mean(weight_BST[:, :, 0], query_BS), "entropy": _mean(-(weight_BST * logarithm_BST).sum(2), query_BS)}
    return found | ({"self": _mean(np.diagonal(weight_BST, axis1=1, axis2=2), query_BS)} if of_positions else {})


def _mean(values_BS: Float, query_BS: NDArray[np.bool_]) -> Float:
    """Over the queries: float64 [B], NaN where there is none."""
    count_B = query_BS.sum(1)
    return np.divide((values_BS * query_BS).sum(1), count_B, out=np.full(len(count_B), np.nan), where=count_B > 0)


def mean_difference(ours_SB: Float, theirs_SB: Float, weight_B: Float) -> Float:
    """By seed, float64 [S], over the examples that have a figure; weighted."""
    known_B = np.isfinite(ours_SB).all(0) & np.isfinite(theirs_SB).all(0)
    difference_S: Float = (ours_SB - theirs_SB)[:, known_B] @ weight_B[known_B] / weight_B[known_B].sum()
    return difference_S


def find(study: Study) -> Finding:
    """Each figure of either arm, Semantic IDs less hashed ids."""
    found = {(arm, kind): _by_seed(study.probed(named(arm, kind), PROBE)) for arm, kinds in KINDS.items() for kind in kinds}
    rows = [_row(study, found, arm, name) for arm in KINDS for name in PAPER[arm]]
    rows += [_row(study, found, arm, MASKED + name) for arm in KINDS for name in PAPER[arm] if name != "padding"]
    return Finding(
        7,
        "Table 7: where attention goes in the user's history",
        "Do Semantic IDs in the history draw attention from padding to items, make it sharper, and direct it to the first position?",
        tuple(rows),
        _notes(study, found["transformer", "random_hash"]["padded"][0]),
        (attention_plot({_title(name): _levels(found, name) for name in FIGURES}),),
    )


def _by_seed(probed: list[dict[str, NDArray[Any]]]) -> Figures:
    return {name: np.stack([seed[name] for seed in probed]) for name in probed[0]}


def _title(name: str) -> str:
    """Of a panel, with the unit of a level, where that of a change is points."""
    words, _, unit, _ = FIGURES[name]
    return f"{words}, {'percent' if unit == 'points' else unit}"


def _levels(found: dict[tuple[str, str], Figures], name: str) -> dict[str, dict[str, float]]:
    """By arm and history, the mean over examples and seeds in the figure's unit."""

    def mean(arm: str, kind: str) -> float:
        return FIGURES[name].factor * float(found[arm, kind][name].mean())

    return {ARMS[arm]: {kind: mean(arm, kind) for kind in kinds} for arm, kinds in KINDS.items() if name in PAPER[arm]}


def _row(study: Study, found: dict[tuple[str, str], Figures], arm: str, name: str) -> Row:
    masked, (words, factor, unit, claimed) = name.startswith(MASKED), FIGURES[name.removeprefix(MASKED)]

    def change(kind: str) -> Estimate:
        ours_SB, theirs_SB = factor * found[arm, kind][name], factor * found[arm, "random_hash"][name]
        return study.estimate("frozen", lambda weights: mean_difference(ours_SB, theirs_SB, weights[: ours_SB.shape[1]]))

    what = f"{ARMS[arm]}: {words}{', without padding' if masked else ''}, Semantic IDs less hashed ids"
    control = change("shuffled_semantic_id") if "shuffled_semantic_id" in KINDS[arm] else None
    return Row(what, "" if masked else PAPER[arm][name], change("semantic_id"), unit, None if masked else claimed, control)


def _notes(study: Study, padded: Float) -> tuple[str, ...]:
    model = study.world.config.model
    return (
        f"Over the first {len(padded):,} rows after training, where the paper takes 1,000 examples; {100 * padded.mean():.0f}% of their "
        f"history positions are padding. The attention of {model.history_heads} heads is averaged before anything else. The most recent "
        "item is first, and the padding last.",
        "As the paper's figures imply, padding is attended to and every position asks, padding too. Rows without padding are the "
        "same attention of real items alone, each row of the matrix made to sum to 1 again: no model was trained so, and the paper has no "
        "such figures.",
        f"Histories are of {study.world.config.ingest.history_length} items where the paper's are of about 100, so that levels differ from "
        f"the paper's and signs alone compare. PMA has {model.pma_seeds} seeds. The target is represented by hashed ids in all, and tables "
        "have equal rows: the models are those of table 6. The control has shuffled Semantic IDs.",
    )
