"""The explorer's page: arrays packed as gzip in base64 beside the script that shows them, and what fits no page left out and said.

Dimensions: S items with a Semantic ID, N items in all, L levels, P prefixes of one length.
"""

import base64
import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from features.representation import Representation
from features.semantic_id import SidContract
from models.quantizers.collisions import Collisions, bin_names, collisions
from pipeline.explore_inputs import Shown, Texts
from pipeline.prefix_tree import Cosines, unused_codes
from pipeline.report import TEMPLATES, environment, number

CROWDED = 20  # Semantic IDs of most items that the page lists
COSINE_UNIT, NO_COSINE = 1e-4, -(1 << 15)  # int16: a cosine in these units, or none
KINDS = {"<u2": "Uint16Array", "<u4": "Uint32Array", "<i2": "Int16Array", "<f8": "Float64Array", "<i8": "BigInt64Array"}
SCRIPTS = ("explore_data.js", "explore_tree.js", "explore.js")

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Explored:
    """What the page shows. Items are in the order of their codes, those without a Semantic ID last.

    Attributes:
        version: folder of the store's version.
        contract: of the source.
        codes_SL: uint16 [S, L].
        starts: of `prefix_tree.prefix_starts`, for each length 0 .. L.
        ids_N: int64 [N].
        listed: items that the items' table has.
        names: a line each; None where the table has none.
        originals: the publisher's ids; None where these are the item ids.
        shown: impressions and clicks; None where none were given.
        cosines: of `prefix_tree.mean_cosines`; None where no content was given.
        table: whose rows are shown.
        rows: table row of each prefix, int64 [P] for each length 1 .. depth.
    """

    version: Path
    contract: SidContract
    codes_SL: NDArray[np.uint16]
    starts: list[Int64]
    ids_N: Int64
    listed: int
    names: Texts | None
    originals: Texts | None
    shown: Shown | None
    cosines: list[Cosines] | None
    table: Representation
    rows: list[Int64]

    @property
    def collisions(self) -> Collisions:
        """How many Semantic IDs are shared by how many items."""
        return collisions(np.diff(self.starts[-1]))

    @property
    def own_rows(self) -> bool:
        """Whether the table has a row for every prefix that there can be."""
        return self.table.parameterization is not None and self.table.rows == self.table.parameterization.key_space

    def left_out(self) -> list[str]:
        """What the page does without, and what of the inputs does not fit together: a sentence each."""
        coded, uncoded = len(self.codes_SL), len(self.ids_N) - len(self.codes_SL)
        unlisted = coded - (self.listed - uncoded)
        strangers = self.shown.strangers if self.shown else 0
        names, originals = (texts.cut if texts else 0 for texts in (self.names, self.originals))
        lines = [
            (self.shown is None, "no impressions given, hence no click rates (--impressions)"),
            (self.cosines is None, "no content vectors given, hence no cosines (--content)"),
            (self.names is None, "the items given have neither titles nor texts"),
            (self.own_rows, f"the table shown has {self.table.rows:,} rows, one for every prefix that there can be (--rows)"),
            (uncoded, f"{uncoded:,} items have no Semantic ID"),
            (unlisted, f"{unlisted:,} items of the store are not among the items given"),
            (strangers, f"{strangers:,} impressions are of items that are neither in the store nor among the items given"),
            (names, f"the names of {names:,} items are left out, those shown least, for the size of the page"),
            (originals, f"the original ids of {originals:,} items are left out, those shown least, for the size of the page"),
        ]
        return [line for applies, line in lines if applies]


class Level(NamedTuple):
    """A row of the table of levels.

    Attributes:
        length: of the prefixes.
        prefixes: that some item has.
        largest: items of the largest one.
        alone: items that share theirs with no other.
        unused: codes of this level that no item has, ascending.
        rows: table rows that the prefixes use, and
        crowded: prefixes whose row another prefix uses too; None where this length has no rows.
        cosine: mean over the pairs of items that share a prefix; None where no two do, or no content was given.
    """

    length: int
    prefixes: int
    largest: int
    alone: int
    unused: Int64
    rows: int | None
    crowded: int | None
    cosine: float | None


class Section(NamedTuple):
    """An array of the page: its name, the JavaScript type of its elements, and its bytes as gzip in base64."""

    name: str
    kind: str
    packed: Markup


