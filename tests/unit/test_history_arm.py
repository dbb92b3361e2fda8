"""The history arms against the paper's formulas written out in float64 NumPy."""

from typing import Literal

import numpy as np
import pytest
import torch

from models.config import RankerConfig, RepresentationConfig
from models.history import AttentionBlock, HistoryArm, Pma, TransformerBlock

B, T, D, HEADS = 3, 5, 8, 2


def arm(kind: Literal["bypass", "transformer", "pma"]) -> HistoryArm:
    torch.manual_seed(0)
    representations = {"x": RepresentationConfig(kind="random_hash")}
    made = HistoryArm(RankerConfig(embedding_dim=D, representations=representations, history=kind, history_heads=HEADS, pma_seeds=4), T)
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return made


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask_BT = torch.arange(T) < torch.tensor([[5], [2], [0]])
    return torch.randn(B, T, D, generator=generator) * mask_BT[..., None], torch.rand(B, T, generator=generator) * 1e4 * mask_BT, mask_BT


def inputs(made: HistoryArm) -> np.ndarray:
    """Item vectors plus the embedding of floor(log2(1 + minutes)), nothing where padded."""
    items, age, mask = (value.double().numpy() for value in batch())
    buckets = np.floor(np.log2(age * 60 + 1)).astype(int)
    return items + made.age.weight.detach().double().numpy()[buckets] * mask[..., None]


def block(module: AttentionBlock, query: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Pre-LN multi-head attention and MLP, both residual, from the module's weights."""
    w = {name: value.double().numpy() for name, value in module.state_dict().items()}

    def norm(value: np.ndarray, name: str) -> np.ndarray:
        centred = value - value.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    parts = [norm(query, "norm_query"), norm(x, "norm_x"), norm(x, "norm_x")]
    projected = zip(parts, np.split(w["attention.in_proj_weight"], 3), np.split(w["attention.in_proj_bias"], 3), strict=True)
    q, k, v = ((part @ weight.T + bias).reshape(*part.shape[:2], HEADS, -1).transpose(0, 2, 1, 3) for part, weight, bias in projected)
    scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(D / HEADS)
    attention = np.exp(scores - scores.max(-1, keepdims=True))
    attention /= attention.sum(-1, keepdims=True)
    attended = (attention @ v).transpose(0, 2, 1, 3).reshape(query.shape)
    y = query + attended @ w["attention.out_proj.weight"].T + w["attention.out_proj.bias"]
    hidden = np.maximum(norm(y, "norm_mlp") @ w["mlp.0.weight"].T + w["mlp.0.bias"], 0)
    return y + hidden @ w["mlp.2.weight"].T + w["mlp.2.bias"]


@pytest.mark.parametrize("kind", ["bypass", "transformer", "pma"])
def test_tokens_follow_the_formula(kind: Literal["bypass", "transformer", "pma"]) -> None:
    made = arm(kind)
    x = inputs(made)
    tokens, real = made(*batch())
    aggregate = made.aggregate
    if isinstance(aggregate, TransformerBlock):
        positioned = x + aggregate.position_TD.detach().double().numpy()
        expected = block(aggregate.block, positioned, positioned)
    elif isinstance(aggregate, Pma):
        seeds = np.broadcast_to(aggregate.seeds_SD.detach().double().numpy(), (B, 4, D))
        expected = block(aggregate.block, seeds, x)
    else:
        expected = x @ made.state_dict()["aggregate.weight.weight"].double().numpy().T
    assert np.allclose(tokens.detach().numpy(), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(real, torch.ones(B, 4, dtype=torch.bool) if kind == "pma" else batch()[2])


def test_a_shared_prefix_adds_the_embedding_of_its_depth() -> None:
    torch.manual_seed(0)
    made = HistoryArm(RankerConfig(embedding_dim=D, representations={"x": RepresentationConfig(kind="random_hash")}), T, shared_levels=3)
    assert made.shared is not None
    torch.nn.init.normal_(made.shared.weight)
    items, age, mask = batch()
    depth = torch.randint(0, 4, (B, T), generator=torch.Generator().manual_seed(2)) * mask
    tokens, _ = made(items, age, mask, depth)
    table = made.shared.weight.detach().double().numpy()
    assert np.allclose(tokens.detach().numpy(), inputs(made) + table[depth.numpy()] * mask.numpy()[..., None], atol=1e-6)


def test_bypass_starts_as_the_identity() -> None:
    representations = {"x": RepresentationConfig(kind="random_hash")}
    made = HistoryArm(RankerConfig(embedding_dim=D, representations=representations), T)
    tokens, _ = made(*batch())
    assert np.allclose(tokens.detach().numpy(), inputs(made), atol=1e-6)
