"""The RQ-VAE of paper A (arXiv 2504.02137, section 3): an encoded content vector, coded by L codebooks of K learned vectors.

Dimensions: N items, Z latent width, L levels, K codes per level.
"""

import torch
from torch import Tensor, nn

from models.quantizers.autoencoder import Autoencoder
from models.quantizers.config import QuantizerConfig
from models.quantizers.kmeans import nearest


class RQVAE(Autoencoder):
    """c_l = argmin_c ||v^l_c - r_l||, the v^l_c learned.

    Attributes:
        codebooks_LKZ: v^l_c, a parameter.
    """

    def __init__(self, input_dim: int, config: QuantizerConfig) -> None:
        super().__init__(input_dim, config)
        self.codebooks_LKZ = nn.Parameter(torch.zeros(config.levels, config.codebook_size, self.latent_dim))

    def code(self, level: int, r_NZ: Tensor) -> Tensor:
        """The nearest code of the level, int64 [N]."""
        return nearest(r_NZ, self.codebooks_LKZ[level].detach())

    def code_vectors(self, level: int, codes_N: Tensor) -> Tensor:
        """Rows of the level's codebook, [N, Z]."""
        return self.codebooks_LKZ[level][codes_N]

    @torch.no_grad()
    def relabel(self, level: int, new_of_old_K: Tensor) -> None:
        """Move the rows of the level's codebook to their new numbers."""
        self.codebooks_LKZ[level, new_of_old_K] = self.codebooks_LKZ[level].clone()
