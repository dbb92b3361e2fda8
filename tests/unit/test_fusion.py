"""The gate against its formula in float64."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from models.config import RankerConfig
from models.fusion import Gate

SID, HASH = {"kind": "semantic_id"}, {"kind": "random_hash"}


def test_two_representations_are_weighed_by_a_sigmoid_of_both() -> None:
    torch.manual_seed(0)
    gate = Gate(2, 4)
    torch.nn.init.normal_(gate.score.weight)
    torch.nn.init.normal_(gate.score.bias)
    items = torch.randn(3, 5, 2, 4)
    items[1, 2:] = 0
    W, b = gate.score.weight.detach().double().numpy(), gate.score.bias.detach().double().numpy()
    x = items.double().numpy()
    g = 1 / (1 + np.exp(-((x.reshape(3, 5, 8) @ (W[0] - W[1])) + b[0] - b[1])))[..., None]
    expected = g * x[:, :, 0] + (1 - g) * x[:, :, 1]
    fused = gate(items)
    assert np.allclose(fused.detach().numpy(), expected, atol=1e-6)
    assert not fused[1, 2:].any(), "padding stays 0"


def test_it_starts_as_the_mean() -> None:
    items = torch.randn(2, 3, 3, 4)
    assert torch.allclose(Gate(3, 4)(items), items.mean(2), atol=1e-6)


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        ({"sid": SID}, "fusion 'gate' weighs several representations, and there is only one"),
        (
            {"sid": SID, "hash": {**HASH, "history": False}},
            "fusion 'gate' weighs representations of target and history, and 'hash' is not of",
        ),
    ],
)
def test_a_gate_without_a_choice_is_refused(tables: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        RankerConfig.model_validate({"fusion": "gate", "representations": tables})
