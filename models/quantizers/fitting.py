"""Trains any quantizer, from a tensor or from vectors larger than memory, on one rank or several, and goes on where a run was stopped."""

from collections.abc import Callable

import torch
from torch import Tensor

from features.errors import InputError
from models.quantizers.autoencoder_training import RqfsqTraining, RqvaeTraining
from models.quantizers.config import QuantizerConfig
from models.quantizers.quantizer import Quantizer
from models.quantizers.rqkmeans_training import RqkmeansTraining
from models.quantizers.training import EpochReport, StateStore, Training
from models.quantizers.vectors import Vectors, as_vectors

CPU = torch.device("cpu")
TRAININGS: dict[str, type[Training]] = {"rqvae": RqvaeTraining, "rqkmeans": RqkmeansTraining, "rqfsq": RqfsqTraining}


def fit(
    content: Tensor | Vectors,
    config: QuantizerConfig,
    after_epoch: Callable[[EpochReport, Quantizer], None] = lambda report, model: None,
    *,
    device: torch.device = CPU,
    store: StateStore | None = None,
    start: Quantizer | None = None,
) -> Quantizer:
    """Train a quantizer on content vectors; where there is a process group, a collective call.

    Args:
        content: float32 [N, D], finite, not standardised; or where to read such vectors.
        config: kind, architecture and training.
        after_epoch: called on every rank after each pass over the items.
        device: where to train.
        store: where the state is kept after every epoch and every `config.checkpoint_every` steps; training goes on from what is in it.
        start: an older quantizer of the same architecture to start from, which keeps most codes where they are; by default a sample's
            principal components and k-means.

    Returns:
        The trained model on `device`; on a CPU the same bits for the same input, configuration, number of ranks and of threads. Several
        ranks see the batches that one would, and differ from it by rounding alone.

    Raises:
        InputError: if there are fewer items than codes per level.
    """
    vectors = as_vectors(content)
    if vectors.rows < config.codebook_size:
        raise InputError(f"quantize.codebook_size {config.codebook_size} is larger than the number of items with content, {vectors.rows}")
    training = TRAININGS[config.kind](vectors, config, device)
    state = store.load() if store is not None else None
    training.start = start
    if state is None:
        training.initialise()
    else:
        training.load(state)
    while not training.finished:
        _train_epoch(training, store)
        report = training.end_epoch(training.tally.total())
        training.tally = training.new_tally()
        after_epoch(report, training.model)
        if store is not None:
            store.save(training.state())
    return training.model.eval()


def _train_epoch(training: Training, store: StateStore | None) -> None:
    config, rows = training.config, training.vectors.rows
    every = config.checkpoint_every
    for batch in training.vectors.batches(training.epoch, config.seed, config.batch_size, training.step):
        count = min(config.batch_size, rows - training.step * config.batch_size)
        training.train_batch(training.model.standardise(batch.to(training.device)), count)
        training.step += 1
        # Not between the last full batch, whose residuals the epoch's end needs, and the end.
        if store is not None and every is not None and training.step % every == 0 and training.step <= training.last_full_step:
            store.save(training.state())
    training.epoch, training.step = training.epoch + 1, 0
