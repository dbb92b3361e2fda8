"""What can be set on a quantizer; free of torch, so that the command line starts at once."""

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from models.config import Fraction, Positive, Strict

# Fields that not every kind of quantizer uses.
QUANTIZER_KINDS = {
    **dict.fromkeys(("hidden_dims", "latent_dim", "beta", "learning_rate", "encoder_rate", "epochs", "patience"), ("rqvae", "rqfsq")),
    "reset": ("rqvae",),
    "fsq_levels": ("rqfsq",),
    **dict.fromkeys(("minibatch_passes", "exact_passes"), ("rqkmeans",)),
}


class QuantizerConfig(Strict):
    """Residual quantizers of L levels of K codes, and how they are trained: RQ-VAE (paper A, section 3), RQ-KMeans, RQ-FSQ.

    A field whose description begins with kinds is used by these alone; another value than the default is refused with any other kind.
    """

    kind: Literal["rqvae", "rqkmeans", "rqfsq"] = Field("rqvae", description="which quantizer")
    levels: Positive = Field(3, description="L, codes per item")
    codebook_size: Positive = Field(2048, le=65535, description="K, codes per level")
    hidden_dims: tuple[Positive, ...] = Field((256,), description="rqvae and rqfsq: the encoder's hidden widths; the decoder mirrors them")
    latent_dim: Positive | None = Field(None, description="rqvae and rqfsq: width of the quantized latent vector, the content's by default")
    beta: float = Field(0.25, ge=0, description="rqvae and rqfsq: weight of the commitment loss")
    reset: Literal["epoch", "step"] = Field("epoch", description="rqvae: when unused codes restart at items of the batch; paper B: step")
    fsq_levels: tuple[Annotated[int, Field(ge=2)], ...] | None = Field(
        None, description="rqfsq: values per grid dimension, whose product is codebook_size; two each by default"
    )
    learning_rate: float = Field(3e-3, gt=0, description="rqvae and rqfsq: Adam step size, which falls to zero along a cosine")
    encoder_rate: Fraction | None = Field(
        None, description="rqvae and rqfsq: the encoder's step size as a share of learning_rate; by default 0, principal components, and 1"
    )
    batch_size: Positive = Field(512, description="items per step over all ranks")
    epochs: Positive = Field(20, description="rqvae and rqfsq: passes over the items")
    minibatch_passes: int = Field(1, ge=0, description="rqkmeans: passes of mini-batch k-means per level, after k-means on a sample")
    exact_passes: Positive = Field(10, description="rqkmeans: at most this many passes of exact k-means per level, after those")
    patience: Positive = Field(
        5, description="rqvae and rqfsq: epochs without improvement before the step size falls to zero over as many more, the last"
    )
    min_improvement: Fraction = Field(
        1e-3, description="relative fall of the reconstruction error that is an improvement; the last pass of exact k-means is one below it"
    )
    checkpoint_every: Positive | None = Field(None, description="steps between saved states, beside those after each epoch")
    min_usage: Fraction = Field(0.5, description="a level that uses a smaller share of its codes than this fails the stage as collapsed")
    max_code_share: Fraction = Field(0.25, description="a code that more than this share of the items has raises the alarm while training")
    seed: int = Field(0, ge=0, description="seed of initialisation, batch order and code resets")
    refresh_from: Path | None = Field(
        None,
        description="folder of an older codebook, or of one per source: training starts from it, and its codes keep their meaning as far "
        "as can be",
    )

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "QuantizerConfig":
        for name in self.unused():
            default = type(self).model_fields[name].default
            if getattr(self, name) != default:
                kinds = " and ".join(QUANTIZER_KINDS[name])
                raise ValueError(f"'{name}' is of {kinds} alone: with kind {self.kind} it must keep its default, {default}")
        if self.reset == "step" and self.batch_size < self.codebook_size:
            raise ValueError(f"reset 'step' needs 'batch_size' {self.batch_size} no smaller than 'codebook_size' {self.codebook_size}")
        if self.kind == "rqfsq" and math.prod(self.fsq_grid()) != self.codebook_size:
            raise ValueError(f"the product of 'fsq_levels' {list(self.fsq_grid())} is not 'codebook_size', {self.codebook_size}")
        return self

    def unused(self) -> list[str]:
        """Names of the fields that this kind does not use."""
        return [name for name, kinds in QUANTIZER_KINDS.items() if self.kind not in kinds]

    def chosen_encoder_rate(self) -> float:
        """`encoder_rate`, by default what its kind does best with: a grid cannot come to the latents, so they must come to the grid."""
        return self.encoder_rate if self.encoder_rate is not None else float(self.kind == "rqfsq")

    def fsq_grid(self) -> tuple[int, ...]:
        """Values per grid dimension of RQ-FSQ; two each by default: many coarse dimensions describe content better than few fine ones."""
        if self.fsq_levels is not None:
            return self.fsq_levels
        bits = self.codebook_size.bit_length() - 1
        if bits == 0 or self.codebook_size != 1 << bits:
            raise ValueError(f"'fsq_levels' must be given: 'codebook_size', {self.codebook_size}, is no power of two")
        return (2,) * bits
