"""The quantize stage: trains a quantizer on the content embeddings of each source and refuses a codebook that is not really used."""

import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch.utils.tensorboard import SummaryWriter

from features.dataset import Dataset, open_dataset
from features.errors import InputError
from models.quantizers.codebook import Codebook, CodebookQuality, ContentOrigin, measure, save
from models.quantizers.codebook_quality import Figures
from models.quantizers.config import QuantizerConfig
from models.quantizers.fitting import fit
from models.quantizers.quantizer import Quantizer
from models.quantizers.training import EpochReport
from pipeline.config import RunConfig
from pipeline.progress import say
from pipeline.quantizer_state import TrainingStateFolder
from pipeline.ranks import on_rank_zero, start_process_group
from pipeline.refresh import keep_codes, predecessor, start_from
from pipeline.stage import code_fingerprint
from pipeline.vectors import ContentVectors

TRAINING_CODE = (
    "features/dataset.py",
    "features/reader.py",
    "models/quantizers/*.py",
    "pipeline/vectors.py",
    "pipeline/quantize*.py",
    "pipeline/refresh.py",
)
WATCHING = {"min_usage", "max_code_share", "checkpoint_every"}  # settings that change nothing in the codebook


@dataclass(frozen=True)
class _Input:
    """What one codebook is made from.

    Attributes:
        source: its name.
        label: what its lines begin with, where there are several sources.
        dataset, vectors: the content.
        old: the codebook to refresh, if any.
        state: where the training's state is kept.
        curves: TensorBoard's folder.
    """

    source: str
    label: str
    dataset: Dataset
    vectors: ContentVectors
    old: Codebook | None
    state: TrainingStateFolder
    curves: Path


def run(config: RunConfig) -> None:
    """Read `content/SOURCE`, write `codebook/SOURCE`, for each of `embed.sources`; all codebooks have the same settings.

    Progress and quality go to standard output and `quantize/tensorboard/SOURCE`. Until the codebooks are published, which is done when all
    are trained, the trainings' states are in `quantize/state/SOURCE`, from which a run that was stopped goes on.

    Raises:
        InputError: if there is no content, too few items for a codebook, or a level uses a smaller share of its codes than `min_usage`.
    """
    started = time.perf_counter()
    device = start_process_group()
    if device.type == "cpu":
        # The steps are small: more threads gain little, and one makes the codebook independent of the number of cores.
        torch.set_num_threads(1)
    inputs = [_opened(config, source) for source in config.embed.sources]
    trained = [(one, *_train(one, config, device)) for one in inputs]
    on_rank_zero(lambda: _publish(config, trained))
    for one in inputs:
        one.state.clear()
    say(f"quantize: in {time.perf_counter() - started:.1f} s")


def _opened(config: RunConfig, source: str) -> _Input:
    dataset = open_dataset(config.path("content", source))
    if dataset.metadata.get("source") != source:
        raise InputError(
            f"{dataset.path}: this is no content data set of source '{source}'; its manifest names {dataset.metadata.get('source')}"
        )
    vectors = ContentVectors(dataset)
    old = predecessor(config, source, vectors.dim)
    identity = _identity(config.quantize, dataset, old)
    label = f"{source}: " if len(config.embed.sources) > 1 else ""
    folder = config.path("quantize")
    state = TrainingStateFolder(folder / "state" / source, identity, label)
    return _Input(source, label, dataset, vectors, old, state, folder / "tensorboard" / source / identity[:12])


def _train(one: _Input, config: RunConfig, device: torch.device) -> tuple[Quantizer, CodebookQuality]:
    settings = config.quantize
    say(f"quantize: {one.label}{settings.kind}, {one.vectors.rows:,} items, {settings.levels} levels of {settings.codebook_size} codes")
    with _Watch(one, settings) as watch:
        model = fit(one.vectors, settings, watch.after_epoch, device=device, store=one.state, start=start_from(one.old, config))
    if one.old is not None:
        for line in keep_codes(one.old, model, one.vectors):
            say(f"  {one.label}{line}")
    quality = measure(model, one.vectors)
    say(f"  {one.label}at the end: {_describe(quality)}")
    _require_usage(quality, settings, one.source)
    return model, quality