def as_html(found: Explored) -> str:
    """The page; it needs no other file, no server and no network."""
    script = "\n".join((TEMPLATES / name).read_text() for name in SCRIPTS)
    return (
        environment()
        .get_template("explore.html.j2")
        .render(
            found=found,
            contract=found.contract,
            levels=levels(found),
            bins=bin_names(),
            crowded=_crowded(found),
            meta=_meta(found),
            sections=sections(found),
            ranges=ranges,
            script=Markup(script),  # ours
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def levels(found: Explored) -> list[Level]:
    """The table of levels."""
    every_row = np.sort(np.concatenate(found.rows))
    unused, made = unused_codes(found.codes_SL, found.contract.codebook_size), []
    for length, starts in enumerate(found.starts[1:], start=1):
        sizes, used, crowded, cosine = np.diff(starts), None, None, None
        if length <= len(found.rows):
            rows = found.rows[length - 1]
            users = np.searchsorted(every_row, rows, side="right") - np.searchsorted(every_row, rows)
            used, crowded = len(np.unique(rows)), int(np.count_nonzero(users > 1))
        if found.cosines is not None:
            cosine = found.cosines[length].over_all
        alone = int(np.count_nonzero(sizes == 1))
        made.append(Level(length, len(sizes), int(sizes.max()), alone, unused[length - 1], used, crowded, cosine))
    return made


def sections(found: Explored) -> list[Section]:
    """The arrays, in the order in which the page unpacks them; `explore_data.js` says what they are."""
    arrays: dict[str, NDArray[Any]] = {}
    for length, starts in enumerate(found.starts):
        if length:
            arrays[f"codes-{length}"] = found.codes_SL[starts[:-1], length - 1].astype("<u2")
            arrays[f"sizes-{length}"] = np.diff(starts).astype("<u4")
        if found.cosines is not None:
            scaled = np.round(found.cosines[length].mean_P / COSINE_UNIT)
            arrays[f"cosines-{length}"] = np.where(np.isnan(scaled), NO_COSINE, scaled).astype("<i2")
    for length, rows in enumerate(found.rows, start=1):
        arrays[f"rows-{length}"] = rows.astype("<i8")
    if found.shown is not None:
        arrays |= {"impressions": found.shown.impressions.astype("<f8"), "clicks": found.shown.clicks.astype("<f8")}
    arrays["ids"] = found.ids_N.astype("<i8")
    made = [_section(name, KINDS[array.dtype.str], array.tobytes()) for name, array in arrays.items()]
    for name, texts in (("names", found.names), ("originals", found.originals)):
        if texts is not None:
            made.append(_section(name, "text", "\n".join(texts.values.to_pylist()).encode()))
    return made


def ranges(codes: Int64, most: int = 400) -> str:
    """Ascending codes in words, runs together: 3, 17-20, 31; the first `most` runs, and how many codes are beyond."""
    if not len(codes):
        return "none"
    breaks = np.flatnonzero(np.diff(codes) > 1)
    firsts, lasts = codes[np.append(0, breaks + 1)][:most], codes[np.append(breaks, len(codes) - 1)][:most]
    words = ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in zip(firsts.tolist(), lasts.tolist(), strict=True))
    beyond = int(np.count_nonzero(codes > lasts[-1]))
    return words if not beyond else f"{words} and {number(beyond)} more"


def _crowded(found: Explored) -> list[tuple[str, int]]:
    """The Semantic IDs that most items share, most first."""
    starts = found.starts[-1]
    sizes = np.diff(starts)
    most = np.argsort(-sizes, kind="stable")[:CROWDED]
    return [("-".join(map(str, found.codes_SL[starts[p]].tolist())), int(sizes[p])) for p in most if sizes[p] > 1]


def _meta(found: Explored) -> dict[str, Any]:
    """What the script must know beside the arrays."""
    return {
        "levels": found.contract.levels,
        "codebookSize": found.contract.codebook_size,
        "depth": len(found.rows),
        "unknownRow": str(found.table.rows),  # may exceed 2^53
        "cosineUnit": COSINE_UNIT,
        "noCosine": NO_COSINE,
        "namesCut": found.names.cut if found.names else 0,
    }


def _section(name: str, kind: str, data: bytes) -> Section:
    return Section(name, kind, Markup(base64.b64encode(gzip.compress(data, 6, mtime=0)).decode()))
