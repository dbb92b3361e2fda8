"""What was found as Markdown, a section for a larger page: docs/results.md is made of these."""

import re

from pipeline.report import facts
from pipeline.reproduce.results import VERDICTS, Results, counted, figure, interval, minus, summary
from pipeline.tables import NOTHING

MARKED = re.compile(r"([\\`*_{}\[\]<>|#~$&])")  # what Markdown, or a page made of it, would take for markup


def as_markdown(told: Results) -> str:
    """Heading, command, the log, the summary, and each finding with its rows and notes.

    Args:
        told: of `pipeline.reproduce.results.results`.
    """
    sizes = told["sizes"]
    lines = [f"## {plain(told['name'])}", "", "```sh", told["command"], "```", ""]
    lines += [
        f"{sizes['rows']:,} impressions of {sizes['impressed_items']:,} items by {sizes['users']:,} users, {sizes['train_rows']:,} of them "
        f"for training; every variant trained with {len(told['seeds'])} {'seed' if len(told['seeds']) == 1 else 'seeds'}.",
        "",
        *(f"- {plain(name)}: {plain(value)}" for name, value in facts(told["data"])),
        "",
        f"**{plain(summary(told))}** Negative changes of NE are better. In brackets 95% intervals: users resampled, seeds paired.",
    ]
    for finding in told["findings"]:
        asked = f"{plain(finding['question'])} ({counted(finding['verdicts']).capitalize()}.)"
        lines += ["", f"### {plain(finding['title'])}", "", asked, ""]
        lines += ["| | paper | here | claimed | shuffled | |", "|---|---|---|---|---|---|"]
        for row in finding["rows"]:
            control = _with_interval(figure(row, "control"), interval(row, "control"))
            cells = [row["what"], minus(row["paper"]), _with_interval(figure(row), interval(row)), row["expected"] or NOTHING, control]
            lines.append(f"| {' | '.join(map(plain, [*cells, VERDICTS[row['verdict']] + ' ' + row['words']]))} |")
        lines += ["", *(f"- {plain(note)}" for note in finding["notes"])]
    return "\n".join(lines).rstrip() + "\n"


def plain(text: str) -> str:
    """Text that stands in Markdown for itself, on one line."""
    return MARKED.sub(r"\\\1", " ".join(text.split()))


def _with_interval(mean: str, bounds: str) -> str:
    return f"{mean} ({bounds})" if bounds else mean
