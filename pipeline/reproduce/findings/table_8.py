"""Table 8: paper A's production features: six sparse features of the target, one for each source of content, and one sequential feature."""

from typing import Any

from pipeline.reproduce.core import SHUFFLED, represented
from pipeline.reproduce.finding import Finding, Row
from pipeline.reproduce.study import Part, Study
from pipeline.reproduce.world import OWN, Coding, Variant, World

VIEWS = ("vector_content", *(f"vector_view_{number}" for number in range(2, 7)))  # sources of the simulated items
HASHED, ALL, SEQUENCE = "hashed_ids_alone", "all_sources_and_hashed_ids", "semantic_id_history_and_hashed_ids"
PARTS: dict[Part, str] = {"training": "train", "frozen": "evaluation"}
PAPER = {ALL: ("-0.063%", "-0.071%"), SEQUENCE: ("-0.110%", "-0.123%")}


def sources(world: World) -> tuple[str, ...]:
    """What the target has a sparse feature of each."""
    return VIEWS if world.is_simulated else world.config.embed.sources


def coding(world: World) -> Coding:
    """A Semantic ID of each source, and of those that the recipe's own tables name; a simulated world's own coding has one source."""
    if not world.is_simulated:
        return OWN
    named = [table.source for table in world.config.model.representations.values() if table.source]
    return Coding((("embed.sources", tuple(dict.fromkeys([*VIEWS, *named]))),))


def variants(world: World) -> list[Variant]:
    """Hashed ids alone, with a feature of each source, with the sequential one; and the latter two with Semantic IDs shuffled."""
    several = sources(world)
    if len(several) == 1:
        return []
    hashed: dict[str, Any] = {"hashed_id": {"kind": "random_hash"}}
    features = {source: {"kind": "semantic_id", "source": source, "history": False} for source in several}
    sequence = {"sequence": {"kind": "semantic_id", "source": several[0], "target": False}}
    total, chosen = _tables(world) * world.config.model.rows, {HASHED: hashed, ALL: features | hashed, SEQUENCE: sequence | hashed}
    found = [represented(name, tables, coding=coding(world), model__rows=total) for name, tables in chosen.items()]
    return [*found, *(Variant(_shuffled(each.name), {**each.settings, **SHUFFLED}, each.coding) for each in found[1:])]


def find(study: Study) -> Finding:
    """The gain of either feature, in either period."""
    testable = len(sources(study.world)) > 1
    controls = [_against_control(study, name, part) for name in PAPER for part in PARTS] if testable else []
    return Finding(
        8,
        "Table 8: six sparse features and one sequential feature, as in production",
        "To a ranker with hashed ids, what do Semantic IDs of the target add that come from several sources of content, and what those of "
        "the history?",
        (*(_row(study, name, part, paper) for name, papers in PAPER.items() for part, paper in zip(PARTS, papers, strict=True)), *controls),
        _notes(study) if testable else (),
    )


def _tables(world: World) -> int:
    """As the recipe paper_a_sources counts them: of each source, of the history, of hashed ids."""
    return len(sources(world)) + 2


def _shuffled(name: str) -> str:
    return f"shuffled_{name}"


def _feature(study: Study, name: str) -> str:
    several = len(sources(study.world))
    return "one sequential feature" if name == SEQUENCE else f"{several if several > 1 else 6} sparse features of the target"


def _against_control(study: Study, name: str, part: Part) -> Row:
    what = f"{_feature(study, name)}: {PARTS[part]} NE, against the same of shuffled Semantic IDs"
    return Row(what, "", study.gain(name, _shuffled(name), part))


def _row(study: Study, name: str, part: Part, paper: str) -> Row:
    what = f"{_feature(study, name)}: {PARTS[part]} NE, against hashed ids alone"
    if len(sources(study.world)) == 1:
        return Row(what, paper, None, expected="negative", why_not="this log has one source of content")
    return Row(what, paper, study.gain(name, HASHED, part), expected="negative", control=study.gain(_shuffled(name), HASHED, part))


def _notes(study: Study) -> tuple[str, ...]:
    config, rows = study.world.config, ", ".join(f"{study.table_rows(name):,}" for name in (HASHED, ALL, SEQUENCE))
    views = (
        "The six sources are views of one topic tree, each with noise of its own: three see all of it, two all but its last level, one all "
        "but its last two. The paper's are embeddings of text, image and video."
    )
    return (
        *([views] if study.world.is_simulated else []),
        "The sequential feature has the Semantic IDs of the first source.",
        f"Equal rows, unlike in production, where the features came to what was there: {rows} in the three rankers, which is "
        f"{_tables(study.world)} times what the other rankers of this page have. Hashed ids alone therefore collide seldom.",
        f"The paper's production quantizer has six levels, of which it takes prefixes of five; here all sources have the recipe's "
        f"{config.quantize.levels} levels.",
        "The control has shuffled Semantic IDs, which add as many rows to an item. Their sum may learn faster than the one row of a hashed "
        "id, semantics or not: the rows against shuffled ones are free of that.",
    )
