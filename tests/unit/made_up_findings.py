"""Two findings as a module of pipeline.reproduce.findings would make them: one with every verdict, one that is hard to print."""

import numpy as np
from matplotlib.figure import Figure

from pipeline.plots import _svg
from pipeline.reproduce.core import represented
from pipeline.reproduce.finding import Estimate, Finding, Row
from pipeline.reproduce.study import Study
from pipeline.reproduce.world import Coding, Variant, World

EVIL = "<script>alert('$x$')</script>&amp; | `code` *bold* [link](https://example.org) \\ _under_"
NAN = float("nan")


def variants(world: World) -> list[Variant]:
    """Two of its own, with settings that must be told, one of them with a coding that alone has its source of content."""
    views = {"view": {"kind": "semantic_id", "source": "vector_view_2", "depth": 2}}
    coding = Coding((("embed.sources", ("text", "vector_view_2")), ("quantize.levels", 2)))
    target = {"target": {"kind": "semantic_id", "depth": 2, "history": False}}
    return [represented("semantic_id_of_the_target", target, train__id_dropout=0.0), represented("of_a_view", views, coding=coding)]


def find(study: Study) -> Finding:
    """Gains by segment."""
    (parting,) = study.segments("frozen")
    chosen = {"all": np.ones(len(study.labels("frozen")), bool)} | parting.segments
    rows = [
        Row(
            f"Semantic IDs against random hash: {name}",
            "-0.41%",
            study.gain("semantic_id", "random_hash", "frozen", mine),
            expected="negative",
            control=study.gain("shuffled_semantic_id", "random_hash", "frozen", mine),
        )
        for name, mine in chosen.items()
    ]
    return Finding(
        1, "Table 3a: made up", "Which items gain from Semantic IDs?", (*rows, *every_verdict()), ("Equal rows: 97.",), (plot(),)
    )


def every_verdict() -> tuple[Row, ...]:
    """One row for each thing that can come out."""
    ours, control = Estimate(-2.934, -3.631, -2.222), Estimate(0.4, 0.06, 0.74)
    return (
        Row("lost by the control", "-0.14%", ours, expected="negative", control=control),
        Row("less in the control", "-0.14%", ours, expected="negative", control=Estimate(-0.5, -0.9, -0.1)),
        Row("as well in the control", "-0.14%", ours, expected="negative", control=Estimate(-2.5, -3.0, -2.0)),
        Row("zero expected and held", "0.00%", Estimate(0.05, -0.2, 0.3), expected="zero"),
        Row("zero expected, not held", "0.00%", ours, expected="zero"),
        Row("too wide", "-0.02%", Estimate(-1.0, -2.5, 0.5), expected="negative"),
        Row("on the other side", "+0.61 points", Estimate(-120.4, -180.0, -60.8), "points", expected="positive"),
        Row("too few for an interval", "-0.03%", Estimate(-1.234, NAN, NAN), expected="negative"),
        Row("not here", "-43%", None, expected="negative", why_not="this log has one source of content"),
        Row("a level", "2.149", Estimate(2.31415, 2.30, 2.32), "bits"),
        Row("a level without a paper's number", "", Estimate(0.00123, 0.00119, 0.00127), ""),
    )


def evil() -> Finding:
    """Text that is markup to a careless page."""
    rows = (Row(EVIL, EVIL, None, why_not=EVIL), Row(EVIL, "", Estimate(1.0, NAN, NAN), EVIL))
    return Finding(16, EVIL, EVIL, rows, (EVIL,))


def plot() -> str:
    """A small one."""
    figure = Figure(figsize=(6.6, 2.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([1, 2, 3], [0.3, -0.5, -2.0], marker="o")
    axes.set(xlabel="prefix length", ylabel="change of NE, percent")
    return _svg(figure, "made-up", "A made-up plot")
