"""Reads a recipe: YAML that may extend another, plus --set overrides; every mistake is one line that names the key."""

import difflib
import json
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import ValidationError

from features.errors import InputError
from models.config import Strict
from pipeline.config import RunConfig

SIMULATED = "simulated"
RECIPES = Path(__file__).parent / "recipes"


def load(recipe: str, overrides: list[str] | None = None) -> RunConfig:
    """Read a recipe and apply overrides.

    Args:
        recipe: a name in pipeline/recipes or the path of a YAML file. Its key `extends` names another recipe that it changes.
        overrides: `a.b=c`, the value in YAML.

    Raises:
        InputError: naming the file or key; an unknown key with its nearest neighbour.
    """
    values = _read(recipe)
    for text in overrides or []:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text}: expected KEY=VALUE")
        try:
            _assign(values, key, yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise InputError(f"--set {text}: the value is not YAML") from error
    config = validate(values, recipe)
    for name, changes in config.evaluate.variants.items():  # now, since stage evaluate comes hours later
        with_overrides(config, changes, f"{recipe}: evaluate.variants.{name}")
    return config


def raw_files(recipe: str, data_dir: str | None) -> list[str]:
    """The override that tells where the raw files lie.

    Args:
        recipe: a name in pipeline/recipes.
        data_dir: folder of the raw files, or its parent.

    Raises:
        InputError: where there is no such folder, or the simulated world is given one, or a real log none.
    """
    if recipe == SIMULATED:
        if data_dir is not None:
            raise InputError("--data-dir: the simulated world has no raw files")
        return []
    if data_dir is None:
        raise InputError(f"--data-dir is missing: the folder of the raw files of {recipe}, or its parent")
    folder = Path(data_dir).expanduser().resolve()
    if (folder / recipe).is_dir():
        folder /= recipe
    if not folder.is_dir():
        raise InputError(f"--data-dir {data_dir}: no such folder")
    return [f"ingest.raw={json.dumps(str(folder))}"]


def with_overrides(config: RunConfig, overrides: dict[str, Any], where: str | None = None) -> RunConfig:
    """A copy of `config` with dotted keys replaced. Raises InputError naming an unknown key and `where` it stands."""
    values = config.model_dump(mode="json")
    for key, value in overrides.items():
        _assign(values, key, value)
    return validate(values, where or config.name)


def validate(values: dict[str, Any], where: str) -> RunConfig:
    """Build a RunConfig. Raises InputError: one line that names each wrong key."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{where}: " + "; ".join(_explain(problem) for problem in error.errors())) from error


def _read(recipe: str, children: tuple[Path, ...] = ()) -> dict[str, Any]:
    path = RECIPES / f"{recipe}.yaml"
    if not path.is_file():
        path = Path(recipe)
    if not path.is_file():
        known = sorted(file.stem for file in RECIPES.glob("*.yaml"))
        raise InputError(f"recipe '{recipe}' is neither a file nor one of {', '.join(known)}{_nearest(recipe, known)}")
    if path in children:
        raise InputError(f"{path}: 'extends' leads back to it, through {', '.join(map(str, children))}")
    try:
        values = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: a recipe is a mapping of keys to values")
    parent = values.pop("extends", None)
    return values if parent is None else _merge(_read(str(parent), (*children, path)), values)


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Mappings merge key by key, anything else replaces; `representations`, a variant's too, replace as a whole."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict) and not key.endswith("representations")
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _assign(values: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise InputError(f"'{dotted}': '{parent}' has no keys below it")
    values[last] = value


def _explain(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"]) or "recipe"
    if problem["type"] != "extra_forbidden":
        return f"'{key}': {problem['msg']}"
    return f"'{key}': unknown key{_nearest(key, _known_keys(RunConfig, key))}"


def _known_keys(model: type[Strict], wrong: str, prefix: str = "") -> list[str]:
    """Dotted keys below `model`; of a mapping whose names the user chose, those below the name in the `wrong` key."""
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        kind, below = field.annotation, f"{prefix}{name}."
        if get_origin(kind) is dict and wrong.startswith(below):
            kind, below = get_args(kind)[1], f"{below}{wrong.removeprefix(below).partition('.')[0]}."
        if isinstance(kind, type) and issubclass(kind, Strict):
            keys += _known_keys(kind, wrong, below)
    return keys


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
