"""What a finding consists of: rows with the paper's number, ours with a 95% interval, the control's, and what follows from them."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

Sign = Literal["negative", "positive", "zero"]
Verdict = Literal["confirmed", "not confirmed", "not testable", "shown"]
Control = Literal["lost", "less", "as well", "unclear"]
CONTROL_WORDS: dict[Control, str] = {
    "lost": " Shuffled Semantic IDs lose it.",
    "less": " Shuffled Semantic IDs show it too, but less.",
    "as well": " shuffled Semantic IDs show it as well, so that it is not due to what they mean.",
    "unclear": " Whether shuffled Semantic IDs lose it cannot be told: their figure differs clearly neither from zero nor from ours.",
}


class Estimate(NamedTuple):
    """A figure and its 95% interval; low and high are NaN where there is no telling, as with a single seed and user."""

    mean: float
    low: float
    high: float

    @property
    def is_known(self) -> bool:
        """Whether there is an interval."""
        return all(map(math.isfinite, self))

    @property
    def sign(self) -> Sign:
        """Which side of zero the whole interval lies on; zero where it has both, or is not known."""
        if self.high < 0:
            return "negative"
        return "positive" if self.low > 0 else "zero"

    def is_beyond(self, other: "Estimate", side: Sign) -> bool:
        """Whether it lies clearly further to a side than another one, by an interval that would be right if the two were independent."""
        ahead = other.mean - self.mean if side == "negative" else self.mean - other.mean
        return ahead > math.hypot(self.high - self.low, other.high - other.low) / 2

    @property
    def digits(self) -> int:
        """Decimals that show two figures of the interval's half width, or three of the mean where there is no interval."""
        if self.is_known and self.high > self.low:
            return _decimals((self.high - self.low) / 2, 2)
        return _decimals(abs(self.mean), 3) if self.mean and math.isfinite(self.mean) else 2


@dataclass(frozen=True)
class Row:
    """One number of a table or figure.

    Attributes:
        what: is compared with what, in plain words.
        paper: the paper's number as it prints it, unit included; empty where the paper has none.
        ours: None where this data cannot tell.
        unit: of ours: "%", "points", "bits" or empty.
        expected: the sign that the claim gives to ours; None where the number is shown and nothing is claimed of it.
        control: the same with Semantic IDs dealt out to the wrong items, where there is such a thing.
        why_not: in plain words, why this data cannot tell; only where ours is None.
    """

    what: str
    paper: str
    ours: Estimate | None
    unit: str = "%"
    expected: Sign | None = None
    control: Estimate | None = None
    why_not: str = ""

    def __post_init__(self) -> None:
        if (self.ours is None) != bool(self.why_not):
            raise ValueError(f"'{self.what}': a row has either a figure or the reason why there is none")

    @property
    def verdict(self) -> Verdict:
        """Confirmed where the whole interval has the expected sign and the control does not show it as well, or holds zero as expected."""
        if self.ours is None:
            return "not testable"
        if self.expected is None:
            return "shown"
        if not self.ours.is_known:
            return "not testable"
        return "confirmed" if self.ours.sign == self.expected and self._control != "as well" else "not confirmed"

    @property
    def words(self) -> str:
        """The verdict in plain words."""
        if self.ours is None:
            return f"Not testable on this data: {self.why_not}."
        if self.expected is None:
            return "Shown; nothing is claimed of it."
        if not self.ours.is_known:
            return "Not testable: too few rows, users or seeds for an interval."
        if self.ours.sign == self.expected:
            return self._words_of_sign(self.ours)
        if self.ours.sign == "zero":
            return "Not confirmed: the interval holds zero."
        if self.expected == "zero":
            return "Not confirmed: the interval is clear of zero."
        return "Not confirmed: the interval is clear of zero on the other side."

    def _words_of_sign(self, ours: Estimate) -> str:
        if self.expected == "zero":
            if ours.low == ours.high:
                return "Confirmed: exactly zero."
            up_to = f"{max(-ours.low, ours.high):.{ours.digits}f}"
            return f"Confirmed: the interval holds zero. Up to {with_unit(up_to, self.unit)} either way is not excluded."
        if self.control is None:
            return "Confirmed."
        if self._control is None:
            return "Confirmed. The control has no interval."
        return ("Not confirmed:" if self._control == "as well" else "Confirmed.") + CONTROL_WORDS[self._control]

    @property
    def _control(self) -> Control | None:
        """What the control says of a figure with a claimed sign; None where there is none to ask, or it says nothing."""
        if self.ours is None or self.control is None or self.expected in (None, "zero") or not self.control.is_known:
            return None
        beyond = self.ours.is_beyond(self.control, self.expected)
        if self.control.sign == self.expected:
            return "less" if beyond else "as well"
        return "lost" if beyond else "unclear"


@dataclass(frozen=True)
class Finding:
    """A table or figure, reproduced.

    Attributes:
        number: of the finding, 1 to 16.
        title: what it is about, and where: "Table 3a: head, torso, tail, seen and new items".
        question: what is asked, in a sentence or two.
        rows: what was found.
        notes: what must be known to read the numbers: what was done otherwise than in the papers, and why.
        plots: inline SVG, in the order in which they are shown.
    """

    number: int
    title: str
    question: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    plots: tuple[str, ...] = ()


def with_unit(figure: str, unit: str) -> str:
    """A figure and its unit: 2.9%, 2.9 points, 2.9."""
    return f"{figure}{unit}" if unit in ("", "%") else f"{figure} {unit}"


def _decimals(magnitude: float, figures: int) -> int:
    return min(max(figures - 1 - math.floor(math.log10(magnitude)), 0), 6)
