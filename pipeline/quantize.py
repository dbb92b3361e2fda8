"""The quantize stage: trains an RQ-VAE on the content embeddings and refuses a codebook that is not really used."""

import sys
import time

import torch

from features.content import read_content
from features.errors import InputError
from models.codebook import CodebookQuality, measure, save
from models.config import QuantizerConfig
from models.rqvae import RQVAE
from models.rqvae_training import fit
from pipeline.config import RunConfig

PROGRESS_LINES = 6


def run(config: RunConfig) -> None:
    """Read `content`, write `codebook`; progress and quality go to standard output.

    Raises:
        InputError: if there is no content, too few items for the codebook, or a level uses a smaller share of its codes than `min_usage`.
    """
    started = time.perf_counter()
    settings = config.quantize
    content = read_content(config.path("content"))
    x_ND = torch.tensor(content.vectors_ND)
    # The steps are small: more threads gain little, and one makes the codebook independent of the number of cores.
    torch.set_num_threads(1)
    print(f"quantize: {len(x_ND):,} items, {settings.levels} levels of {settings.codebook_size} codes", flush=True)
    every = -(-settings.epochs // PROGRESS_LINES)

    def after_epoch(epoch: int, model: RQVAE) -> None:
        if epoch % every == 0 and epoch < settings.epochs:
            print(f"  epoch {epoch:>3}: {_describe(measure(model, x_ND))}", flush=True)

    model = fit(x_ND, settings, after_epoch)
    quality = measure(model, x_ND)
    print(f"  epoch {settings.epochs:>3}: {_describe(quality)}", flush=True)
    _require_usage(quality, settings)
    contract = save(config.path("codebook"), model, quality, content.source)
    cosines = " ".join("-" if cosine is None else f"{cosine:.2f}" for cosine in quality.prefix_cosine)
    print(f"  mean content cosine of items that share 0, 1, .. {settings.levels} codes: {cosines}", flush=True)
    print(f"quantize: codebook {contract.codebook_hash[:12]} in {time.perf_counter() - started:.1f} s", flush=True)


def _require_usage(quality: CodebookQuality, settings: QuantizerConfig) -> None:
    for level, usage in enumerate(quality.usage, start=1):
        if usage < settings.min_usage:
            raise InputError(
                f"the codebook has collapsed: level {level} uses {usage:.1%} of its {settings.codebook_size} codes, less than "
                f"quantize.min_usage {settings.min_usage:.1%}; try a smaller quantize.codebook_size"
            )


def _describe(quality: CodebookQuality) -> str:
    usage = " ".join(f"{share:.1%}" for share in quality.usage)
    entropy = " ".join(f"{bits:.2f}" for bits in quality.entropy_bits)
    return (
        f"reconstruction error {quality.reconstruction_error:.4f}, usage {usage}, entropy {entropy} bits, unique {quality.unique_share:.1%}"
    )


if __name__ == "__main__":
    from pipeline.cli import main

    sys.exit(main(stage="quantize"))
