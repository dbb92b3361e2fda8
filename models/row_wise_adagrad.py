"""Row-wise Adagrad for the tables that every rank holds whole; the others have it fused into their backward pass."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer

EPS = 1e-8


class RowWiseAdagrad(Optimizer):
    """m += mean over D of g^2, w -= lr g / (sqrt(m) + eps): FBGEMM's EXACT_ROWWISE_ADAGRAD on dense gradients.

    A row without a gradient keeps its weights and its moment, so that it does not matter that all rows are gone through. The moments,
    float32 [H, 1], are there from the start: a checkpoint's template made before the first step has them.
    """

    def __init__(self, tables: Iterable[torch.Tensor], lr: float) -> None:
        """Args: weights float32 [H, D]; step size."""
        super().__init__(tables, {"lr": lr})
        for group in self.param_groups:
            for weight_HD in group["params"]:
                self.state[weight_HD]["moment"] = torch.zeros(len(weight_HD), 1, device=weight_HD.device)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update; `closure`, part of PyTorch's interface, is not called."""
        for group in self.param_groups:
            for weight_HD in group["params"]:
                if weight_HD.grad is not None:
                    moment_H1 = self.state[weight_HD]["moment"]
                    moment_H1 += weight_HD.grad.pow(2).mean(1, keepdim=True)
                    weight_HD.addcdiv_(weight_HD.grad, moment_H1.sqrt().add_(EPS), value=-group["lr"])
