"""A codebook's quality report as lines for a terminal."""

from dataclasses import dataclass
from pathlib import Path

from models.quantizers.codebook import Codebook
from models.quantizers.codebook_report import CodebookReport
from models.quantizers.collisions import bin_names
from pipeline.report import number


@dataclass(frozen=True)
class Inspection:
    """What the report is made of.

    Attributes:
        artifact, content: folders of the codebook and of the vectors that it was measured on.
        codebook: the loaded artifact.
        report: the measurements.
        names: for each of the report's examples a line per item shown.
        problems: those of the report, and others that the files show.
    """

    artifact: Path
    content: Path
    codebook: Codebook
    report: CodebookReport
    names: list[list[str]]
    problems: list[str]


def as_text(found: Inspection) -> list[str]:
    """The report's lines."""
    return [
        *_head(found),
        *_levels(found.report),
        *_collisions(found.report),
        *_prefixes(found.report),
        *_neighbours(found.report),
        *_examples(found),
    ]


def _head(found: Inspection) -> list[str]:
    report, contract, kind = found.report, found.codebook.contract, found.codebook.model.config.kind
    lines = [
        f"codebook {contract.codebook_hash[:12]}: {kind}, {contract.levels} levels of {contract.codebook_size:,} "
        f"codes, source '{contract.source}', generation {contract.generation}",
        f"{report.items:,} items of {found.content}; reconstruction error {report.reconstruction_error:.4f} of the variance",
        "",
    ]
    return [*lines, *(f"WRONG: {problem}" for problem in found.problems)] if found.problems else [*lines, "nothing wrong was found"]


def _levels(report: CodebookReport) -> list[str]:
    lines = ["", "level   codes in use   entropy, bits   of log2 K   largest cluster"]
    for level, use in enumerate(report.levels, start=1):
        largest = f"{use.largest:,} ({use.largest_share:.2%})"
        lines.append(f"{level:>5}{use.usage:>15.1%}{use.entropy_bits:>16.2f}{use.entropy_share:>12.1%}{largest:>18}")
    return lines


def _collisions(report: CodebookReport) -> list[str]:
    found = report.collisions
    lines = [
        "",
        f"{found.unique_share:.1%} of the items have a Semantic ID of their own",
        "",
        "items per Semantic ID   Semantic IDs      items",
    ]
    for name, ids, items in zip(bin_names(), found.ids, found.items, strict=True):
        lines.append(f"{name:>21}{ids:>15,}{items:>11,}")
    return [*lines, f"{'largest':>21}{'':>15}{found.largest:>11,}"]


def _prefixes(report: CodebookReport) -> list[str]:
    lines = ["", "codes shared   prefixes   mean cosine   items per prefix: mean   median      p90    largest"]
    for row in report.prefixes:
        sizes = f"{row.mean:>25,.1f}{row.median:>9,.0f}{row.p90:>9,.0f}{row.largest:>11,}"
        lines.append(f"{row.length:>12}{row.clusters:>11,}{number(row.cosine, 3):>14}{sizes}")
    return lines


def _neighbours(report: CodebookReport) -> list[str]:
    found = report.neighbours
    if found is None:
        return []
    lines = [
        "",
        f"the {found.nearest} nearest by content of {found.queries:,} items among {found.items:,}",
        "",
        "codes shared   nearest that share them   random items that do   median content rank of an item that shares them",
    ]
    for length, (near, random, rank) in enumerate(zip(found.near_share, found.random_share, found.mate_rank, strict=True), start=1):
        lines.append(f"{length:>12}{near:>26.1%}{random:>23.3%}{number(rank):>51}")
    return lines


def _examples(found: Inspection) -> list[str]:
    lines = []
    for example, names in zip(found.report.examples, found.names, strict=True):
        lines += ["", f"prefix {'-'.join(map(str, example.prefix))}: {example.size:,} items", *(f"  {name}" for name in names)]
    return lines
