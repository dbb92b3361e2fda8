"""What RQ-VAE and RQ-FSQ share: encoder and decoder around the residual levels, and paper A's loss (arXiv 2504.02137, section 3).

Dimensions: N items, D content width, Z latent width, L levels.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.quantizers.config import QuantizerConfig
from models.quantizers.quantizer import Quantized, Quantizer


class QuantizerLoss(NamedTuple):
    """Scalars: squared errors summed over dimensions (and levels), mean over the batch.

    Attributes:
        total: reconstruction + quantization.
        reconstruction: ||y - dec(c)||^2.
        quantization: sum_l beta ||r_l - sg(v^l)||^2 + ||sg(r_l) - v^l||^2.
    """

    total: Tensor
    reconstruction: Tensor
    quantization: Tensor


class Coder(nn.Module):
    """An MLP with ReLU beside a linear map: y = W x + mlp(x), [N, in] to [N, out]; with `hidden_dims` None the linear map alone.

    The MLP's last layer starts at zero, so that the coder starts as the linear map (the principal components, see `quantizer_training`) and
    the MLP learns what that leaves. With a few thousand items an MLP alone reaches a worse reconstruction than the linear map.
    """

    def __init__(self, in_dim: int, hidden_dims: tuple[int, ...] | None, out_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, out_dim, bias=False)
        self.mlp: nn.Sequential | None = None
        if hidden_dims is None:
            return
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
        out: Tensor = self.linear(x)
        return out if self.mlp is None else out + self.mlp(x)


class Autoencoder(Quantizer):
    """A quantizer whose latent is an encoder's output, trained together with a decoder; the kinds differ in their levels' codes."""

    def __init__(self, input_dim: int, config: QuantizerConfig) -> None:
        super().__init__(input_dim, config)
        self.latent_dim = config.latent_dim or input_dim
        # An MLP that is not trained would stay zero.
        self.encoder = Coder(input_dim, config.hidden_dims if config.encoder_rate else None, self.latent_dim)
        self.decoder = Coder(self.latent_dim, config.hidden_dims[::-1], input_dim)

    def latent(self, y_ND: Tensor) -> Tensor:
        """The encoder's output, [N, Z]."""
        z_NZ: Tensor = self.encoder(y_ND)
        return z_NZ

    def reconstruct(self, z_NZ: Tensor) -> Tensor:
        """The decoder's output, [N, D]."""
        y_ND: Tensor = self.decoder(z_NZ)
        return y_ND

    def trained_vectors(self, level: int, r_NZ: Tensor, codes_N: Tensor) -> Tensor:
        """v^l of residuals (no gradient) and their codes, [N, Z], with a gradient to what the level learns."""
        return self.code_vectors(level, codes_N)

    def quantize(self, z_NZ: Tensor) -> Quantized:
        """Greedy residual quantization of latents, level after level.

        Gradients of level l's loss do not reach the codes of the levels before it: each level learns from its own term alone.
        """
        codes, residuals, vectors = [], [], []
        r_NZ = z_NZ
        for level in range(self.config.levels):
            codes_N = self.code(level, r_NZ.detach())
            v_NZ = self.trained_vectors(level, r_NZ.detach(), codes_N)
            codes.append(codes_N)
            residuals.append(r_NZ)
            vectors.append(v_NZ)
            r_NZ = r_NZ - v_NZ.detach()
        return Quantized(torch.stack(codes, 1), torch.stack(residuals), torch.stack(vectors))

    def loss(self, y_ND: Tensor, count: float | None = None) -> tuple[QuantizerLoss, Quantized]:
        """Paper A's loss of standardised vectors; the gradient of the reconstruction passes straight through the quantization.

        Args:
            y_ND: the batch, which may be empty.
            count: what the sums are divided by; N by default.
        """
        z_NZ = self.encoder(y_ND)
        quantized = self.quantize(z_NZ)
        straight_NZ = z_NZ + (quantized.vectors_LNZ.sum(0) - z_NZ).detach()
        divisor = len(y_ND) if count is None else count
        reconstruction = (y_ND - self.decoder(straight_NZ)).square().sum() / divisor
        commitment = (quantized.residuals_LNZ - quantized.vectors_LNZ.detach()).square().sum() / divisor
        codebook = (quantized.residuals_LNZ.detach() - quantized.vectors_LNZ).square().sum() / divisor
        quantization = self.config.beta * commitment + codebook
        return QuantizerLoss(reconstruction + quantization, reconstruction, quantization), quantized

    def forward(self, y_ND: Tensor, count: float) -> tuple[QuantizerLoss, Quantized]:
        """`loss`, for DistributedDataParallel."""
        return self.loss(y_ND, count)
