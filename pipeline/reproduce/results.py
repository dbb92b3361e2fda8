"""What was found, as JSON for programs; the page, the Markdown and the terminal's table are all made of it."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from pipeline.recipe import with_overrides
from pipeline.report import describe
from pipeline.reproduce.finding import Estimate, Finding, Row, Verdict, with_unit
from pipeline.reproduce.study import DRAWS, Study
from pipeline.reproduce.world import OWN, Variant
from pipeline.tables import NOTHING

SCHEMA = 1  # of reproduction.json: raised where a key changes its name or meaning
VERDICTS: dict[Verdict, str] = {"confirmed": "✓", "not confirmed": "✗", "not testable": "?", "shown": "·"}  # with a mark for each
VERDICT_FIRST = re.compile(r"^(Confirmed|Not confirmed|Not testable on this data|Not testable|Shown)[.:;] ?")
HYPHEN_FOR_MINUS = re.compile(r"(?<![\w.])-(?=[\d.])")
Results = dict[str, Any]
Interval = dict[str, float | None]


class Made(NamedTuple):
    """How the findings were made: the command, its seconds, and how many processes it had."""

    command: str
    seconds: float
    processes: int


def results(study: Study, findings: Iterable[Finding], made: Made) -> Results:
    """Everything that is told, without the plots; strict JSON, null where a figure is not known.

    Keys: `schema`, SCHEMA; `command`, `processes` and `seconds` (`command`, of this call; `trainings`, of all trainings together, in
    whatever call they were made); `name`, `seeds` and `draws`, behind each interval; `data`, what the log is, and `sizes` of it;
    `worlds`, the log and its variations; `verdicts`, rows by verdict; `findings`, each with `number`, `title`, `question`, `verdicts`,
    `notes` and `rows`; `variants`, and `trainings`, how many there are of them all; `settings`, the recipe.

    A row has `what`, `paper`, `ours` and `control` (null, or `mean`, `low` and `high`), `unit`, `expected` (null, or negative, positive or
    zero), `found` (the sign of ours), `verdict`, `words`, and `why_not`.
    """
    told = [_finding(finding) for finding in findings]
    log, rows = study.world.impressions, study.world.impressions.rows
    impressed = len(np.unique(study.log["item_id"]))
    variants = [each | {"world": of.world.name} for of in (study, *study.others) for each in _variants(of)]
    seconds = [each for of in (study, *study.others) for each in of.seconds()]
    everything = {
        "schema": SCHEMA,
        "name": study.world.config.name,
        "command": made.command,
        "processes": made.processes,
        "seconds": {
            "command": round(made.seconds, 1),
            "trainings": round(sum(seconds), 1),
        },
        "trainings": len(seconds),
        "seeds": list(study.seeds),
        "draws": DRAWS,
        "data": log.metadata,
        "sizes": {
            "rows": rows,
            "train_rows": study.train_rows,
            "evaluation_rows": rows - study.train_rows,
            "stream_rows": rows - rows // 2,
            "users": len(np.unique(study.log["user_id"])),
            "items": study.world.items.rows,
            "impressed_items": impressed,
            "table_rows": study.world.config.model.rows,
        },
        "worlds": [study.world.name, *(other.world.name for other in study.others)],
        "verdicts": _counted(row for finding in told for row in finding["rows"]),
        "findings": told,
        "variants": variants,
        "settings": study.world.config.model_dump(mode="json", exclude={"workdir", "evaluate"}),
    }
    return dict(json.loads(as_json(everything)))  # as a reader of the file has it


def as_json(told: Results) -> bytes:
    """Strict JSON, a final newline included."""
    return (json.dumps(told, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def summary(told: Results) -> str:
    """How many rows came out how, in a sentence or two."""
    counts = told["verdicts"]
    claims, shown = sum(counts.values()) - counts["shown"], counts["shown"]
    if not claims:
        return "No claim was looked at."
    said = (
        f"{_number_of(claims, 'claim was', 'claims were')} looked at: {_number_of(counts['confirmed'])} confirmed here, "
        f"{_number_of(counts['not confirmed'])} not, and {counts['not testable']} cannot be tested on this data."
    )
    return said + (f" {shown} more {'figure is' if shown == 1 else 'figures are'} shown, of which nothing is claimed." if shown else "")


def counted(verdicts: dict[str, int]) -> str:
    """Rows by verdict in words: "3 confirmed, 1 not testable"."""
    return ", ".join(f"{number} {verdict}" for verdict, number in verdicts.items() if number) or "no rows"


def figure(row: dict[str, Any], key: str = "ours") -> str:
    """The mean of a row's `ours` or `control`, with its unit; a dash where there is none."""
    if row[key] is None or row[key]["mean"] is None:
        return NOTHING
    return with_unit(_number(row[key]["mean"], row, key), row["unit"])


