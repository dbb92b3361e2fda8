"""The history arm: aggregation of the user's item embeddings (paper A, appendix): bypass, transformer, PMA.

Legend: B examples, T history positions, D embedding width, S output tokens, H heads.
"""

import math

import torch
from torch import nn

from models.config import RankerConfig

AGE_BUCKETS = 32  # powers of two of minutes: 2^31 minutes are 4,000 years


class HistoryArm(nn.Module):
    """Item embeddings + learned timestamp embeddings, aggregated to S tokens: T of bypass and transformer, the seeds' number of pma.

    With `shared_levels` L, each position also has a learned embedding of how many of L codes its item shares with the target.
    """

    def __init__(self, config: RankerConfig, history_length: int, shared_levels: int = 0) -> None:
        super().__init__()
        width = config.embedding_dim
        self.age = nn.Embedding(AGE_BUCKETS, width)
        nn.init.normal_(self.age.weight, std=0.02)
        self.tokens = config.pma_seeds if config.history == "pma" else history_length
        self.aggregate: nn.Module
        if config.history == "bypass":
            self.aggregate = Bypass(width)
        elif config.history == "transformer":
            self.aggregate = TransformerBlock(width, config.history_heads, history_length)
        else:
            self.aggregate = Pma(width, config.history_heads, config.pma_seeds)
        self.shared = None
        if shared_levels:
            self.shared = nn.Embedding(shared_levels + 1, width)
            nn.init.normal_(self.shared.weight, std=0.02)

    def forward(
        self, history_BTD: torch.Tensor, age_BT: torch.Tensor, mask_BT: torch.Tensor, shared_BT: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Aggregate.

        Args:
            history_BTD: float32, pooled item embeddings, 0 where padded.
            age_BT: float32, hours between history event and impression.
            mask_BT: bool, True where there is an item.
            shared_BT: int64, codes shared with the target, 0..L; needed with `shared_levels`.

        Returns:
            tokens_BSD, and which of them stand for something (bool [B, S]): the padding of bypass and transformer does not.
        """
        bucket_BT = torch.log2(age_BT.clamp(min=0) * 60 + 1).long().clamp(max=AGE_BUCKETS - 1)
        x_BTD = history_BTD + self.age(bucket_BT) * mask_BT.unsqueeze(-1)
        if self.shared is not None:
            x_BTD = x_BTD + self.shared(shared_BT) * mask_BT.unsqueeze(-1)
        tokens_BSD = self.aggregate(x_BTD)
        if isinstance(self.aggregate, Pma):
            return tokens_BSD, mask_BT.new_ones(tokens_BSD.shape[:2])
        return tokens_BSD, mask_BT


class Bypass(nn.Module):
    """XW: every position on its own. W starts as the identity, so that the target's products with the tokens start as similarities."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.weight.weight)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """float32 [B, T, D] to [B, T, D]."""
        return self.weight(x_BTD)


class TransformerBlock(nn.Module):
    """Pre-LN self-attention and MLP, both residual, on X + positional embeddings. Padding is attended to, as paper A's table 7 implies."""

    def __init__(self, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.position_TD = nn.Parameter(torch.randn(length, width) * 0.02)
        self.block = AttentionBlock(width, heads)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """float32 [B, T, D] to [B, T, D]."""
        x_BTD = x_BTD + self.position_TD
        return self.block(x_BTD, x_BTD)


class Pma(nn.Module):
    """Pooling by multi-head attention: the same block with S learned seeds as queries, softmax(S (X W_K)^T / sqrt(d_m)) X W_V."""

    def __init__(self, width: int, heads: int, seeds: int) -> None:
        super().__init__()
        self.seeds_SD = nn.Parameter(torch.randn(seeds, width) / math.sqrt(width))
        self.block = AttentionBlock(width, heads)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """float32 [B, T, D] to [B, S, D]."""
        return self.block(self.seeds_SD.expand(x_BTD.shape[0], -1, -1), x_BTD)


class AttentionBlock(nn.Module):
    """query + attention(LN(query), LN(x)), then + MLP(LN(.))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_query, self.norm_x, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))

    def forward(self, query_BSD: torch.Tensor, x_BTD: torch.Tensor) -> torch.Tensor:
        """float32 [B, S, D] and [B, T, D] to [B, S, D]."""
        x_BTD = self.norm_x(x_BTD)
        attended_BSD, _ = self.attention(self.norm_query(query_BSD), x_BTD, x_BTD, need_weights=False)
        y_BSD = query_BSD + attended_BSD
        return y_BSD + self.mlp(self.norm_mlp(y_BSD))
