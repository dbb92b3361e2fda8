"""Recurring training: the checkpoint that a new run starts from, and whether its rows and weights mean the same today; free of torch."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features import dense_ids
from features.dense_ids import DenseIdMap
from features.errors import InputError
from features.semantic_id import SidContract
from pipeline.config import RunConfig

META = "meta.json"  # of a checkpoint: its identity, and the sha256 of each file


@dataclass(frozen=True)
class StartingPoint:
    """Yesterday's checkpoint.

    Attributes:
        path: its folder.
        identity: of the run that saved it, see `Trainer`.
        sha256: of its meta.json, and so of all its files.
    """

    path: Path
    identity: dict[str, Any]
    sha256: str

    @property
    def dense_rows(self) -> int:
        """H of its individual tables, whose unknown row is row H; 0 where it has none."""
        described = self.identity.get("dense_ids")
        return int(described["items"]) if described else 0


def chosen(config: RunConfig) -> StartingPoint | None:
    """What `train.start_from` names, opened; None where it names nothing.

    Raises:
        InputError: as `find` does; or if it is where this run's own checkpoints go, so that it would name others from then on.
    """
    path = config.train.start_from
    if path is not None and path.resolve() == config.path("train").resolve():
        raise InputError(f"train.start_from {path} is the folder that the stage writes; name yesterday's run in it")
    return None if path is None else find(path)


def find(path: Path, named_by: str = "train.start_from") -> StartingPoint:
    """Open what `train.start_from`, or something else, names.

    Args:
        path: a checkpoint, a run's folder, of which the newest checkpoint is taken, or a folder train with one run.
        named_by: for the errors.

    Raises:
        InputError: if it is none of these, or a run has no checkpoint; or naming the runs where there are several.
    """
    described = _checkpoint(path, named_by) / META
    try:
        data = described.read_bytes()
        return StartingPoint(described.parent, dict(json.loads(data)["identity"]), hashlib.sha256(data).hexdigest())
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{named_by}: {described} is damaged ({error})") from error


def require_fit(start: StartingPoint | None, today: dict[str, Any], ids: DenseIdMap | None, *, accept_refreshed_codebook: bool) -> None:
    """Refuse a start whose table rows or weights would mean something else in this run.

    The data, ranks, sharding, learning rates, batch, seed and code may be others.

    Args:
        start: where the run is to start; None fits always.
        today: the run's own identity, as `Trainer` saves it.
        ids: the run's dense id map, where it has one.
        accept_refreshed_codebook: let the start's codebook be the one that this run's was refreshed from.

    Raises:
        InputError: naming the first thing that does not fit, on both sides.
    """
    if start is None:
        return
    for name in ("model", "columns"):
        _require_same(start, name, today)
    _require_codebooks(start, today, accept_refreshed_codebook)
    _require_same(start, "pieces", today)
    if ids is None:
        return
    if ids.inherited < start.dense_rows or ids.sha256(start.dense_rows) != start.identity["dense_ids"]["sha256"]:
        raise InputError(
            f"train.start_from {start.path}: this run's dense id map does not extend the one there{_which(start, ids)}; "
            "enrich with enrich.dense_ids_from, yesterday's map"
        )


def _checkpoint(path: Path, named_by: str) -> Path:
    if (path / META).is_file():
        return path
    runs = [path] if (path / "checkpoints").is_dir() else sorted(folder.parent for folder in path.glob("*/checkpoints"))
    if len(runs) != 1:
        found = f"has the runs {', '.join(run.name for run in runs)}: name one of them" if runs else "is no checkpoint, and has no run"
        raise InputError(f"{named_by} {path} {found}")
    newest = max(runs[0].glob(f"checkpoints/step-*/{META}"), default=None)
    if newest is None:
        raise InputError(f"{named_by} {path}: the run has no checkpoint")
    return newest.parent


def _require_same(start: StartingPoint, name: str, today: dict[str, Any]) -> None:
    difference = _difference(name, start.identity.get(name), today.get(name))
    if difference is not None:
        key, there, here = difference
        raise InputError(
            f"train.start_from: {key} is {there} in {start.path} but {here} in this run: its rows and weights would mean something else"
        )


def _difference(key: str, there: Any, here: Any) -> tuple[str, Any, Any] | None:
    """The first key in which two JSON values differ, and both; the order of keys counts, since it is that of the model's inputs."""
    if json.dumps(there) == json.dumps(here):
        return None
    if not isinstance(there, dict) or not isinstance(here, dict):
        return key, there, here
    for name in dict.fromkeys([*there, *here]):
        difference = _difference(f"{key}.{name}", there.get(name, "absent"), here.get(name, "absent"))
        if difference is not None:
            return difference
    return key, f"in the order {', '.join(there)}", f"in the order {', '.join(here)}"


def _require_codebooks(start: StartingPoint, today: dict[str, Any], accept_refreshed: bool) -> None:
    where = f"train.start_from {start.path}"
    there, here = _contracts(start.identity, where), _contracts(today, "this run")
    if list(there) != list(here):
        sources = (", ".join(contracts) or "none" for contracts in (there, here))
        raise InputError("{}: sources of Semantic IDs are {} there but {} in this run".format(where, *sources))
    for source, new in here.items():
        if new != there[source]:
            _require_refreshed(where, there[source], new, accept_refreshed)


def _contracts(identity: dict[str, Any], where: str) -> dict[str, SidContract]:
    """By source, in the run's order."""
    return {value["source"]: SidContract.from_json(value, where) for value in identity["sid_contracts"]}


def _require_refreshed(where: str, old: SidContract, new: SidContract, accept: bool) -> None:
    for name in ("levels", "codebook_size"):
        if getattr(old, name) != getattr(new, name):
            raise InputError(f"{where}: {name} of source '{old.source}' is {getattr(old, name)} there but {getattr(new, name)} in this run")
    both = f"Semantic IDs of '{old.source}' are of {_named(old)} there, of {_named(new)} in this run"
    if new.aligned_with != old.codebook_hash or new.generation <= old.generation:
        follows = f"was refreshed from codebook {new.aligned_with[:12]}" if new.aligned_with else "was trained from scratch"
        raise InputError(f"{where}: {both}, which {follows}: its codes, and so the tables' rows, mean something else")
    if not accept:
        raise InputError(f"{where}: {both}, which was refreshed from it; train.accept_refreshed_codebook: true goes on with it")


def _named(contract: SidContract) -> str:
    return f"codebook {contract.codebook_hash[:12]} of generation {contract.generation}"


def _which(start: StartingPoint, ids: DenseIdMap) -> str:
    """Which item has another row, where yesterday's map still lies in the workdir that yesterday's run names; else both sizes."""
    described, config = start.identity["dense_ids"], start.path.parent.parent / "config.json"
    folder = Path(json.loads(config.read_text())["workdir"]) / "dense_ids" if config.is_file() else None
    older = DenseIdMap.load(folder) if folder is not None and (folder / dense_ids.META).is_file() else None
    misplaced = ids.misplaced(older) if older is not None and older.sha256() == described["sha256"] else None
    if misplaced is None:
        return f" ({described['items']:,} items there, {len(ids.ids):,} here)"
    item, there, here = misplaced
    return f": item id {item} has row {there} in {folder} but {'none' if here < 0 else f'row {here}'} here"
