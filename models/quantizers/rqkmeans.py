"""RQ-KMeans (as in OneRec, arXiv 2502.18965): residual quantization of the standardised content vector, k-means level after level.

Dimensions: N items, D content width, L levels, K codes per level.
"""

import torch
from torch import Tensor

from models.quantizers.config import QuantizerConfig
from models.quantizers.kmeans import nearest
from models.quantizers.quantizer import Quantizer


class RQKMeans(Quantizer):
    """r_1 = y, c_l = argmin_c ||v^l_c - r_l||, r_{l+1} = r_l - v^l_{c_l}; v^l_c is the mean of the residuals r_l that have code c.

    Attributes:
        codebooks_LKD: v^l_c, a buffer, since no gradient makes it.
    """

    codebooks_LKD: Tensor

    def __init__(self, input_dim: int, config: QuantizerConfig) -> None:
        super().__init__(input_dim, config)
        self.register_buffer("codebooks_LKD", torch.zeros(config.levels, config.codebook_size, input_dim))

    def latent(self, y_ND: Tensor) -> Tensor:
        """The vector itself."""
        return y_ND

    def reconstruct(self, z_NZ: Tensor) -> Tensor:
        """The vector itself."""
        return z_NZ

    def code(self, level: int, r_NZ: Tensor) -> Tensor:
        """The nearest code of the level, int64 [N]."""
        return nearest(r_NZ, self.codebooks_LKD[level])

    def code_vectors(self, level: int, codes_N: Tensor) -> Tensor:
        """Rows of the level's codebook, [N, D]."""
        return self.codebooks_LKD[level][codes_N]

    @torch.no_grad()
    def relabel(self, level: int, new_of_old_K: Tensor) -> None:
        """Move the rows of the level's codebook to their new numbers."""
        self.codebooks_LKD[level, new_of_old_K] = self.codebooks_LKD[level].clone()
