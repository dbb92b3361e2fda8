"""The comparison in plain words: for each question better, worse or not distinguishable, and what the shuffled control says."""

from typing import Any, Literal, NamedTuple

from pipeline.config import RunConfig
from pipeline.recipe import with_overrides
from pipeline.tables import NOTHING, clear_of_zero, percent

Cell = dict[str, float | None]
Outcome = Literal["better", "worse", "not distinguishable", "not defined"]


class Question(NamedTuple):
    """One cell of the results that the report answers in words."""

    part: Literal["frozen", "progressive"]
    segment: str
    words: str


QUESTIONS = (
    Question("frozen", "all", "after training, over all rows"),
    Question("frozen", "tail", "after training, on tail items"),
    Question("frozen", "new", "after training, on items that training never had"),
    Question("progressive", "all", "as a stream, over all rows"),
    Question("progressive", "0", "as a stream, on items never impressed before"),
    Question("progressive", "under a day", "as a stream, on items less than a day old"),
)


class Finding(NamedTuple):
    """The answer to one question for one variant against the baseline."""

    question: Question
    outcome: Outcome
    cell: Cell


def outcome(cell: Cell) -> Outcome:
    """Better or worse where the 95% interval of the change of NE is clear of zero; lower NE is better."""
    if cell["gain"] is None or cell["low"] is None or cell["high"] is None:
        return "not defined"
    if not clear_of_zero(cell["low"], cell["high"]):
        return "not distinguishable"
    return "better" if cell["gain"] < 0 else "worse"


def findings(results: dict[str, Any], variant: str) -> list[Finding]:
    """The answers for one variant, in the order of QUESTIONS; questions whose segment the results do not have are left out."""
    cells = [(question, results[question.part]["variants"][variant].get(question.segment)) for question in QUESTIONS]
    return [Finding(question, outcome(cell), cell) for question, cell in cells if cell is not None]


def signed(value: float | None) -> str:
    """A change in percent with its sign, as the terminal's table has it but for the typographic minus; a dash where there is none."""
    return NOTHING if value is None else percent(value).replace("-", "\N{MINUS SIGN}")


def sentence(finding: Finding) -> str:
    """What a finding's outcome rests on, as a sentence."""
    where = finding.question.words[0].upper() + finding.question.words[1:]
    if finding.outcome == "not defined":
        return f"{where}: not defined, for want of rows, users or one of the two labels."
    gain, low, high = (signed(finding.cell[key]) for key in ("gain", "low", "high"))
    return f"{where}: NE {gain}% (95% interval {low} to {high})."


def headline(answers: list[Finding], variant: str, baseline: str) -> str:
    """How many questions came out how."""
    counted = {
        name: sum(answer.outcome == name for answer in answers) for name in ("better", "worse", "not distinguishable", "not defined")
    }
    parts = [f"{name} on {number}" for name, number in counted.items() if number]
    return f"Against {baseline}, {variant} is {', '.join(parts)} of {len(answers)} questions."


def control_sentence(subject: list[Finding], control: list[Finding], variant: str, name: str) -> str:
    """Whether the control, the same Semantic IDs dealt out to the wrong items, still has the gain of `variant`."""
    pairs = [(mine, theirs) for mine, theirs in zip(subject, control, strict=True) if mine.outcome == "better"]
    pairs = [(mine, theirs) for mine, theirs in pairs if theirs.outcome != "not defined"]
    if not pairs:
        return f"{name} is the negative control, but {variant} has no gain for it to lose."
    left = [mine.question.words for mine, theirs in pairs if theirs.outcome == "better"]
    if not left:
        return f"With the Semantic IDs shuffled among the items ({name}) the gain is gone on every question where {variant} has one."
    return (
        f"With the Semantic IDs shuffled among the items ({name}) the gain is gone on {len(pairs) - len(left)} of the {len(pairs)} "
        f"questions where {variant} has one; some of it is left {'; '.join(left)}."
    )


def subjects(config: RunConfig) -> list[str]:
    """Variants that have Semantic IDs, the baseline and the shuffled controls apart, in the recipe's order."""
    names = []
    for name, chosen in _resolved(config).items():
        kinds = {representation.kind for representation in chosen.model.representations.values()}
        if "semantic_id" in kinds and chosen.train.store == "store" and name != config.evaluate.baseline:
            names.append(name)
    return names


def control_of(config: RunConfig, subject: str) -> str | None:
    """The variant that differs from `subject` in nothing but its store, which is the shuffled one; None without such a variant."""
    resolved = _resolved(config)
    unshuffled = {"train.store": "store", "train.input": resolved[subject].train.input}
    for name, chosen in resolved.items():
        if chosen.train.store == "store_shuffled" and with_overrides(chosen, unshuffled) == resolved[subject]:
            return name
    return None


def _resolved(config: RunConfig) -> dict[str, RunConfig]:
    return {name: with_overrides(config, changes) for name, changes in config.evaluate.variants.items()}
