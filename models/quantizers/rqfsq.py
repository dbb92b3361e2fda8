"""RQ-FSQ: residual levels of finite scalar quantization (FSQ: Mentzer et al. 2023, arXiv 2309.15505), whose codebook is a grid.

Dimensions: N items, Z latent width, L levels, K codes per level, F grid dimensions.
"""

import math

import torch
from torch import Tensor, nn

from models.quantizers.autoencoder import Autoencoder
from models.quantizers.config import QuantizerConfig


class RQFSQ(Autoencoder):
    """Each level projects its residual to F numbers, bounds them, rounds each to one of m_f values, and projects back.

        a = W_in r_l + b_in                         [F]
        q_f = round(bound(a_f)), in 0 .. m_f - 1    bound(a) = m_f Phi(a) - 1/2
        v^l = W_out bound^-1(q) + b_out             [Z]
        r_{l+1} = r_l - v^l

    Phi, the normal distribution function, bounds as FSQ's tanh does, but cuts a standard normal number into m_f equally likely parts: with
    W_in the principal components over their standard deviations, where training starts, the values are used about equally. bound^-1 puts
    a value back on the scale of a, so that W_out need not undo the bound. Rounding passes gradients straight through. The code of a level
    is q read as a number of mixed radix, first dimension first, so K is the product of the m_f.

    Attributes:
        label_LK: int64, the code that each grid point has; the identity until codes are renamed.
        point_LK: int64, the grid point of each code; the inverse of `label_LK`.
    """

    label_LK: Tensor
    point_LK: Tensor
    _values_KF: Tensor
    _sizes_F: Tensor
    _radix_F: Tensor

    def __init__(self, input_dim: int, config: QuantizerConfig) -> None:
        super().__init__(input_dim, config)
        sizes = config.fsq_grid()
        self.projections = nn.ModuleList(nn.Linear(self.latent_dim, len(sizes)) for _ in range(config.levels))
        self.expansions = nn.ModuleList(nn.Linear(len(sizes), self.latent_dim) for _ in range(config.levels))
        identity_LK = torch.arange(config.codebook_size).repeat(config.levels, 1)
        self.register_buffer("label_LK", identity_LK)
        self.register_buffer("point_LK", identity_LK.clone())
        sizes_F = torch.tensor(sizes)
        radix_F = torch.tensor([math.prod(sizes[place + 1 :]) for place in range(len(sizes))])
        digits_KF = torch.arange(config.codebook_size)[:, None] // radix_F % sizes_F
        # These follow from the configuration, so the artifact does not hold them.
        self.register_buffer("_sizes_F", sizes_F, persistent=False)
        self.register_buffer("_radix_F", radix_F, persistent=False)
        self.register_buffer("_values_KF", torch.special.ndtri((digits_KF + 0.5) / sizes_F.double()).float(), persistent=False)

    def code(self, level: int, r_NZ: Tensor) -> Tensor:
        """The grid point of each residual, by its label, int64 [N]."""
        parts_NF = torch.special.ndtr(self.projections[level](r_NZ).detach()) * self._sizes_F
        digits_NF = torch.minimum(parts_NF.long(), self._sizes_F - 1)  # round(x - 1/2) is floor(x)
        return self.label_LK[level][(digits_NF * self._radix_F).sum(1)]

    def code_vectors(self, level: int, codes_N: Tensor) -> Tensor:
        """The expansion of grid points given by their labels, [N, Z]."""
        v_NZ: Tensor = self.expansions[level](self._values_KF[self.point_LK[level][codes_N]])
        return v_NZ

    def trained_vectors(self, level: int, r_NZ: Tensor, codes_N: Tensor) -> Tensor:
        """As `code_vectors`, with the gradient passed straight through the rounding to the projection."""
        a_NF = self.projections[level](r_NZ)
        values_NF = self._values_KF[self.point_LK[level][codes_N]]
        # d bound^-1(bound(a)) where bound(a) is rounded: phi(a) / phi(value), which vanishes where a lies far beyond the grid. With 1 in
        # its place the projection grows until all items sit at the grid's ends.
        slope_NF = torch.exp(0.5 * (values_NF.square() - a_NF.detach().square()))
        v_NZ: Tensor = self.expansions[level](values_NF + slope_NF * (a_NF - a_NF.detach()))
        return v_NZ

    @torch.no_grad()
    def relabel(self, level: int, new_of_old_K: Tensor) -> None:
        """Rename the labels; the grid stays as it is."""
        self.label_LK[level] = new_of_old_K[self.label_LK[level]]
        self.point_LK[level, self.label_LK[level]] = torch.arange(self.config.codebook_size, device=self.point_LK.device)
