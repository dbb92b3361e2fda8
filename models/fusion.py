"""Fusion of an item's representations to one vector by a learned gate: what is shown often keeps a memory of its own beside its content."""

import torch
from torch import nn


class Gate(nn.Module):
    """sum_r g_r e_r with g = softmax(W [e_1; ..; e_R] + b): for two representations g_1 = sigmoid of a linear layer, and g_2 = 1 - g_1.

    After the Semantic ID with a gated hashed id of SID-Coord (arXiv 2604.10471) and H2Rec (2512.10388). The gate starts even. One gate
    serves targets and history; the empty bags of padding, all 0, stay 0.

    Legend: B examples, P positions, R representations, D embedding width.
    """

    def __init__(self, representations: int, width: int) -> None:
        """Args: R and D."""
        super().__init__()
        self.score = nn.Linear(representations * width, representations)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, items_BPRD: torch.Tensor) -> torch.Tensor:
        """float32 [B, P, R, D] to [B, P, D]."""
        weight_BPR = torch.softmax(self.score(items_BPRD.flatten(2)), -1)
        return (items_BPRD * weight_BPR.unsqueeze(-1)).sum(2)
