"""Several figures of one set of draws are what each figure alone comes to."""

import numpy as np

from pipeline.intervals import Gain, UserBootstrap
from pipeline.reproduce.study import DRAWS, over_groups


def test_figures_together_are_those_of_each_alone() -> None:
    rng = np.random.default_rng(0)
    groups, values = rng.integers(0, 40, 500), rng.normal(size=(3, 500))
    together = over_groups(groups, lambda weights: [float(np.average(each, weights=weights)) for each in values])
    for figure, each in zip(together, values, strict=True):
        assert tuple(figure) == tuple(_alone(groups, each))
        assert figure.low < figure.mean < figure.high
    assert len({figure.mean for figure in together}) == 3


def test_a_figure_that_a_draw_cannot_have_has_no_interval() -> None:
    [figure] = over_groups(np.array([0, 1]), lambda weights: [float(weights[0] / weights[1]) if weights[1] else np.nan])
    assert figure.mean == 1
    assert np.isnan(figure.low)
    assert figure.sign == "zero"


def _alone(groups: np.ndarray, values: np.ndarray) -> Gain:
    return UserBootstrap(groups, DRAWS).estimate(lambda weights: np.array([np.average(values, weights=weights)]))