class _Watch:
    """Shows each epoch's figures, on rank 0 alone, and raises the alarm when a level begins to collapse."""

    def __init__(self, one: _Input, settings: QuantizerConfig) -> None:
        self._label, self._settings = one.label, settings
        self._board = SummaryWriter(str(one.curves)) if dist.get_rank() == 0 else None
        self._alarms: set[int] = set()

    def __enter__(self) -> "_Watch":
        return self

    def __exit__(self, *error: object) -> None:
        if self._board is not None:
            self._board.close()

    def after_epoch(self, report: EpochReport, model: Quantizer) -> None:
        of = f"/{report.last_epoch}" if report.last_epoch else f" (level {report.level})"
        say(f"  {self._label}epoch {report.epoch}{of}: {_describe(report.figures)}")
        problems = report.collapsed(self._settings)
        for level in sorted(set(problems) - self._alarms):
            say(f"  {self._label}ALARM: the codebook collapses: {problems[level]}")
        self._alarms = set(problems)
        if self._board is None:
            return
        figures = report.figures
        self._board.add_scalar("reconstruction_error", figures.reconstruction_error, report.epoch)
        self._board.add_scalar("unique_share", figures.unique_share, report.epoch)
        if report.learning_rate is not None:
            self._board.add_scalar("learning_rate", report.learning_rate, report.epoch)
        for name in ("usage", "entropy_bits", "largest_share"):
            for level, value in enumerate(getattr(figures, name), start=1):
                self._board.add_scalar(f"{name}/level_{level}", value, report.epoch)
        self._board.flush()


def _identity(settings: QuantizerConfig, dataset: Dataset, old: Codebook | None) -> str:
    """Identifies all that the codebook depends on: settings, content, the older codebook and code."""
    values = settings.model_dump(mode="json", exclude=WATCHING)
    before = None if old is None else old.contract.codebook_hash
    return hashlib.sha256(json.dumps([values, dataset.fingerprint, before, code_fingerprint(TRAINING_CODE)]).encode()).hexdigest()


def _require_usage(quality: CodebookQuality, settings: QuantizerConfig, source: str) -> None:
    for level, usage in enumerate(quality.usage, start=1):
        if usage < settings.min_usage:
            raise InputError(
                f"the codebook of source '{source}' has collapsed: level {level} uses {usage:.1%} of its {settings.codebook_size} codes, "
                f"less than quantize.min_usage {settings.min_usage:.1%}; try a smaller quantize.codebook_size"
            )


def _publish(config: RunConfig, trained: Sequence[tuple[_Input, Quantizer, CodebookQuality]]) -> None:
    for one, model, quality in trained:
        path, old = config.path("codebook", one.source), one.old
        origin = ContentOrigin(os.path.relpath(one.dataset.path, path), one.dataset.fingerprint)
        generation, before = (1, None) if old is None else (old.contract.generation + 1, old.contract.codebook_hash)
        contract = save(path, model, quality, one.source, generation=generation, aligned_with=before, content=origin)
        cosines = " ".join("-" if cosine is None else f"{cosine:.2f}" for cosine in quality.prefix_cosine)
        say(f"  {one.label}mean content cosine of items that share 0, 1, .. {contract.levels} codes: {cosines}")
        say(f"  {one.label}codebook {contract.codebook_hash[:12]} of generation {generation}")


def _describe(quality: CodebookQuality | Figures) -> str:
    usage = " ".join(f"{share:.1%}" for share in quality.usage)
    entropy = " ".join(f"{bits:.2f}" for bits in quality.entropy_bits)
    return (
        f"reconstruction error {quality.reconstruction_error:.4f}, usage {usage}, entropy {entropy} bits, unique {quality.unique_share:.1%}"
    )


if __name__ == "__main__":
    from pipeline.cli import main

    sys.exit(main(stage="quantize"))
