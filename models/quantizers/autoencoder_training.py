"""Trains RQ-VAE and RQ-FSQ: principal components and k-means as the start, then Adam on paper A's loss; unused codes are put back to work.

Dimensions: N items, D content width, Z latent width, L levels, K codes per level, F grid dimensions of RQ-FSQ.
"""

import math
from abc import abstractmethod
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.quantizers.autoencoder import Autoencoder
from models.quantizers.codebook_quality import Tally
from models.quantizers.collectives import broadcast, pick_rows, sum_over_ranks, world
from models.quantizers.config import QuantizerConfig
from models.quantizers.kmeans import kmeans, principal_axes
from models.quantizers.quantizer import Quantized
from models.quantizers.rqfsq import RQFSQ
from models.quantizers.rqvae import RQVAE
from models.quantizers.training import SAMPLE, EpochReport, Training
from models.quantizers.vectors import Vectors


class AutoencoderTraining(Training):
    """Adam with a step size that falls to zero along a cosine: at the last epoch's end or, after a plateau, `patience` epochs later."""

    model: Autoencoder

    def __init__(self, vectors: Vectors, config: QuantizerConfig, device: torch.device) -> None:
        super().__init__(vectors, config, device)
        # The group's first collective is this broadcast, so DDP finds the same weights everywhere.
        broadcast(self.model.state_dict().values())
        self._parallel: nn.Module = DistributedDataParallel(self.model, broadcast_buffers=False) if world() > 1 else self.model
        encoder = list(self.model.encoder.parameters())
        others = [parameter for name, parameter in self.model.named_parameters() if not name.startswith("encoder.")]
        groups = [{"params": others, "rate": 1.0}, {"params": encoder, "rate": config.chosen_encoder_rate()}]
        self._optimizer = torch.optim.Adam(groups, lr=config.learning_rate)
        self._last_epoch = config.epochs
        self._peak, self._fall_start, self._fall_steps = config.learning_rate, 0, config.epochs * self.steps
        self._best, self._stalled = math.inf, 0

    @property
    def finished(self) -> bool:
        """Whether the last epoch is over."""
        return self.epoch >= self._last_epoch

    @property
    def resets(self) -> bool:
        """Whether unused codes may move; not in the last epoch, so that every code is trained where it is."""
        return self.epoch + 1 < max(self._last_epoch, 2)

    @torch.no_grad()
    def initialise(self) -> None:
        """Take an older quantizer over, or set standardisation, linear maps and levels from a sample, level by level on the residuals."""
        model, config = self.model, self.config
        if self.start is not None:
            model.load_state_dict(self.start.state_dict())
            return
        sample_ND = self.vectors.sample(config.codebook_size * SAMPLE, config.seed).to(self.device)
        model.mean_D.copy_(sample_ND.mean(0))
        model.scale.copy_((sample_ND - model.mean_D).square().mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny))
        y_ND = model.standardise(sample_ND)
        axes_ZD, _ = principal_axes(y_ND, model.latent_dim)
        model.encoder.linear.weight.copy_(axes_ZD)
        model.decoder.linear.weight.copy_(axes_ZD.T)
        broadcast(model.state_dict().values())  # another kind of processor may turn an axis round
        r_NZ = model.encoder(y_ND)
        for level in range(config.levels):
            self.initialise_level(level, r_NZ)
            r_NZ = r_NZ - model.code_vectors(level, model.code(level, r_NZ))
        broadcast(model.state_dict().values())

    @abstractmethod
    def initialise_level(self, level: int, r_NZ: Tensor) -> None:
        """Set what codes a level's residuals, the same on every rank."""

    def train_batch(self, y_ND: Tensor, count: int) -> None:
        """One step of Adam. The losses are sums over `count` items on all ranks, so that W ranks make the gradient of one."""
        mine = count / world()  # DDP takes the mean over ranks
        loss, quantized = self._parallel(y_ND, mine)
        self._optimizer.zero_grad()
        loss.total.backward()
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate() * group["rate"]
        self._optimizer.step()
        with torch.no_grad():
            self.tally.add(y_ND, loss.reconstruction.double() * mine, quantized.codes_NL)
            self.after_step(Quantized(*(part.detach() for part in quantized)), count)

    @abstractmethod
    def after_step(self, quantized: Quantized, count: int) -> None:
        """What a step leaves to do, with this rank's share of `count` quantized latents."""

    def end_epoch(self, total: Tally) -> EpochReport:
        """Note whether the error has fallen; let the step size fall to zero where it no longer does."""
        figures = total.figures()
        if figures.reconstruction_error < self._best * (1 - self.config.min_improvement):
            self._best, self._stalled = figures.reconstruction_error, 0
        else:
            self._stalled += 1
        rate, patience = self.learning_rate(), self.config.patience
        # A step size that is still high hides how low the error can go, so training ends by letting it fall, not at once.
        if self._stalled == patience and self.epoch + patience < self._last_epoch:
            self._peak, self._fall_start, self._fall_steps = rate, self.epoch * self.steps, patience * self.steps
            self._last_epoch = self.epoch + patience
        return EpochReport(self.epoch, self._last_epoch, None, figures, rate)

    def learning_rate(self) -> float:
        """Step size of the next batch."""
        done = (self.epoch * self.steps + self.step - self._fall_start) / self._fall_steps
        return 0.5 * self._peak * (1 + math.cos(math.pi * min(done, 1)))

    def state(self) -> dict[str, Any]:
        """As `Training.state`, with the optimizer and the schedule."""
        schedule = (self._last_epoch, self._peak, self._fall_start, self._fall_steps, self._best, self._stalled)
        return super().state() | {"optimizer": self._optimizer.state_dict(), "schedule": schedule}

    def load(self, state: dict[str, Any]) -> None:
        """As `Training.load`, with the optimizer and the schedule."""
        super().load(state)
        self._optimizer.load_state_dict(state["optimizer"])
        self._last_epoch, self._peak, self._fall_start, self._fall_steps, self._best, self._stalled = state["schedule"]


