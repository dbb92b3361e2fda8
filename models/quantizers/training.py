"""Trains any quantizer, from a tensor or from vectors larger than memory, on one rank or several, and goes on where a run was stopped.

Dimensions: N items, D content width, Z latent width, L levels, K codes per level.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from features.errors import InputError
from models.quantizers.codebook_quality import Figures, Tally
from models.quantizers.config import QuantizerConfig
from models.quantizers.quantizer import Quantizer, build
from models.quantizers.vectors import Vectors, as_vectors

CPU = torch.device("cpu")


@dataclass(frozen=True)
class EpochReport:
    """An epoch's end.

    Attributes:
        epoch: number of finished epochs, that is passes over the items.
        last_epoch: number of epochs as planned now; None for RQ-KMeans, which has to see.
        level: the level that was trained, from 1, where levels are trained one after the other; else None.
        figures: of the epoch's batches, each with the codebook as it was then. RQ-KMeans has those of the levels up to `level`.
        learning_rate: at the epoch's end; None for RQ-KMeans.
    """

    epoch: int
    last_epoch: int | None
    level: int | None
    figures: Figures
    learning_rate: float | None

    def collapsed(self, config: QuantizerConfig) -> dict[int, str]:
        """Levels, from 1, that make poor use of their codes, each with what is wrong."""
        problems = {}
        for level, (usage, largest) in enumerate(zip(self.figures.usage, self.figures.largest_share, strict=True), start=1):
            if usage < config.min_usage:
                problems[level] = f"level {level} uses {usage:.1%} of its {config.codebook_size} codes"
            elif largest > max(config.max_code_share, 2 / config.codebook_size):
                problems[level] = f"one code of level {level} has {largest:.1%} of the items"
        return problems


class StateStore(Protocol):
    """Keeps the newest state of a training: nested dictionaries of tensors and plain values, equal on all ranks."""

    def load(self) -> dict[str, Any] | None:
        """What was saved last, on the CPU; None where nothing was."""

    def save(self, state: dict[str, Any]) -> None:
        """Keep `state` instead; a collective call."""


class Training(ABC):
    """A quantizer in training; derived classes say how.

    Attributes:
        model: on `device`, equal on all ranks after every batch.
        generator: of the CPU, in the same state on all ranks.
        epoch, step: finished epochs, and finished batches of the epoch that has begun.
        steps: batches per epoch.
        tally: figures of the epoch that has begun.
        start: an older quantizer to start from, if any.
    """

    start: Quantizer | None = None

    def __init__(self, vectors: Vectors, config: QuantizerConfig, device: torch.device) -> None:
        self.vectors, self.config, self.device = vectors, config, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model: Quantizer = build(vectors.dim, config).to(device)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.epoch = self.step = 0
        self.steps = -(-vectors.rows // config.batch_size)
        # The last full batch, or the only one: what codes are put back to work with at the epoch's end.
        self.last_full_step = max(vectors.rows // config.batch_size, 1) - 1
        self.tally = self.new_tally()

    @abstractmethod
    def initialise(self) -> None:
        """Start from `start`, or else from a sample of the vectors."""

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether there is nothing left to train."""

    @abstractmethod
    def train_batch(self, y_ND: Tensor, count: int) -> None:
        """One step with this rank's share, which may be empty, of a batch of `count` standardised vectors; adds it to the tally."""

    @abstractmethod
    def end_epoch(self, total: Tally) -> EpochReport:
        """What is done after all batches, with the tally of all ranks."""

    def new_tally(self) -> Tally:
        """An empty tally."""
        return Tally(self.config.levels, self.config.codebook_size, self.vectors.dim, self.vectors.rows, self.device)

    def state(self) -> dict[str, Any]:
        """All that the following batches depend on; a collective call."""
        return {
            "model": self.model.state_dict(),
            "generator": self.generator.get_state(),
            "epoch": self.epoch,
            "step": self.step,
            "tally": self.tally.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.model.load_state_dict(state["model"])
        self.generator.set_state(state["generator"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.tally = self.new_tally()
        self.tally.load(state["tally"])


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
    training = _training(vectors, config, device)
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


def _training(vectors: Vectors, config: QuantizerConfig, device: torch.device) -> Training:
    from models.quantizers.autoencoder_training import RqfsqTraining, RqvaeTraining  # these derive from Training
    from models.quantizers.rqkmeans_training import RqkmeansTraining

    kinds: dict[str, type[Training]] = {"rqvae": RqvaeTraining, "rqkmeans": RqkmeansTraining, "rqfsq": RqfsqTraining}
    return kinds[config.kind](vectors, config, device)
