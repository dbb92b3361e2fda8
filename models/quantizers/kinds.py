"""The kinds of quantizer, by their names in the configuration."""

from models.quantizers.config import QuantizerConfig
from models.quantizers.quantizer import Quantizer
from models.quantizers.rqfsq import RQFSQ
from models.quantizers.rqkmeans import RQKMeans
from models.quantizers.rqvae import RQVAE

KINDS: dict[str, type[Quantizer]] = {"rqvae": RQVAE, "rqkmeans": RQKMeans, "rqfsq": RQFSQ}


def build(input_dim: int, config: QuantizerConfig) -> Quantizer:
    """An untrained quantizer of the configured kind for content vectors of width `input_dim`."""
    return KINDS[config.kind](input_dim, config)
