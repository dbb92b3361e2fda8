"""Verdicts and words of single rows, worked out by hand; and how figures are written."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.reproduce.finding import Estimate, Row, Sign
from pipeline.reproduce.results import _row, figure, interval
from pipeline.tables import NOTHING

NAN, MINUS = math.nan, "\N{MINUS SIGN}"
CLEAR, WIDE = Estimate(-2.0, -3.0, -1.0), Estimate(-2.0, -4.5, 0.5)


def row(ours: Estimate | None, expected: Sign | None, **other: Any) -> Row:
    return Row("this against that", "-0.1%", ours, expected=expected, **other)


@pytest.mark.parametrize(
    ("ours", "expected", "verdict", "words"),
    [
        (CLEAR, "negative", "confirmed", "Confirmed."),
        (CLEAR, "positive", "not confirmed", "Not confirmed: the interval is clear of zero on the other side."),
        (CLEAR, "zero", "not confirmed", "Not confirmed: the interval is clear of zero."),
        (CLEAR, None, "shown", "Shown; nothing is claimed of it."),
        (WIDE, "negative", "not confirmed", "Not confirmed: the interval holds zero."),
        (WIDE, "zero", "confirmed", "Confirmed: the interval holds zero. Up to 4.5% either way is not excluded."),
        (WIDE, None, "shown", "Shown; nothing is claimed of it."),
        (Estimate(2.0, 1.0, 3.0), "positive", "confirmed", "Confirmed."),
        (Estimate(0.01, -0.02, 0.04), "zero", "confirmed", "Confirmed: the interval holds zero. Up to 0.040% either way is not excluded."),
        (Estimate(0.0, 0.0, 0.0), "zero", "confirmed", "Confirmed: exactly zero."),
        (Estimate(0.0, 0.0, 0.0), "negative", "not confirmed", "Not confirmed: the interval holds zero."),
        (Estimate(-1.0, -2.0, 0.0), "negative", "not confirmed", "Not confirmed: the interval holds zero."),  # an end at zero
    ],
)
def test_verdicts(ours: Estimate, expected: Sign | None, verdict: str, words: str) -> None:
    assert (row(ours, expected).verdict, row(ours, expected).words) == (verdict, words)


@pytest.mark.parametrize("expected", ["negative", "positive", "zero"])
@pytest.mark.parametrize("ours", [Estimate(-2.0, NAN, NAN), Estimate(NAN, NAN, NAN), Estimate(-2.0, -math.inf, math.inf)])
def test_without_an_interval_nothing_is_confirmed_nor_refuted(ours: Estimate, expected: Sign) -> None:
    """Above all no effect of zero: that nothing is known is no sign of it."""
    told = row(ours, expected)
    assert (told.verdict, told.words) == ("not testable", "Not testable: too few rows, users or seeds for an interval.")


def test_what_this_data_cannot_tell_says_why() -> None:
    told = row(None, "negative", why_not="this log has one source of content")
    assert (told.verdict, told.words) == ("not testable", "Not testable on this data: this log has one source of content.")
    for wrong in ({"ours": None}, {"ours": CLEAR, "why_not": "no idea"}):
        with pytest.raises(ValueError, match="'this': a row has either a figure or the reason"):
            Row("this", "", **wrong)


@pytest.mark.parametrize(
    ("control", "verdict", "words"),
    [
        (Estimate(0.1, -0.4, 0.6), "confirmed", "Confirmed. Shuffled Semantic IDs lose it."),
        (Estimate(0.9, 0.4, 1.4), "confirmed", "Confirmed. Shuffled Semantic IDs lose it."),
        (Estimate(-0.5, -0.8, -0.2), "confirmed", "Confirmed. Shuffled Semantic IDs show it too, but less."),
        (
            Estimate(-1.8, -2.2, -1.4),
            "not confirmed",
            "Not confirmed: shuffled Semantic IDs show it as well, so that it is not due to what they",
        ),
        (Estimate(-9.0, -9.5, -8.5), "not confirmed", "Not confirmed: shuffled Semantic IDs show it as well"),
        (Estimate(-1.5, -4.0, 1.0), "confirmed", "Confirmed. Whether shuffled Semantic IDs lose it cannot be told"),
        (Estimate(-1.5, NAN, NAN), "confirmed", "Confirmed. The control has no interval."),
    ],
)
def test_what_the_control_says(control: Estimate, verdict: str, words: str) -> None:
    told = row(CLEAR, "negative", control=control)
    assert told.verdict == verdict
    assert told.words.startswith(words)
    mirrored = row(_mirrored(CLEAR), "positive", control=_mirrored(control))
    assert (mirrored.verdict, mirrored.words) == (told.verdict, told.words)


def test_the_control_has_no_say_where_there_is_no_gain() -> None:
    cases: list[tuple[Estimate, Sign | None]] = [(WIDE, "negative"), (CLEAR, "positive"), (CLEAR, None), (WIDE, "zero")]
    for ours, expected in cases:
        alone, controlled = (row(ours, expected, control=control) for control in (None, CLEAR))
        assert (alone.verdict, alone.words) == (controlled.verdict, controlled.words)


bounds = st.floats(-100, 100, allow_nan=False)


@given(st.tuples(bounds, bounds, bounds), st.tuples(bounds, bounds, bounds), st.sampled_from(["negative", "positive", "zero", None]))
def test_confirmed_rows_have_their_sign_whatever_the_control(ours: Any, control: Any, expected: Sign | None) -> None:
    low, mean, high = sorted(ours)
    told = row(Estimate(mean, low, high), expected, control=_estimate(control))
    holds = {"negative": high < 0, "positive": low > 0, "zero": low <= 0 <= high}
    if told.verdict == "confirmed":
        assert expected is not None
        assert holds[expected]
    elif expected == "zero":
        assert not holds["zero"]
    assert told.words.lower().startswith(told.verdict)


@pytest.mark.parametrize(
    ("ours", "unit", "expected", "mean", "bounds"),
    [
        (Estimate(-2.934, -3.631, -2.222), "%", "negative", "-2.93%", "-3.63 … -2.22"),
        (Estimate(2.934, -12.0, 17.9), "%", "negative", "+3%", "-12 … +18"),
        (Estimate(-0.0004, -0.02, 0.02), "%", "zero", "0.000%", "-0.020 … +0.020"),
        (Estimate(2.3141, 2.29, 2.34), "bits", None, "2.314 bits", "2.290 … 2.340"),
        (Estimate(12345.6, 12000.0, 12700.0), "points", None, "12,346 points", "12,000 … 12,700"),
        (Estimate(-1.2345, NAN, NAN), "", "negative", "-1.23", ""),
        (Estimate(0.0, NAN, NAN), "", None, "0.00", ""),
        (Estimate(NAN, NAN, NAN), "%", "negative", NOTHING, ""),
        (Estimate(0.0, 0.0, 0.0), "%", "zero", "0.00%", "0.00 … 0.00"),
    ],
)
def test_figures_have_the_digits_that_the_interval_leaves(ours: Estimate, unit: str, expected: Sign | None, mean: str, bounds: str) -> None:
    told = _row(Row("this", "", ours, unit, expected))
    assert (figure(told).replace(MINUS, "-"), interval(told).replace(MINUS, "-")) == (mean, bounds)


def _mirrored(estimate: Estimate) -> Estimate:
    return Estimate(-estimate.mean, -estimate.high, -estimate.low)


def _estimate(three: tuple[float, float, float]) -> Estimate:
    low, mean, high = sorted(three)
    return Estimate(mean, low, high)
