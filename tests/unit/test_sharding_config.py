"""What can be set on sharding: combinations that exclude each other are refused before anything starts."""

import pytest
import torch
from torch import nn
from torchrec.models.dlrm import OverArch

from features.errors import InputError
from models.plan import Plan, Shard, TablePlan, describe
from models.precision import with_dense_precision
from models.row_wise_adagrad import RowWiseAdagrad
from models.sharding_config import ShardingConfig
from pipeline import recipe as recipes


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("sharding.types=[data_parallel]", "'types data_parallel' cannot be data_parallel with table_precision fp16"),
        ("sharding.tables={own: data_parallel}", "'tables.own' cannot be data_parallel with table_precision fp16"),
        ("sharding.tables={own: rowwise}", "'sharding.tables.own': Input should be"),
        ("sharding.tables={own: grid_shard}", "'tables.own' cannot be grid_shard with communication int8"),
        ("sharding.cached={own: 1.5}", "'sharding.cached.own': Input should be less than 1"),
        ("sharding.pipeline=sparse_dist", "'pipeline' sparse_dist does not fill the caches of big: prefetch does"),
        ("sharding.column_width=6", "'sharding.column_width': Input should be a multiple of 4"),
        ("sharding.table={own: row_wise}", "'sharding.table': unknown key; did you mean 'sharding.tables'?"),
    ],
)
def test_what_cannot_be_is_refused(override: str, told: str) -> None:
    key = override.partition("=")[0].removeprefix("sharding.")
    others = ["sharding.types=[table_wise]", "sharding.table_precision=fp16", "sharding.communication=int8", "sharding.cached={big: 0.2}"]
    with pytest.raises(InputError) as error:
        recipes.load("simulated", [*others, override])
    assert told in str(error.value), key


def test_dense_parts_multiply_in_bfloat16_and_the_last_layer_in_float32() -> None:
    """What autocast made of each layer's output is told by its type inside, and by its bits outside."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(nn.Linear(16, 16)), OverArch(16, [16, 1]))
    seen: list[tuple[str, torch.dtype]] = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(lambda _, __, output, name=name: seen.append((name, output.dtype)))
    x = torch.randn(64, 16)
    exact = model(x)
    seen.clear()
    with_dense_precision(model, ShardingConfig(precision="bf16"), torch.device("cpu"))
    logits = model(x)
    assert [kind for _, kind in seen] == [torch.bfloat16, torch.bfloat16, torch.float32]
    assert logits.dtype == torch.float32
    assert len(logits.unique()) == 64
    assert 0 < (logits - exact).abs().max() < 0.02
    logits.sum().backward()
    assert all(weight.grad is not None and weight.grad.dtype == torch.float32 for weight in model.parameters())


def test_row_wise_adagrad_is_the_formula_in_float64() -> None:
    torch.manual_seed(0)
    table = nn.Parameter(torch.randn(5, 8))
    weight, moment = table.detach().double(), torch.zeros(5, dtype=torch.float64)
    optimizer = RowWiseAdagrad([table], lr=0.1)
    for _ in range(20):
        table.grad = torch.randn(5, 8) * (torch.rand(5, 1) < 0.5)
        optimizer.step()
        gradient = table.grad.double()
        moment += gradient.pow(2).mean(1)
        weight -= 0.1 * gradient / (moment.sqrt() + 1e-8)[:, None]
    assert torch.allclose(table.double(), weight, rtol=0, atol=1e-5)
    assert torch.allclose(optimizer.state[table]["moment"][:, 0].double(), moment, rtol=1e-5, atol=0)


def test_the_plan_in_words() -> None:
    halves = tuple(Shard(rank, 0, 16 * rank, 1000, 16, 68_000, 0.5 + rank, 80_000) for rank in (0, 1))
    table = TablePlan("column_wise", "fused", 1000, 32, 3.0, 21.0, halves)
    assert describe(Plan(None, {"own": table}, 2, 2, "cpu", 512)) == [
        "own: column_wise, fused, 1,000 rows x 32 on ranks 0 to 1, columns from 0, 16; 66.41 KiB per rank, estimated 1.5 ms a step",
        "planner's estimate: 1.5 ms a step on the busiest rank, 1, and 0.5 on the least busy; 78.12 KiB on the fullest rank, 0, and "
        "78.12 KiB on the emptiest",
    ]