def interval(row: dict[str, Any], key: str = "ours") -> str:
    """Its 95% interval; empty where there is none."""
    if row[key] is None or row[key]["low"] is None or row[key]["high"] is None:
        return ""
    return " … ".join(_number(row[key][bound], row, key) for bound in ("low", "high"))


def _number(value: float, row: dict[str, Any], key: str) -> str:
    """With the sign where it is compared with zero, and a true minus."""
    known = Estimate(*(math.nan if row[key][name] is None else row[key][name] for name in ("mean", "low", "high")))
    text = f"{value:,.{known.digits}f}"
    if not any(digit in text for digit in "123456789"):
        return text.removeprefix("-")  # a zero has no sign
    return ("+" if value > 0 and row["expected"] is not None else "") + minus(text)


def reason(row: dict[str, Any]) -> str:
    """The words of a row without its verdict; empty where that says everything."""
    return VERDICT_FIRST.sub("", row["words"])


def minus(text: str) -> str:
    """Text whose hyphens before figures are true minuses."""
    return HYPHEN_FOR_MINUS.sub("\N{MINUS SIGN}", text)


def _number_of(count: int, one: str = "is", several: str = "are") -> str:
    return f"{count} {one if count == 1 else several}"


def _finding(finding: Finding) -> dict[str, Any]:
    rows = [_row(row) for row in finding.rows]
    about = {"number": finding.number, "title": finding.title, "question": finding.question}
    return about | {"verdicts": _counted(rows), "rows": rows, "notes": list(finding.notes)}


def _row(row: Row) -> dict[str, Any]:
    return {
        "what": row.what,
        "paper": row.paper,
        "ours": _interval(row.ours),
        "unit": row.unit,
        "expected": row.expected,
        "found": None if row.ours is None or not row.ours.is_known else row.ours.sign,
        "control": _interval(row.control),
        "verdict": row.verdict,
        "words": row.words,
        "why_not": row.why_not,
    }


def _interval(estimate: Estimate | None) -> Interval | None:
    if estimate is None:
        return None
    return {name: float(value) if math.isfinite(value) else None for name, value in estimate._asdict().items()}


def _counted(rows: Iterable[dict[str, Any]]) -> dict[str, int]:
    found = Counter(row["verdict"] for row in rows)
    return {verdict: found[verdict] for verdict in VERDICTS}


def _variants(study: Study) -> list[dict[str, Any]]:
    return [_variant(study, variant) for variant in study.variants]


def _variant(study: Study, variant: Variant) -> dict[str, Any]:
    """A variant in words, and in the recipe's."""
    config = with_overrides(study.world.coded(variant.coding), {"evaluate.variants": {variant.name: dict(variant.settings)}})
    return {
        "name": variant.name,
        "tables": describe(config, variant.name),
        "settings": dict(variant.settings),
        "coding": None if variant.coding == OWN else dict(variant.coding.settings),
        "log": variant.log,
        "table_rows": study.table_rows(variant.name),
        "trainings": len(study.seeds),
    }
