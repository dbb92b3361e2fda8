"""A quantizer in training: its state, its report after every epoch, and what each kind must say about its steps.

Dimensions: N items, D content width, Z latent width, L levels, K codes per level.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from models.quantizers.codebook_quality import Figures, Tally, collapsed
from models.quantizers.config import QuantizerConfig
from models.quantizers.kinds import build
from models.quantizers.quantizer import Quantizer
from models.quantizers.vectors import Vectors

SAMPLE = 64  # items per code that the start is made from


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
        return collapsed(self.figures.usage, self.figures.largest_share, config)


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
