"""Metrics of a stream by segment and task: time of an update and of a report, ours beside TorchRec's, on the same batches in one run.

Ours gives NE, AUC and calibration of every segment. The baselines, all through TorchRec's RecMetricModule:

- segmented NE: NE alone of every segment, task by task (TorchRec's default), or fused over the tasks where this TorchRec can;
- all: fused, and NE, AUC and calibration of the tasks beside it, these not by segment: the nearest to ours that it offers.

Bars: an update takes less time than TorchRec's segmented NE as it is by default, and, with its share of a report every 100 steps, less than
the baseline "all". The fused segmented NE, a third of the figures, has no bar: on many rows and tasks it takes about as long as ours.
Before anything is timed, NE of every segment must agree with TorchRec's.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from _figures import Row, arguments, median_seconds, row, show
from torchrec.metrics import segmented_ne
from torchrec.metrics.metric_module import RecMetricModule, generate_metric_module
from torchrec.metrics.metrics_config import MetricsConfig, RecComputeMode, RecMetricDef, RecMetricEnum, RecTaskInfo

from features.segments import Segmentation
from pipeline.metrics import SUMMED_TOGETHER, StreamMetrics

SIZES = tuple(itertools.product((512, 8192), (10, 100), (1, 3)))  # batch, segments, tasks
REPORT_EVERY = 100  # steps, for the share of a report in an update
CAN_FUSE = hasattr(segmented_ne, "get_segemented_ne_states_fused")


class Stream(NamedTuple):
    """Batches as a model would give them: float32 [B, K] logits and labels, float32 [B] weights, int64 [B, 1] segments."""

    batches: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]
    segments: int
    tasks: list[str]
    device: torch.device


class System(NamedTuple):
    """Something that keeps metrics: takes all batches in, reports, and tells NE over its lifetime by task and segment."""

    update: Callable[[], None]
    report: Callable[[], object]
    ne: Callable[[], list[list[float]]]


def stream(batch: int, segments: int, tasks: int, steps: int) -> Stream:
    """A click rate of about 5%, a few rows of padding in every batch."""
    generator = np.random.default_rng(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batches = []
    for _ in range(steps):
        logits = generator.normal(-3, 1, (batch, tasks)).astype(np.float32)
        labels = (generator.random((batch, tasks)) < 1 / (1 + np.exp(-logits))).astype(np.float32)
        weights = (np.arange(batch) < batch - 5).astype(np.float32)
        parts = (logits, labels, weights, generator.integers(0, segments, (batch, 1)))
        logit_BK, label_BK, weight_B, segment_BV = (torch.from_numpy(part).to(device) for part in parts)
        batches.append((logit_BK, label_BK, weight_B, segment_BV))
    return Stream(batches, segments, [f"task{number}" for number in range(tasks)], device)


def ours(data: Stream) -> System:
    """pipeline.metrics.StreamMetrics."""
    names = tuple(f"segment {number}" for number in range(data.segments))
    metrics = StreamMetrics(data.tasks, data.device, [Segmentation("segment", tuple(range(1, data.segments)), names)])

    def update() -> None:
        for batch in data.batches:
            metrics.update(*batch)
        synchronise(data.device)

    def ne() -> list[list[float]]:
        table = metrics.lifetime()
        return [[table[task][name].ne for name in names] for task in data.tasks]

    return System(update, metrics.report, ne)


def torchrec(data: Stream, wanted: list[RecMetricEnum], *, fused: bool) -> System:
    """TorchRec's metrics. It gets probabilities, whose sigmoid it is not charged for, and a window as long as ours."""
    module = _module(data, wanted, fused=fused)
    outputs = []
    for logit_BK, label_BK, weight_B, segment_BV in data.batches:
        output = {"grouping_keys": segment_BV[:, 0], "weight": weight_B}
        for column, task in enumerate(data.tasks):
            output |= {f"{task}-prediction": torch.sigmoid(logit_BK[:, column].double()), f"{task}-label": label_BK[:, column]}
        outputs.append(output)

    def update() -> None:
        for output in outputs:
            module.update(output)
        synchronise(data.device)

    def ne() -> list[list[float]]:
        figures = module.compute()
        name = "segmented_ne-{}|lifetime_segmented_ne_{}"
        return [[float(figures[name.format(task, number)]) for number in range(data.segments)] for task in data.tasks]

    def report() -> list[float]:
        return [float(value) for value in module.compute().values()]

    return System(update, report, ne)


