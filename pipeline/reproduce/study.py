"""What a finding is made from: the scores of every trained variant on one world, and comparisons of them with honest intervals."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import t as student_t

from features.errors import InputError
from features.schema import LABEL
from features.segments import STREAM
from pipeline.intervals import Gain, UserBootstrap, log_losses
from pipeline.reproduce.finding import Estimate
from pipeline.reproduce.tasks import Train
from pipeline.reproduce.world import Variant, World
from pipeline.segments import Parting, by_training_impressions, of_stream

Part = Literal["training", "frozen", "stream"]
Bools = NDArray[np.bool_]
DRAWS = 200  # resamplings of users behind each interval
KEPT = 24  # variants and parts whose losses are kept: findings ask for the same baselines again and again


class Study:
    """One world with all its variants trained.

    A part is which rows are judged, and by which scores:
        training: the rows of the training period, each scored before it was trained on (the papers' train NE);
        frozen: the rows after it, by the model as training left it (the papers' eval NE);
        stream: the second half of all rows, each scored before it was trained on.
    """

    def __init__(self, world: World, variants: Iterable[Variant], seeds: tuple[int, ...], others: "tuple[Study, ...]" = ()) -> None:
        """Put together what is to be trained.

        Args:
            world: which log.
            variants: all that findings ask for.
            seeds: of training, shared by all variants, so that seed s of one pairs with seed s of another.
            others: the same simulated world with other shares of semantics.
        """
        self.world, self.seeds, self.others = world, seeds, others
        self._variants = merged(variants)

    @property
    def variants(self) -> list[Variant]:
        """Each once, with the probes of all findings that ask for it."""
        return list(self._variants.values())

    def tasks(self) -> list[Train]:
        """All trainings, each once, whatever names it goes by."""
        return list({self._results(name, seed): self._task(name, seed) for name in self._variants for seed in self.seeds}.values())

    def scores(self, name: str, part: Part) -> NDArray[np.float32]:
        """Logits of one variant on the rows of a part: float32 [S, n]."""
        if part == "frozen":
            return self._read(name, "frozen.npy", slice(None))
        return self._read(name, "stream.npy", self.rows(part))

    def probed(self, name: str, function: str) -> list[dict[str, NDArray[Any]]]:
        """What a probe gave, by seed."""
        return [dict(np.load(self._results(name, seed) / f"{function}.npz", allow_pickle=False)) for seed in self.seeds]

    def table_rows(self, name: str) -> int:
        """Rows over all item tables of a variant."""
        return int(self._about(name, self.seeds[0])["table_rows"])

    def seconds(self) -> list[float]:
        """How long each training took, on one core; one that goes by several names is counted once."""
        first = {self._results(name, seed): (name, seed) for name in self._variants for seed in self.seeds}
        return [float(self._about(name, seed)["seconds"]) for name, seed in first.values()]

    def rows(self, part: Part) -> slice:
        """Of the world's log."""
        total = self.world.impressions.rows
        return {"training": slice(0, self.train_rows), "frozen": slice(self.train_rows, total), "stream": slice(total // 2, total)}[part]

    def segments(self, part: Part) -> list[Parting]:
        """How the rows of a part are parted: bool [n] each. Those of the training period are not."""
        if part == "frozen":
            return [by_training_impressions(self.log["item_id"], self.train_rows)]
        return of_stream({each.column: self.log[each.column][self.rows(part)] for each in STREAM}) if part == "stream" else []

    def gain(self, name: str, baseline: str, part: Part, chosen: Bools | None = None) -> Estimate:
        """Change of NE in percent of a variant against another one, negative is better; on the rows `chosen` of the part, bool [n]."""
        everything = np.ones(len(self.labels(part)), bool) if chosen is None else chosen
        return _of(self._bootstrap(part).gain(self._losses(name, part), self._losses(baseline, part), everything))

    def ne(self, name: str, part: Part, chosen: Bools | None = None) -> float:
        """NE, mean over seeds; on the rows `chosen` of the part. NaN where these have one label only."""
        labels = self.labels(part)
        everything = np.ones(len(labels), bool) if chosen is None else chosen
        rate = labels[everything].mean() if everything.any() else 0.0
        if rate in (0, 1):
            return float("nan")
        entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
        return float(self._losses(name, part)[:, everything].mean() / entropy)

    def auc_gain(self, name: str, baseline: str, part: Part, chosen: Bools | None = None) -> Estimate:
        """Change of AUC in percent of a variant against another one, positive is better."""
        rows = np.flatnonzero(np.ones(len(self.labels(part)), bool) if chosen is None else chosen)
        labels = self.labels(part)[rows]
        mine, theirs = ([_Ranked(scores[rows], labels) for scores in self.scores(each, part)] for each in (name, baseline))

        def change(weights: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.array([100 * (a.auc(weights[rows]) / b.auc(weights[rows]) - 1) for a, b in zip(mine, theirs, strict=True)])

        return self.estimate(part, change)

    def estimate(self, part: Part, statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Estimate:
        """Any figure of a part's rows with its interval over seeds and users (`pipeline.intervals.UserBootstrap.estimate`)."""
        return _of(self._bootstrap(part).estimate(statistic))

    def labels(self, part: Part) -> NDArray[np.float64]:
        """Of the first task: float64 [n]."""
        return self.log[self._label].astype(np.float64)[self.rows(part)]

    def probabilities(self, name: str, part: Part) -> NDArray[np.float64]:
        """Of one variant: float64 [S, n]."""
        probabilities: NDArray[np.float64] = expit(self.scores(name, part).astype(np.float64))
        return probabilities

    @cached_property
    def log(self) -> dict[str, NDArray[Any]]:
        """Columns of the whole log, [N] each: timestamp (int64 microseconds), item_id, user_id, the label, and what parts the stream."""
        names = ["timestamp", "item_id", "user_id", self._label, *(each.column for each in STREAM)]
        columns = self.world.columns(dict.fromkeys(names))
        return columns | {"timestamp": columns["timestamp"].astype("datetime64[us]").astype(np.int64)}

    @cached_property
    def train_rows(self) -> int:
        """Rows of the training period (`pipeline.trainer.Trainer.train_rows`)."""
        train = self.world.config.train
        return int(self.world.impressions.rows * train.train_fraction) // train.global_batch * train.global_batch

    def require_rows(self) -> None:
        """Raise InputError where there is nothing to train on, or nothing after it to judge."""
        if not 0 < self.train_rows < self.world.impressions.rows:
            train = self.world.config.train
            raise InputError(
                f"{self.world.name}: {train.train_fraction:.0%} of its {self.world.impressions.rows:,} rows are to be trained on, in whole "
                f"batches of {train.global_batch}, and the others judged: that leaves none to {'judge' if self.train_rows else 'train on'}"
            )

    @property
    def _label(self) -> str:
        return LABEL + self.world.config.model.tasks[0]

    def _task(self, name: str, seed: int) -> Train:
        variant = self._variants[name]
        return Train(name, self.world.run_config(variant, seed), variant.probes, self.world.folder / "runs")

    def _results(self, name: str, seed: int) -> Path:
        if (name, seed) not in self._folders:  # naming a folder hashes all that its results depend on
            self._folders[name, seed] = self._task(name, seed).results
        return self._folders[name, seed]

    @cached_property
    def _folders(self) -> dict[tuple[str, int], Path]:
        return {}

    def _about(self, name: str, seed: int) -> dict[str, Any]:
        about: dict[str, Any] = json.loads((self._results(name, seed) / "about.json").read_text())
        return about

    def _read(self, name: str, file: str, rows: slice) -> NDArray[np.float32]:
        return np.stack([np.load(self._results(name, seed) / file, mmap_mode="r", allow_pickle=False)[rows] for seed in self.seeds])

    def _losses(self, name: str, part: Part) -> NDArray[np.float64]:
        losses = self._known_losses.pop((name, part), None)
        if losses is None:
            losses = log_losses(self.scores(name, part), self.labels(part))
        self._known_losses[name, part] = losses  # as the newest
        if len(self._known_losses) > KEPT:
            del self._known_losses[next(iter(self._known_losses))]
        return losses

    @cached_property
    def _known_losses(self) -> dict[tuple[str, Part], NDArray[np.float64]]:
        return {}

    def _bootstrap(self, part: Part) -> UserBootstrap:
        if part not in self._bootstraps:
            self._bootstraps[part] = UserBootstrap(self.log["user_id"][self.rows(part)], DRAWS)
        return self._bootstraps[part]

    @cached_property
    def _bootstraps(self) -> dict[Part, UserBootstrap]:
        return {}


def merged(variants: Iterable[Variant]) -> dict[str, Variant]:
    """Variants by name, each with the probes of all that bear its name. Raises InputError where two of a name are trained differently."""
    known: dict[str, Variant] = {}
    for variant in variants:
        other = known.setdefault(variant.name, variant)
        if replace(other, probes=()) != replace(variant, probes=()):
            raise InputError(f"two different variants are called '{variant.name}'")
        known[variant.name] = replace(other, probes=tuple(sorted({*other.probes, *variant.probes})))
    return known


def over_seeds(figures: Iterable[float]) -> Estimate:
    """A figure that each seed gives, with the interval of its mean over seeds; NaN bounds for a single one."""
    values = np.array(list(figures), np.float64)
    if len(values) < 2:
        return Estimate(float(values.mean()), np.nan, np.nan)
    half = float(student_t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    mean = float(values.mean())
    return Estimate(mean, mean - half, mean + half)


def over_groups(groups: NDArray[np.int64], statistic: Callable[[NDArray[np.float64]], Sequence[float]]) -> list[Estimate]:
    """Figures of any rows with their intervals over groups of them that are resampled together, such as the rows of a user.

    Args:
        groups: the group of each row, [N].
        statistic: takes a weight per row, float64 [N], and gives all figures; called once for each draw, and once with weights of 1.
    """
    bootstrap, figures = UserBootstrap(groups, DRAWS), list[Sequence[float]]()

    def record(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        figures.append(statistic(weights))
        return np.zeros(1)

    bootstrap.estimate(record)
    # Each draw is made once for all figures; what it gave is then read out figure by figure.
    return [_of(bootstrap.estimate(_Recorded(column))) for column in np.array(figures, np.float64).T]


class _Recorded:
    """A statistic that is known for each draw, in order."""

    def __init__(self, figures: NDArray[np.float64]) -> None:
        self._figures = iter(figures)

    def __call__(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([next(self._figures)])


def _of(gain: Gain) -> Estimate:
    return Estimate(*gain)


class _Ranked:
    """Scores sorted once, whose AUC under many weights is asked for."""

    def __init__(self, scores: NDArray[np.float32], labels: NDArray[np.float64]) -> None:
        self._order = np.argsort(scores, kind="stable")
        ordered = scores[self._order]
        self._ends = np.flatnonzero(np.append(np.diff(ordered) > 0, True))
        self._positive = labels[self._order]

    def auc(self, weights: NDArray[np.float64]) -> float:
        """Weighted area under the ROC curve, ties counted half; NaN where one label has no weight."""
        ordered = weights[self._order]
        positives = np.diff(np.cumsum(ordered * self._positive)[self._ends], prepend=0)
        negatives = np.diff(np.cumsum(ordered * (1 - self._positive))[self._ends], prepend=0)
        pairs = positives.sum() * negatives.sum()
        below = np.cumsum(negatives) - negatives / 2
        return float((positives * below).sum() / pairs) if pairs else float("nan")
