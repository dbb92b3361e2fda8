"""The RQ-VAE of paper A (arXiv 2504.02137, section 3): content vector to L codes by residual quantization of an encoded vector.

Dimensions: N items, D content width, Z latent width, L levels, K codes per level.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.config import QuantizerConfig


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


class RqvaeLoss(NamedTuple):
    """Scalars: squared errors summed over dimensions (and levels), mean over the batch.

    Attributes:
        total: reconstruction + quantization.
        reconstruction: ||x - dec(c)||^2.
        quantization: sum_l beta ||r_l - sg(v^l)||^2 + ||sg(r_l) - v^l||^2.
    """

    total: Tensor
    reconstruction: Tensor
    quantization: Tensor


class Coder(nn.Module):
    """An MLP with ReLU beside a linear map: y = W x + mlp(x), [N, in] to [N, out].

    The MLP's last layer starts at zero, so that the coder starts as the linear map (the principal components, see `rqvae_training`) and the
    MLP learns what that leaves. With a few thousand items an MLP alone reaches a worse reconstruction than the linear map.
    """

    def __init__(self, in_dim: int, hidden_dims: tuple[int, ...], out_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, out_dim, bias=False)
        widths = (in_dim, *hidden_dims)
        layers: list[nn.Module] = []
        for width, following in pairwise(widths):
            layers += [nn.Linear(width, following), nn.ReLU()]
        last = nn.Linear(widths[-1], out_dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(*layers, last)

    def forward(self, x: Tensor) -> Tensor:
        """The coder's output, [N, out]."""
        out: Tensor = self.linear(x) + self.mlp(x)
        return out


class RQVAE(nn.Module):
    """Encoder, L codebooks and decoder over standardised content vectors.

    Args:
        input_dim: D.
        config: L, K, Z, hidden widths and beta.

    Attributes:
        codebooks_LKZ: v^l_c, a parameter.
        mean_D, scale: standardisation of the input, (x - mean) / scale with one scale for all dimensions, which keeps the angles between
            centred vectors. Buffers that `rqvae_training` sets.
    """

    mean_D: Tensor
    scale: Tensor

    def __init__(self, input_dim: int, config: QuantizerConfig) -> None:
        super().__init__()
        self.config = config
        self.input_dim = input_dim
        self.encoder = Coder(input_dim, config.hidden_dims, config.latent_dim)
        self.decoder = Coder(config.latent_dim, config.hidden_dims[::-1], input_dim)
        self.codebooks_LKZ = nn.Parameter(torch.zeros(config.levels, config.codebook_size, config.latent_dim))
        self.register_buffer("mean_D", torch.zeros(input_dim))
        self.register_buffer("scale", torch.ones(()))

    def standardise(self, x_ND: Tensor) -> Tensor:
        """Content vectors as the encoder wants them, [N, D]."""
        return (x_ND - self.mean_D) / self.scale

    def quantize(self, z_NZ: Tensor) -> Quantized:
        """Greedy residual quantization of latents, level after level.

        Gradients of level l's loss do not reach the codes of the levels before it: each level learns from its own term alone.
        """
        codes, residuals, vectors = [], [], []
        r_NZ = z_NZ
        for codebook_KZ in self.codebooks_LKZ:
            codes_N = nearest(r_NZ.detach(), codebook_KZ.detach())
            v_NZ = codebook_KZ[codes_N]
            codes.append(codes_N)
            residuals.append(r_NZ)
            vectors.append(v_NZ)
            r_NZ = r_NZ - v_NZ.detach()
        return Quantized(torch.stack(codes, 1), torch.stack(residuals), torch.stack(vectors))

    def loss(self, y_ND: Tensor) -> tuple[RqvaeLoss, Quantized]:
        """Paper A's loss of standardised vectors; the gradient of the reconstruction passes straight through the quantization."""
        z_NZ = self.encoder(y_ND)
        quantized = self.quantize(z_NZ)
        straight_NZ = z_NZ + (quantized.vectors_LNZ.sum(0) - z_NZ).detach()
        reconstruction = _squared(y_ND - self.decoder(straight_NZ)).mean()
        commitment = _squared(quantized.residuals_LNZ - quantized.vectors_LNZ.detach()).sum(0).mean()
        codebook = _squared(quantized.residuals_LNZ.detach() - quantized.vectors_LNZ).sum(0).mean()
        quantization = self.config.beta * commitment + codebook
        return RqvaeLoss(reconstruction + quantization, reconstruction, quantization), quantized

    @torch.inference_mode()
    def encode(self, x_ND: Tensor) -> Tensor:
        """Semantic IDs, int64 [N, L], of content vectors float32 [N, D] as they come, not standardised."""
        return self.quantize(self.encoder(self.standardise(x_ND))).codes_NL

    @torch.inference_mode()
    def decode(self, codes_NL: Tensor) -> Tensor:
        """Reconstructed content vectors, float32 [N, D], of codes [N, L']; with L' < L from the coarse levels alone."""
        z_NZ = sum((self.codebooks_LKZ[level, codes_NL[:, level]] for level in range(codes_NL.shape[1])), torch.zeros(()))
        y_ND: Tensor = self.decoder(z_NZ)
        return y_ND * self.scale + self.mean_D


def nearest(r_NZ: Tensor, codebook_KZ: Tensor) -> Tensor:
    """Index of the nearest code, int64 [N]; the lowest of equally near ones."""
    # ||r||^2 is the same for all codes of an item, so it is left out of the distance.
    distances_NK = torch.addmm(codebook_KZ.square().sum(1), r_NZ, codebook_KZ.T, alpha=-2.0)
    return distances_NK.argmin(1)


def _squared(difference: Tensor) -> Tensor:
    return difference.square().sum(-1)
