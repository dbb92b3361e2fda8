"""The common interface of all quantizers: content vector to L codes by residual quantization, and back.

Dimensions: N items, D content width, Z latent width, L levels, K codes per level.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.quantizers.config import QuantizerConfig


class Quantized(NamedTuple):
    """What greedy residual quantization of latents gives.

    Attributes:
        codes_NL: int64, c_l = argmin_c ||v^l_c - r_l||.
        residuals_LNZ: r_l = z - sum_{i<l} v^i_{c_i}.
        vectors_LNZ: v^l_{c_l}; their sum over the levels is the quantized latent.
    """

    codes_NL: Tensor
    residuals_LNZ: Tensor
    vectors_LNZ: Tensor


class Quantizer(nn.Module, ABC):
    """y = (x - mean) / scale, z = latent(y); level after level c_l = code(r_l), r_{l+1} = r_l - v^l_{c_l}, r_1 = z; x back from sum_l v^l.

    Args:
        input_dim: D.
        config: kind, L, K and what the kind needs besides.

    Attributes:
        mean_D, scale: standardisation of the input, one scale for all dimensions, which keeps the angles between centred vectors. Buffers,
            part of the artifact; training sets them.
    """

    mean_D: Tensor
    scale: Tensor

    def __init__(self, input_dim: int, config: QuantizerConfig) -> None:
        super().__init__()
        self.config = config
        self.input_dim = input_dim
        self.register_buffer("mean_D", torch.zeros(input_dim))
        self.register_buffer("scale", torch.ones(()))

    @abstractmethod
    def latent(self, y_ND: Tensor) -> Tensor:
        """Standardised vectors to what is quantized, [N, Z]."""

    @abstractmethod
    def reconstruct(self, z_NZ: Tensor) -> Tensor:
        """Quantized latents to standardised vectors, [N, D]."""

    @abstractmethod
    def code(self, level: int, r_NZ: Tensor) -> Tensor:
        """Codes of one level's residuals, int64 [N]; no gradient."""

    @abstractmethod
    def code_vectors(self, level: int, codes_N: Tensor) -> Tensor:
        """v^l of codes, [N, Z]."""

    @abstractmethod
    def relabel(self, level: int, new_of_old_K: Tensor) -> None:
        """Rename the codes of a level, which changes nothing but their numbers.

        Args:
            level: 0-based.
            new_of_old_K: int64 permutation of 0 .. K-1; code k becomes new_of_old_K[k].
        """

    def standardise(self, x_ND: Tensor) -> Tensor:
        """Content vectors as `latent` wants them, [N, D]."""
        return (x_ND - self.mean_D) / self.scale

    @torch.inference_mode()
    def encode(self, x_ND: Tensor) -> Tensor:
        """Semantic IDs, int64 [N, L], of content vectors float32 [N, D] as they come, not standardised."""
        r_NZ = self.latent(self.standardise(x_ND))
        codes = []
        for level in range(self.config.levels):
            codes.append(self.code(level, r_NZ))
            if level + 1 < self.config.levels:
                r_NZ = r_NZ - self.code_vectors(level, codes[-1])
        return torch.stack(codes, 1)

    @torch.inference_mode()
    def decode(self, codes_NL: Tensor) -> Tensor:
        """Reconstructed content vectors, float32 [N, D], of codes [N, L'], 1 <= L' <= L; with L' < L from the coarse levels alone."""
        z_NZ = self.code_vectors(0, codes_NL[:, 0])
        for level in range(1, codes_NL.shape[1]):
            z_NZ = z_NZ + self.code_vectors(level, codes_NL[:, level])
        return self.reconstruct(z_NZ) * self.scale + self.mean_D
