"""The comparison in words: outcomes on constructed cells, what is said of the control, and which variants are compared."""

import pytest

from pipeline import recipe as recipes
from pipeline.findings import Finding, Question, control_of, control_sentence, findings, headline, outcome, sentence, subjects


@pytest.mark.parametrize(
    ("gain", "low", "high", "expected"),
    [
        (-1.0, -2.0, -0.1, "better"),
        (1.0, 0.1, 2.0, "worse"),
        (-1.0, -2.1, 0.1, "not distinguishable"),
        (1.0, -0.1, 2.1, "not distinguishable"),
        (-1.0, -2.0, 0.0, "not distinguishable"),
        (-1.0, None, None, "not defined"),
        (None, None, None, "not defined"),
    ],
)
def test_outcomes(gain: float | None, low: float | None, high: float | None, expected: str) -> None:
    assert outcome({"ne": 0.9, "gain": gain, "low": low, "high": high}) == expected


def answers(*outcomes: str) -> list[Finding]:
    interval = {"better": (-3.0, -2.0, -1.0), "worse": (1.0, 2.0, 3.0), "not distinguishable": (-1.0, 0.5, 2.0), "not defined": (None,) * 3}
    cells = [dict(zip(("low", "gain", "high"), interval[name], strict=True)) for name in outcomes]
    return [Finding(Question("frozen", str(place), f"on q{place}"), outcome(cell), cell) for place, cell in enumerate(cells)]


def test_words() -> None:
    mixed = answers("better", "worse", "not distinguishable", "better", "not defined")
    assert headline(mixed, "sid", "hash") == (
        "Against hash, sid is better on 2, worse on 1, not distinguishable on 1, not defined on 1 of 5 questions."
    )
    assert sentence(mixed[0]) == "On q0: NE −2.00% (95% interval −3.00 to −1.00)."  # noqa: RUF001 - the typographic minus
    assert sentence(mixed[4]).startswith("On q4: not defined")


def test_the_controls_words() -> None:
    subject = answers("better", "better", "worse")
    gone = control_sentence(subject, answers("worse", "not distinguishable", "better"), "sid", "shuffled")
    assert gone == "With the Semantic IDs shuffled among the items (shuffled) the gain is gone on every question where sid has one."
    some = control_sentence(subject, answers("better", "worse", "worse"), "sid", "shuffled")
    assert "gone on 1 of the 2 questions" in some
    assert some.endswith("some of it is left on q0.")
    none = control_sentence(answers("worse"), answers("better"), "sid", "shuffled")
    assert none == "shuffled is the negative control, but sid has no gain for it to lose."


CONTROLLED = {"paper_a_sources": "six_sources_and_hashed_id"}  # the recipe's own model, where that is not semantic_id


@pytest.mark.parametrize("recipe", sorted(path.stem for path in recipes.RECIPES.glob("*.yaml")))
def test_each_recipes_semantic_ids_have_their_control(recipe: str) -> None:
    config = recipes.load(recipe)
    controls = {subject: control_of(config, subject) for subject in subjects(config)}
    assert controls.pop(CONTROLLED.get(recipe, "semantic_id")) == "shuffled_semantic_id"
    assert "semantic_id_and_random_hash" in controls
    assert set(controls.values()) == {None}


def test_findings_take_the_right_cells() -> None:
    parts = {"frozen": ("all", "head", "tail", "new"), "progressive": ("all", "0", "1-9", "under a day")}
    cell = {"gain": 1.0, "low": 0.5, "high": 1.5}
    results = {part: {"variants": {"sid": {name: dict(cell) for name in segments}}} for part, segments in parts.items()}
    found = findings(results, "sid")
    assert [(f.question.part, f.question.segment) for f in found] == [
        ("frozen", "all"), ("frozen", "tail"), ("frozen", "new"), ("progressive", "all"), ("progressive", "0"),
        ("progressive", "under a day"),
    ]  # fmt: skip
    assert all(f.cell is results[f.question.part]["variants"]["sid"][f.question.segment] for f in found)
    assert {f.outcome for f in found} == {"worse"}
