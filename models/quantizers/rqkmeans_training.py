"""Trains RQ-KMeans level after level: k-means on a sample, mini-batch k-means over all items, then exact k-means until it hardly improves.

Dimensions: N items, D content width, L levels, K codes per level.
"""

from typing import Any

import torch
from torch import Tensor

from models.quantizers.codebook_quality import Tally
from models.quantizers.collectives import broadcast, pick_rows, rank, share, sum_over_ranks
from models.quantizers.config import QuantizerConfig
from models.quantizers.kmeans import Clusters, cluster, kmeans, means
from models.quantizers.rqkmeans import RQKMeans
from models.quantizers.training import SAMPLE, EpochReport, Training
from models.quantizers.vectors import Vectors


class RqkmeansTraining(Training):
    """A pass over the items trains one level; the levels before it are final.

    A mini-batch moves each centre to the mean of all items it has had so far (Sculley 2010, "Web-scale k-means clustering"); an exact pass
    moves it to the mean of the pass's items, as Lloyd does. Where the sample is all items, its k-means is exact already.
    """

    model: RQKMeans
    _candidates_ND: Tensor

    def __init__(self, vectors: Vectors, config: QuantizerConfig, device: torch.device) -> None:
        self._level = 0
        super().__init__(vectors, config, device)
        self._sample_items = config.codebook_size * SAMPLE
        self._minibatch_passes = config.minibatch_passes if vectors.rows > self._sample_items else 0
        self._pass = 0  # of the level
        self._error = float("inf")  # of the level's exact pass before
        self._sums_KD = torch.zeros(config.codebook_size, vectors.dim, dtype=torch.float64, device=device)
        self._sizes_K = torch.zeros(config.codebook_size, dtype=torch.int64, device=device)

    @property
    def finished(self) -> bool:
        """Whether all levels are final."""
        return self._level == self.config.levels

    def new_tally(self) -> Tally:
        """An empty tally of the levels up to the one in training."""
        levels = min(self._level + 1, self.config.levels)
        return Tally(levels, self.config.codebook_size, self.vectors.dim, self.vectors.rows, self.device)

    def initialise(self) -> None:
        """Take an older quantizer over, or set standardisation and the first level from a sample."""
        model = self.model
        if self.start is not None:
            model.load_state_dict(self.start.state_dict())
            self._initialise_level()
            return
        sample_ND = self._sample()
        model.mean_D.copy_(sample_ND.mean(0))
        model.scale.copy_((sample_ND - model.mean_D).square().mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny))
        self._initialise_level()

    def _initialise_level(self) -> None:
        r_ND = self.model.standardise(self._sample())
        for level in range(self._level):
            r_ND = r_ND - self.model.code_vectors(level, self.model.code(level, r_ND))
        if self.start is None:
            self.model.codebooks_LKD[self._level] = kmeans(r_ND, self.config.codebook_size, self.generator)
        # Mini-batches go on from the sample's clusters.
        mine = cluster(r_ND[share(len(r_ND))], self.model.codebooks_LKD[self._level])
        self._sums_KD, self._sizes_K = sum_over_ranks(mine.sums_KZ), sum_over_ranks(mine.sizes_K)
        if not self._in_minibatches:
            self._forget()
        self._error = float("inf")
        broadcast(self.model.state_dict().values())

    @torch.no_grad()
    def train_batch(self, y_ND: Tensor, count: int) -> None:
        """Add the batch's residuals up by their nearest centres; in a mini-batch pass, move the centres."""
        r_ND, codes = y_ND, []
        for level in range(self._level):
            codes.append(self.model.code(level, r_ND))
            r_ND = r_ND - self.model.code_vectors(level, codes[-1])
        mine = cluster(r_ND, self.model.codebooks_LKD[self._level])
        left_ND = r_ND - self.model.code_vectors(self._level, mine.codes_N)
        self.tally.add(y_ND, left_ND.square().sum(dtype=torch.float64), torch.stack([*codes, mine.codes_N], 1))
        if self._in_minibatches:
            mine = Clusters(mine.codes_N, sum_over_ranks(mine.sums_KZ), sum_over_ranks(mine.sizes_K))
        self._sums_KD += mine.sums_KZ
        self._sizes_K += mine.sizes_K
        if self._in_minibatches:
            self._move(self.model.codebooks_LKD[self._level])
        if self.step == self.last_full_step:
            self._candidates_ND = r_ND

    @torch.no_grad()
    def end_epoch(self, total: Tally) -> EpochReport:
        """Move the centres after an exact pass; put empty clusters at random items; begin the next level where this one is done."""
        config, level = self.config, self._level
        figures = total.figures()
        count = min(config.batch_size, self.vectors.rows)
        items_K = torch.randperm(count, generator=self.generator).repeat(-(-config.codebook_size // count))[: config.codebook_size]
        candidates_KD = pick_rows(self._candidates_ND, items_K.to(self.device), count)
        if self._in_minibatches:
            used_K = total.counts_LK[level] > 0
            self.model.codebooks_LKD[level] = torch.where(used_K[:, None], self.model.codebooks_LKD[level], candidates_KD)
            done = False
        else:
            sum_over_ranks(self._sums_KD)
            sum_over_ranks(self._sizes_K)
            self._move(candidates_KD)
            exact = self._pass + 1 - self._minibatch_passes
            done = figures.reconstruction_error >= self._error * (1 - config.min_improvement) or exact == config.exact_passes
            self._error = figures.reconstruction_error
        self._pass += 1
        if not self._in_minibatches:
            self._forget()
        if done:
            self._level, self._pass = level + 1, 0
            if not self.finished:
                self._initialise_level()
        return EpochReport(self.epoch, None, level + 1, figures, None)

    def state(self) -> dict[str, Any]:
        """As `Training.state`, with where the level stands and its sums."""
        sums_KD, sizes_K = self._sums_KD, self._sizes_K
        if not self._in_minibatches:  # those of mini-batches are of all ranks already
            sums_KD, sizes_K = sum_over_ranks(sums_KD.clone()), sum_over_ranks(sizes_K.clone())
        level = {"level": self._level, "pass": self._pass, "error": self._error, "sums": sums_KD, "sizes": sizes_K}
        return super().state() | {"kmeans": level}

    def load(self, state: dict[str, Any]) -> None:
        """As `Training.load`, with where the level stands and its sums."""
        level = state["kmeans"]
        self._level, self._pass, self._error = level["level"], level["pass"], level["error"]
        super().load(state)
        if self._in_minibatches or rank() == 0:
            self._sums_KD.copy_(level["sums"])
            self._sizes_K.copy_(level["sizes"])

    @property
    def _in_minibatches(self) -> bool:
        return self._pass < self._minibatch_passes

    def _sample(self) -> Tensor:
        return self.vectors.sample(self._sample_items, self.config.seed).to(self.device)

    def _move(self, otherwise_KD: Tensor) -> None:
        self.model.codebooks_LKD[self._level] = means(self._sums_KD, self._sizes_K, otherwise_KD)

    def _forget(self) -> None:
        self._sums_KD.zero_()
        self._sizes_K.zero_()