class RqvaeTraining(AutoencoderTraining):
    """Codebooks from k-means; codes that no item chose in a step or an epoch move to residuals of random items of the batch."""

    model: RQVAE
    _candidates_LNZ: Tensor

    def initialise_level(self, level: int, r_NZ: Tensor) -> None:
        """K-means of the residuals."""
        self.model.codebooks_LKZ[level] = kmeans(r_NZ, self.config.codebook_size, self.generator)

    def after_step(self, quantized: Quantized, count: int) -> None:
        """Reset by the step as paper B does, or keep the last full batch for the epoch's end."""
        if self.config.reset == "step" and self.resets:
            counts_LK = torch.zeros_like(self.tally.counts_LK)
            counts_LK.scatter_add_(1, quantized.codes_NL.T, torch.ones_like(quantized.codes_NL.T))
            self.reset_unused(sum_over_ranks(counts_LK) > 0, quantized.residuals_LNZ, count)
        elif self.step == self.last_full_step:
            self._candidates_LNZ = quantized.residuals_LNZ

    def end_epoch(self, total: Tally) -> EpochReport:
        """Reset by the epoch."""
        if self.config.reset == "epoch" and self.epoch < self._last_epoch:
            count = min(self.config.batch_size, self.vectors.rows)
            self.reset_unused(total.counts_LK > 0, self._candidates_LNZ, count)
        return super().end_epoch(total)

    @torch.no_grad()
    def reset_unused(self, used_LK: Tensor, residuals_LNZ: Tensor, count: int) -> None:
        """Move unused codes to residuals of random items, identically on all ranks; waits for no device.

        Args:
            used_LK: bool, the same on every rank.
            residuals_LNZ: this rank's share of the batch's residuals.
            count: items of the batch over all ranks.
        """
        codebooks_LKZ = self.model.codebooks_LKZ
        size = self.config.codebook_size
        state = self._optimizer.state[codebooks_LKZ]
        for level, used_K in enumerate(used_LK):
            # Every code has its candidate, an item of its own as far as there are enough, so that nothing depends on how many are unused.
            items_K = torch.randperm(count, generator=self.generator).repeat(-(-size // count))[:size]
            candidates_KZ = pick_rows(residuals_LNZ[level], items_K.to(self.device), count)
            codebooks_LKZ[level] = torch.where(used_K[:, None], codebooks_LKZ[level], candidates_KZ)
            for moment in ("exp_avg", "exp_avg_sq"):
                # Moments of the place that a code has left would carry it away from its new one.
                state[moment][level] *= used_K[:, None]


class RqfsqTraining(AutoencoderTraining):
    """Projections from the principal components of the residuals, scaled to variance 1, which uses the grid about equally."""

    model: RQFSQ

    def initialise_level(self, level: int, r_NZ: Tensor) -> None:
        """Principal components of the residuals."""
        projection, expansion = cast(nn.Linear, self.model.projections[level]), cast(nn.Linear, self.model.expansions[level])
        mean_Z = r_NZ.mean(0)
        axes_FZ, deviations_F = principal_axes(r_NZ - mean_Z, projection.out_features)
        projection.weight.copy_(axes_FZ / deviations_F[:, None])
        projection.bias.copy_(-(projection.weight @ mean_Z))
        expansion.weight.copy_((axes_FZ * deviations_F[:, None]).T)
        expansion.bias.copy_(mean_Z)

    def after_step(self, quantized: Quantized, count: int) -> None:
        """A grid has no codes to reset."""
