"""What a bundle's precision costs: normalised entropy of several bundles on the same rows of their run, after its training."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from features.errors import InputError
from features.reader import RowReader
from features.schema import LABEL
from pipeline.exact_metrics import exact_metrics, log_losses
from pipeline.loader import BatchSource
from pipeline.progress import say
from pipeline.serve.bundle import Bundle
from pipeline.serve.scorer import Scorer

ROWS_AT_ONCE = 1024


def judge(bundles: Mapping[str, Bundle], source: BatchSource, rows: int) -> dict[str, list[float]]:
    """Score rows with each bundle, and print the normalised entropy of each task.

    Args:
        bundles: of one run, by name; the first is what the others are compared with.
        source: the run's input.
        rows: how many, from the end of what the bundles were trained on.

    Returns:
        Bundle name to the normalised entropy of each task.

    Raises:
        InputError: if there are no rows after training.
    """
    first = next(iter(bundles.values())).described.checkpoint.rows
    stop = min(first + rows, source.dataset.rows)
    if stop <= first:
        raise InputError(f"{source.dataset.location}: has no rows after the {first:,} that were trained on, to judge the tables by")
    tasks = source.config.model.tasks
    reader = RowReader(source.dataset, [*next(iter(bundles.values())).inputs.names, *(LABEL + task for task in tasks)])
    scorers = {name: Scorer(bundle, source.store) for name, bundle in bundles.items()}
    logits: dict[str, list[NDArray[np.float32]]] = {name: [] for name in bundles}
    labels = []
    for start in range(first, stop, ROWS_AT_ONCE):
        table = reader.read(start, min(start + ROWS_AT_ONCE, stop))
        labels.append(np.stack([table.column(LABEL + task).to_numpy() for task in tasks], 1))
        (batch,) = table.combine_chunks().to_batches()
        for name, scorer in scorers.items():
            logits[name].append(scorer.logits(scorer.enriched(batch)).numpy())
    found = {name: _entropies(np.concatenate(of_rows), np.concatenate(labels)) for name, of_rows in logits.items()}
    for number, task in enumerate(tasks):
        before = next(iter(found.values()))[number]
        for name, of_tasks in found.items():
            change = of_tasks[number] / before - 1
            say(f"NE of {task} on {stop - first:,} rows after training, tables in {name}: {of_tasks[number]:.6f} ({change:+.4%})")
    return found


def _entropies(logits_NK: NDArray[np.float32], labels_NK: NDArray[np.int8]) -> list[float]:
    """Of each task."""
    columns = zip(logits_NK.T, labels_NK.T, strict=True)
    return [exact_metrics(log_losses(logits, labels), expit(logits), labels).ne for logits, labels in columns]
