"""`semid quantize --inspect`: a codebook's quality report as text and as one self-contained HTML file."""

import argparse
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup
from numpy.typing import NDArray

from features.dataset import Dataset, iter_row_groups, open_dataset
from features.errors import InputError
from features.files import write_durably
from models.quantizers.codebook import DESCRIPTION, Codebook, load
from models.quantizers.codebook_report import inspect
from models.quantizers.collisions import bin_names
from pipeline import plots
from pipeline.codebook_text import Inspection, as_text
from pipeline.item_names import item_names, name_columns
from pipeline.report import environment
from pipeline.vectors import ContentVectors


def run(options: argparse.Namespace) -> None:
    """Print the report and write it as HTML.

    Args:
        options: `inspect`, folder of the codebook; `content`, folder of the content data set or None for the one that the artifact names;
            `out`, the HTML file or None for `codebook_report_SOURCE.html` beside the artifact.

    Raises:
        InputError: if the artifact or the content is missing, damaged or of another source or width, or if the content in the place that
            the artifact names is not what it was trained on.
    """
    artifact = Path(options.inspect)
    found = _inspect(artifact, None if options.content is None else Path(options.content))
    page = (
        Path(options.out)
        if options.out is not None
        else artifact.resolve().parent / f"codebook_report_{found.codebook.contract.source}.html"
    )
    if not page.parent.is_dir():
        raise InputError(f"--out {page}: no such folder as {page.parent}")
    write_durably(page, as_html(found).encode())
    print("\n".join([*as_text(found), "", f"quality report: {page}"]), flush=True)


def as_html(found: Inspection) -> str:
    """The report as a page that needs no other file."""
    report, contract = found.report, found.codebook.contract
    figures = {
        "usage": [use.usage for use in report.levels],
        "entropy_bits": [use.entropy_bits for use in report.levels],
        "prefix_cosine": [row.cosine for row in report.prefixes],
    }
    return (
        environment()
        .get_template("codebook.html.j2")
        .render(
            found=found,
            report=report,
            contract=contract,
            config=found.codebook.model.config,
            bins=bin_names(),
            most_bits=math.log2(contract.codebook_size),
            plot=Markup(plots.codebook_plot(figures, contract.codebook_size)),  # made by us
        )
    )


def _inspect(artifact: Path, content: Path | None) -> Inspection:
    several = sorted(path.parent.name for path in artifact.glob(f"*/{DESCRIPTION}"))
    if several:
        raise InputError(f"{artifact}: a folder of codebooks, {', '.join(several)}: name one, e.g. {artifact / several[0]}")
    codebook = load(artifact)
    dataset, problems = _content(artifact, codebook, content)
    report = inspect(codebook.model, ContentVectors(dataset))
    rows = np.array([row for example in report.examples for row in example.rows], np.int64)
    names = iter(_item_names(dataset, rows))
    by_example = [[next(names) for _ in example.rows] for example in report.examples]
    return Inspection(artifact, dataset.path, codebook, report, by_example, [*problems, *report.problems])


def _content(artifact: Path, codebook: Codebook, chosen: Path | None) -> tuple[Dataset, list[str]]:
    """The vectors to measure on, and what is wrong with them."""
    if chosen is None and codebook.content is None:
        raise InputError(f"{artifact}: the codebook does not tell where its content lies; say it by --content DIR")
    path = chosen or (artifact / str(codebook.content and codebook.content.path)).resolve()
    try:
        dataset = open_dataset(path)
    except InputError as error:
        raise InputError(f"{error}; --content DIR says where the vectors of the codebook lie") from error
    vectors, source = ContentVectors(dataset), dataset.metadata.get("source")
    contract, width = codebook.contract, codebook.model.input_dim
    if (source, vectors.dim) != (contract.source, width):
        raise InputError(
            f"{path}: source '{source}' and width {vectors.dim}, but the codebook {artifact} was trained on source '{contract.source}' and "
            f"width {width}"
        )
    if codebook.content is None or codebook.content.fingerprint == dataset.fingerprint:
        return dataset, []
    if chosen is None:
        raise InputError(
            f"{path}: no longer the content that the codebook {artifact} was trained on; --content DIR points elsewhere, or here"
        )
    return dataset, ["the items are not those that the codebook was trained on"]


def _item_names(dataset: Dataset, rows: NDArray[np.int64]) -> list[str]:
    """A line per row: the item's title or text where the run's items lie beside its `content`, else its id."""
    ids = np.concatenate([group.column("item_id").to_numpy() for group in iter_row_groups(dataset, ["item_id"])])[rows]
    names = {int(item): f"item {item}" for item in ids}
    folder = dataset.path.parents[1] / "items"
    if folder.is_dir():
        items = open_dataset(folder)
        columns = name_columns(items.schema)
        for group in iter_row_groups(items, ["item_id", *columns]) if columns else ():
            wanted = group.filter(pc.is_in(group.column("item_id"), pa.array(ids)))
            for item, name in zip(wanted.column("item_id").to_pylist(), item_names(wanted).to_pylist(), strict=True):
                names[item] = name or names[item]
    return [names[int(item)] for item in ids]
