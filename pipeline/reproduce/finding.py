"""What a finding consists of: rows with the paper's number, ours with a 95% interval, the control's, and what follows from them."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Sign = Literal["negative", "positive", "zero"]
Verdict = Literal["confirmed", "not confirmed", "not testable", "shown"]


class Estimate(NamedTuple):
    """A figure and its 95% interval; low and high are NaN where there is no telling, as with a single seed and user."""

    mean: float
    low: float
    high: float

    @property
    def sign(self) -> Sign:
        """Which side of zero the whole interval lies on; zero where it has both, or is not known."""
        if self.high < 0:
            return "negative"
        return "positive" if self.low > 0 else "zero"


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
        """Confirmed where the whole interval has the expected sign, or holds zero where zero is expected."""
        if self.ours is None:
            return "not testable"
        if self.expected is None:
            return "shown"
        return "confirmed" if self.ours.sign == self.expected else "not confirmed"

    @property
    def words(self) -> str:
        """The verdict in plain words."""
        if self.ours is None:
            return f"Not testable on this data: {self.why_not}."
        if self.expected is None:
            return "Shown; the papers claim nothing of it."
        if self.verdict == "confirmed":
            return "Confirmed." + self._control_words()
        if self.ours.sign == "zero":
            return "Not confirmed: the interval holds zero."
        if self.expected == "zero":
            return "Not confirmed: the interval is clear of zero."
        return "Not confirmed: the interval is clear of zero on the other side."

    def _control_words(self) -> str:
        if self.control is None or self.expected == "zero":
            return ""
        if self.control.sign == self.expected:
            return " But shuffled Semantic IDs have a gain too, so that not all of it is theirs."
        return " Shuffled Semantic IDs lose it."


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