def _module(data: Stream, wanted: list[RecMetricEnum], *, fused: bool) -> RecMetricModule:
    batch = len(data.batches[0][0])
    tasks = [RecTaskInfo(task, f"{task}-label", f"{task}-prediction", "weight") for task in data.tasks]
    window = batch * len(data.batches)
    segmented = {"num_groups": data.segments, "grouping_keys": "grouping_keys"}
    config = MetricsConfig(
        rec_tasks=tasks,
        rec_metrics={one: RecMetricDef(tasks, [], window, segmented if one == RecMetricEnum.SEGMENTED_NE else None) for one in wanted},
        rec_compute_mode=RecComputeMode.FUSED_TASKS_COMPUTATION if fused else RecComputeMode.UNFUSED_TASKS_COMPUTATION,
    )
    return generate_metric_module(RecMetricModule, config, batch, 1, 0, {}, data.device).to(data.device)


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def systems(data: Stream) -> dict[str, System]:
    """Ours first, then the baselines; all have seen one pass over the batches and agree on NE to float32, in which TorchRec reports.

    A segment with one class is undefined in ours and has an NE of 10^10 or so in TorchRec, which divides by a clamped 0.
    """
    alone = [RecMetricEnum.SEGMENTED_NE]
    made = {"ours": ours(data), "segmented NE": torchrec(data, alone, fused=False)}
    if CAN_FUSE:
        made["segmented NE, fused"] = torchrec(data, alone, fused=True)
    made["all"] = torchrec(data, [*alone, RecMetricEnum.NE, RecMetricEnum.AUC, RecMetricEnum.CALIBRATION], fused=CAN_FUSE)
    for system in made.values():
        system.update()
    expected = np.array(made["ours"].ne())
    for name, system in made.items():
        np.testing.assert_allclose(np.where(np.isnan(expected), np.nan, system.ne()), expected, rtol=1e-6, err_msg=name)
    return made


def measured(batch: int, segments: int, tasks: int, *, rounds: int, steps: int) -> list[Row]:
    """The figures of one size, in milliseconds. Ours sums up at least once in so many `steps`."""
    data = stream(batch, segments, tasks, steps)
    actions: dict[str, Callable[[], object]] = {}
    made = systems(data)
    for name, system in made.items():
        actions |= {f"{name} update": system.update, f"{name} report": system.report}
    times = median_seconds(actions, rounds)
    update = {name: 1000 * times[f"{name} update"] / steps for name in made}
    report = {name: 1000 * times[f"{name} report"] for name in made}
    step = {name: update[name] + report[name] / REPORT_EVERY for name in made}
    title, rows = f"B {batch}, {segments} segments, {tasks} task{'s' if tasks > 1 else ''}", []
    for name in list(made)[1:]:
        bar, holds = ("below it", update["ours"] < update[name]) if name == "segmented NE" else ("", None)
        rows.append(row(f"{title}: update (of {name})", update["ours"], "ms", baseline=update[name], bar=bar, holds=holds))
    rows.append(row(f"{title}: report (of all)", report["ours"], "ms", baseline=report["all"]))
    rows.append(
        row(
            f"{title}: update and 1/{REPORT_EVERY} report (of all)",
            step["ours"],
            "ms",
            baseline=step["all"],
            bar="below it",
            holds=step["ours"] < step["all"],
        )
    )
    return rows


def main() -> None:
    """Every size in turn."""
    options = arguments(__doc__ or "")
    torch.set_num_threads(1)
    rounds = 3 if options.small else 9
    rows = [line for size in SIZES for line in measured(*size, rounds=rounds, steps=SUMMED_TOGETHER // 512)]
    show("metrics by segment and task: time of an update and of a report", rows, options.json)


if __name__ == "__main__":
    main()
