"""Stage report: one self-contained HTML file with the finding in plain words, the tables, the plots and what they were made of."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from features.dataset import Dataset, iter_row_groups, open_dataset
from features.errors import InputError
from features.files import write_durably
from models.config import RepresentationConfig
from pipeline import plots
from pipeline.config import RunConfig
from pipeline.findings import control_of, control_sentence, findings, headline, sentence, signed, subjects
from pipeline.recipe import with_overrides
from pipeline.tables import BY, NOTHING, TITLES, clear_of_zero, partings

TEMPLATES = Path(__file__).parent / "templates"
PAGE = "report.html"
# What the facts about the log are called; further keys of the metadata are shown under their own names.
FACTS = {
    "source": "Source",
    "credit": "Credit",
    "positive": "What counts as a positive",
    "negatives": "Negatives",
    "negatives_missing": "Negatives that could not be found",
    "past_count": "The dense past count counts",
    "history_length": "History items kept per row",
    "last_rows": "Cut to the last rows",
    "text": "Item text",
}
SHOWN_ELSEWHERE = {"rows", "train_rows", "evaluation_rows", "stream_rows", "counts"}


def run(config: RunConfig) -> None:
    """Write report/report.html.

    Raises:
        InputError: naming the file, if the results, the codebook's description or the impressions are missing or damaged, or if the
            results are of other variants than the recipe's.
    """
    results = _read_json(config.path("evaluate") / "results.json", ("baseline", "frozen", "progressive", "curve", "table_rows", "data"))
    codebook = _read_json(config.path("codebook", config.embed.sources[0]) / "codebook.json", ("contract", "quality"))
    if list(results["table_rows"]) != list(config.evaluate.variants):
        raise InputError(f"{config.path('evaluate') / 'results.json'}: its variants are not the recipe's; run stage evaluate again")
    items, counts = open_dataset(config.path("items")), item_counts(open_dataset(config.location("impressions")))
    page = render(config, results, codebook, items, counts)
    path = config.path("report") / PAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, page.encode())
    print(f"report: {path}, {len(page) / 1024:.0f} KiB", flush=True)


def render(config: RunConfig, results: dict[str, Any], codebook: dict[str, Any], items: Dataset, counts: NDArray[np.int64]) -> str:
    """The page.

    Args:
        config: the run's configuration.
        results: the contents of evaluate's results.json.
        codebook: the contents of codebook.json.
        items: the canonical items.
        counts: of `item_counts`.
    """
    drawn = {by: plots.gain_plot(results, part, by) for part in TITLES for by in partings(results[part])} | {
        "curve": plots.curve_plot(results),
        "codebook": plots.codebook_plot(codebook["quality"], codebook["contract"]["codebook_size"]),
        "skew": plots.skew_plot(counts),
    }
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            results=results,
            answers=[_answers(config, results, name) for name in subjects(config)],
            floor=_floor(results),
            variants=[(name, describe(config, name)) for name in results["table_rows"]],
            facts=facts(results["data"]),
            contract=codebook["contract"],
            quality=codebook["quality"],
            items={"all": items.rows, "impressed": len(counts), **_concentration(counts)},
            plots={name: Markup(svg) for name, svg in drawn.items()},  # made by us, every name in it escaped
            bootstrap=config.evaluate.bootstrap,
            recipe=yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=100),
        )
    )


def environment() -> Environment:
    """What fills the templates in: text is escaped, a name that is not given is an error."""
    made = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {"signed": signed, "number": number, "clear": _is_clear, "foldable": foldable, "partings": partings}
    made.globals |= {"titles": TITLES, "by_words": BY, "nothing": NOTHING}
    return made


def item_counts(impressions: Dataset) -> NDArray[np.int64]:
    """Impressions per item, most impressed first; int64 [items]. One pass, memory grows with the items."""
    ids, totals = np.empty(0, np.int64), np.empty(0, np.int64)
    for group in iter_row_groups(impressions, ["item_id"]):
        values, counts = pc.value_counts(group.column("item_id")).flatten()
        merged, place = np.unique(np.concatenate([ids, values.to_numpy()]), return_inverse=True)
        ids, totals = merged, np.bincount(place, np.concatenate([totals, counts.to_numpy()])).astype(np.int64)
    return np.sort(totals)[::-1]


def describe(config: RunConfig, variant: str) -> list[str]:
    """A variant in words: a line per table, and how its store differs where it does."""
    chosen = with_overrides(config, config.evaluate.variants[variant])
    lines = [f"{name}: {_representation(r, chosen.model.rows_of(name))}" for name, r in chosen.model.representations.items()]
    if chosen.train.store == "store_shuffled":
        lines.append("negative control: the same Semantic IDs, dealt out to the items at random")
    return lines


def number(value: float | None, digits: int = 0) -> str:
    """A figure with thousands separated; a dash where there is none."""
    return NOTHING if value is None else f"{value:,.{digits}f}"


def foldable(name: str) -> Markup:
    """A name that may be broken into lines after its underscores."""
    return Markup("_<wbr>").join(name.split("_"))  # escapes the parts


def facts(data: dict[str, Any]) -> list[tuple[str, str]]:
    """What is known of the log, in words, but for its sizes."""
    known = [(FACTS[key], data[key]) for key in FACTS if key in data]
    further = [(key, value) for key, value in data.items() if key not in FACTS and key not in SHOWN_ELSEWHERE]
    return [(name, _plain(value)) for name, value in known + further if value is not None]


def _representation(chosen: RepresentationConfig, rows: int | None) -> str:
    words = {
        "individual": "a row per item, so as many rows as items; items not met before share one trained row",
        "random_hash": "item ids hashed at random",
        "semantic_id": f"Semantic ID {chosen.in_words}",
    }[chosen.kind]
    size = f", {rows:,} rows" if rows else ""
    use = "" if chosen.target and chosen.history else " (target only)" if chosen.target else " (history only)"
    return words + size + use


def _answers(config: RunConfig, results: dict[str, Any], name: str) -> dict[str, Any]:
    """What the page says of one variant with Semantic IDs."""
    answers, baseline = findings(results, name), results["baseline"]
    control = control_of(config, name)
    return {
        "headline": headline(answers, name, baseline),
        "sentences": [(answer.outcome, sentence(answer)) for answer in answers],
        "control": None if control is None else control_sentence(answers, findings(results, control), name, control),
    }


def _floor(results: dict[str, Any]) -> dict[str, float | None] | None:
    """NE of the true click probabilities by part, on simulated worlds alone."""
    if "oracle" not in results["frozen"]["variants"]:
        return None
    return {part: results[part]["variants"]["oracle"]["all"]["ne"] for part in ("frozen", "progressive")}


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(part)}" for key, part in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)


def _concentration(counts: NDArray[np.int64]) -> dict[str, float]:
    """Percent of the impressions that the top 0.1% and 5.6% of the impressed items have (paper A: 25 and 75)."""
    share = 100 * np.cumsum(counts) / counts.sum()
    return {name: float(share[max(1, round(part * len(counts))) - 1]) for name, part in (("head", 0.001), ("torso", 0.056))}


def _is_clear(cell: dict[str, float | None]) -> bool:
    return cell["low"] is not None and cell["high"] is not None and clear_of_zero(cell["low"], cell["high"])


def _read_json(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        values: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    for key in keys:
        if key not in values:
            raise InputError(f"{path}: key '{key}' is missing")
    return values


if __name__ == "__main__":
    from pipeline.cli import main

    sys.exit(main(stage="report"))
