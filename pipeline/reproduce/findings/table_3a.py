"""Table 3a of paper A: who gains, items that are shown often, seldom, or never before."""

import numpy as np

from pipeline.reproduce import paper_a
from pipeline.reproduce.compare import gain_row
from pipeline.reproduce.finding import Finding, Row
from pipeline.reproduce.plots_segments import segment_plot
from pipeline.reproduce.study import Study
from pipeline.reproduce.world import Variant, World

PAPER = {  # segment to the change of evaluation NE of SemID against RH and against IE
    "all": ("-0.05%", "-0.03%"),
    "head": ("0.00%", "+0.01%"),
    "torso": ("-0.01%", "0.00%"),
    "tail": ("-0.04%", "-0.02%"),
    "seen": ("-0.03%", "-0.02%"),
    "new": ("-0.41%", "-0.33%"),
}
WORDS = {
    paper_a.SEMANTIC_ID: "Semantic IDs",
    paper_a.INDIVIDUAL: "a row per item",
    paper_a.INDIVIDUAL_UNKNOWN: "a row per item + unknown row",
    paper_a.SHUFFLED_SEMANTIC_ID: "Semantic IDs shuffled",
}


def variants(world: World) -> list[Variant]:
    """Paper A's three representations, its control, and the fairer row per item."""
    made = (paper_a.random_hash, paper_a.prefix_3, paper_a.shuffled, paper_a.individual, paper_a.individual_unknown)
    return [each(world) for each in made]


def find(study: Study) -> Finding:
    """Evaluation NE by segment, against hashed ids and against a row per item."""
    (parting,) = study.segments("frozen")
    segments = {"all": np.ones(len(study.labels("frozen")), bool)} | parting.segments
    rows: list[Row] = []
    baselines = ((paper_a.RANDOM_HASH, "random hash", 0), (paper_a.INDIVIDUAL, WORDS[paper_a.INDIVIDUAL], 1))
    for baseline, words, column in (*baselines, (paper_a.INDIVIDUAL_UNKNOWN, WORDS[paper_a.INDIVIDUAL_UNKNOWN], None)):
        for segment, chosen in segments.items():
            what = f"Semantic IDs against {words}: {segment} ({np.count_nonzero(chosen):,} rows)"
            paper = "" if column is None else PAPER[segment][column]
            row = gain_row(study, what, paper_a.SEMANTIC_ID, baseline, "frozen", chosen, paper=paper, control=paper_a.SHUFFLED_SEMANTIC_ID)
            rows.append(row)
    plot = segment_plot(study, "table-3a", "frozen", parting, WORDS, paper_a.RANDOM_HASH)
    notes = (
        paper_a.SETTING,
        paper_a.scale(study.world),
        f"{paper_a.equal_rows(study.world)} A row per item has {study.table_rows(paper_a.INDIVIDUAL):,} rows in both.",
        f"Judged on the last {len(study.labels('frozen')):,} rows by the model as training left it; the paper on the six hours after it.",
        "Head is the most impressed 0.1% of the training period's items, torso the next 5.5%, tail the rest; new items are not in it.",
        "A row per item is the paper's: a new item has a row of its own that was never trained. With an unknown row, ours, new items share "
        "one that is trained by dropping some ids, which tells that an item is new.",
        "What the paper prints as 0.00% is confirmed by any interval that holds zero, and a wide one easily does; its numbers of head and "
        "torso are all within a hundredth of a percent.",
    )
    question = "Which items gain from Semantic IDs? Change of evaluation NE by how often training showed the item."
    return Finding(2, "Table 3a: head, torso, tail, seen and new items", question, tuple(rows), notes, (plot,))
