"""Two ranks with different shares of the rows report what one process with all rows does, and what scikit-learn says."""

import json
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from features.segments import NAMES
from pipeline.metrics import StreamMetrics, as_json
from tests.distributed.metrics_worker import MIDDLE, REPORT, SHARES, TASKS, Rows, all_rows
from tests.distributed.ranks import run_ranks

Tables = dict[str, Any]


class Ranks(NamedTuple):
    """What each of the two ranks wrote."""

    tables: list[Tables]
    states: list[dict[str, dict[str, torch.Tensor]]]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    folder = tmp_path_factory.mktemp("metrics")
    done = run_ranks(2, "tests.distributed.metrics_worker", str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    states = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
    return Ranks([json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)], states)


def part(first: int, last: int) -> Rows:
    """The rows of steps [first, last)."""
    start, stop = (sum(map(sum, SHARES[:step])) for step in (first, last))
    return Rows(*(values[start:stop] for values in all_rows()))


def alone(*parts: Rows) -> StreamMetrics:
    """One process that was given the rows without padding."""
    metrics = StreamMetrics(TASKS, torch.device("cpu"))
    for rows in parts:
        metrics.update(rows.logits, rows.labels, torch.ones(len(rows.logits)), rows.segments)
    return metrics


SPANS = {
    "window": (0, REPORT), "before": (0, REPORT), "middle": (0, MIDDLE), "resumed": (0, MIDDLE),
    "last": (REPORT, len(SHARES)), "all": (0, len(SHARES)),
}  # fmt: skip


def test_both_ranks_have_the_same_tables_and_states_to_the_bit(ranks: Ranks) -> None:
    assert ranks.tables[0] == ranks.tables[1]
    assert list(ranks.tables[0]) == ["window", "before", "middle", "resumed", "last", "all"]
    for name, state in ranks.states[0].items():
        for key, values in state.items():
            assert torch.equal(values, ranks.states[1][name][key]), (name, key)


@pytest.mark.parametrize("name", SPANS)
def test_two_ranks_equal_one_process_with_all_rows(ranks: Ranks, name: str) -> None:
    single = alone(part(*SPANS[name])).lifetime()
    for task, segments in single.items():
        for segment, metrics in segments.items():
            found = [np.nan if figure is None else figure for figure in ranks.tables[0][name][task][segment].values()]
            assert found == pytest.approx(list(metrics), rel=1e-12, nan_ok=True), (task, segment)


@pytest.mark.parametrize("name", SPANS)
def test_two_ranks_equal_scikit_learn(ranks: Ranks, name: str) -> None:
    logits, labels, segments = (values.numpy() for values in part(*SPANS[name]))
    for column, task in enumerate(TASKS):
        for number, segment in [(None, "all"), *enumerate(NAMES)]:
            mine = np.ones(len(logits), bool) if number is None else (segments == number).any(1)
            z, y = logits[mine, column].astype(np.float64), labels[mine, column].astype(np.float64)
            found = ranks.tables[0][name][task][segment]
            if len(set(y)) < 2:
                assert (found["ne"], found["auc"], found["calibration"]) == (None, None, None)
                assert task == "click" or segment == NAMES[9]
                continue
            p = 1 / (1 + np.exp(-z))
            assert found["ne"] == pytest.approx(log_loss(y, p) / log_loss(y, np.full(len(y), y.mean())), rel=1e-12)
            assert found["calibration"] == pytest.approx(p.sum() / y.sum(), rel=1e-12)
            assert abs(found["auc"] - roc_auc_score(y, z)) <= found["auc_half_width"] + 1e-12


def test_a_state_of_two_ranks_goes_on_in_one_process(ranks: Ranks) -> None:
    one = alone()
    one.load(ranks.states[0]["middle"])
    assert as_json(one.lifetime()) == ranks.tables[0]["middle"]
    for key, values in one.state().items():
        assert torch.equal(values, ranks.states[0]["middle"][key])
    rest = part(MIDDLE, len(SHARES))
    one.update(rest.logits, rest.labels, torch.ones(len(rest.logits)), rest.segments)
    for key, values in one.state().items():
        assert torch.allclose(values, ranks.states[0]["end"][key], rtol=1e-12, atol=0), key


def test_two_ranks_take_a_state_up_once(ranks: Ranks) -> None:
    for name in ("middle", "resumed"):
        assert ranks.tables[0][name] == ranks.tables[0]["middle"]
    for key, values in ranks.states[0]["middle"].items():
        assert torch.equal(values, ranks.states[0]["resumed"][key]), key
