"""Recipes and overrides: layering, and one clear line for everything a user can get wrong in them."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from features.errors import InputError
from launch.chain import ROOT
from pipeline.recipe import RECIPES, load, with_overrides

MINIMAL = {
    "name": "tiny",
    "workdir": "runs/tiny",
    "ingest": {"source": "simulated"},
    "model": {"representations": {"sid": {"kind": "semantic_id", "rows": 100}}},
}


def recipe(folder: Path, name: str = "tiny", **changes: object) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, **changes}))
    return str(path)


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_a_shipped_recipe_is_valid_with_all_its_variants(name: str) -> None:
    config = load(name, ["ingest.raw=somewhere"])
    assert config.name
    assert config.evaluate.baseline in config.evaluate.variants


def test_overrides_are_yaml_and_win_over_the_recipe(tmp_path: Path) -> None:
    changes = ["train.global_batch=256", "quantize.hidden_dims=[8, 4]", "embed={sources: [vector_a, text]}", "workdir=/a b=c"]
    config = load(recipe(tmp_path, train={"global_batch": 512, "log_every": 7}), changes)
    assert (config.train.global_batch, config.train.log_every) == (256, 7)
    assert config.quantize.hidden_dims == (8, 4)
    assert config.sid_sources == ("vector_a", "text")
    assert with_overrides(config, {"train.store": "store_shuffled"}).sid_sources == ("vector_a-shuffled", "text-shuffled")
    assert config.workdir == Path("/a b=c")


def test_a_recipe_extends_another_key_by_key_but_replaces_the_representations(tmp_path: Path) -> None:
    tables = {"sid": {"kind": "semantic_id", "rows": 7}}
    variants = {"random_hash": {"train.seed": 1, "model.representations": tables}}
    parent = recipe(tmp_path, "parent", train={"global_batch": 512, "log_every": 7}, evaluate={"variants": variants})
    child = tmp_path / "child.yaml"
    hashed = {"rh": {"kind": "random_hash", "rows": 5}}
    variants = {"random_hash": {"model.representations": hashed}}
    changes = {
        "extends": parent, "train": {"log_every": 9}, "model": {"representations": hashed}, "evaluate": {"variants": variants}
    }  # fmt: skip
    child.write_text(yaml.safe_dump(changes))
    config = load(str(child))
    assert (config.name, config.train.global_batch, config.train.log_every) == ("tiny", 512, 9)
    assert list(config.model.representations) == ["rh"]
    assert config.evaluate.variants["random_hash"]["train.seed"] == 1
    assert list(config.evaluate.variants["random_hash"]["model.representations"]) == ["rh"]


def test_with_overrides_changes_a_copy(tmp_path: Path) -> None:
    config = load(recipe(tmp_path))
    assert with_overrides(config, {"train.seed": 3}).train.seed == 3
    assert config.train.seed == 0
    assert with_overrides(config, {}) == config


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.globalbatch=4", "'train.globalbatch': unknown key; did you mean 'train.global_batch'?"),
        ("global_batch=4", "'global_batch': unknown key; did you mean 'train.global_batch'?"),
        ("trian.global_batch=4", "'trian': unknown key; did you mean 'train'?"),
        (
            "model.representations.sid.dept=4",
            "'model.representations.sid.dept': unknown key; did you mean 'model.representations.sid.depth'?",
        ),
        ("zzzzz=1", "'zzzzz': unknown key"),
        ("train.global_batch=many", "'train.global_batch': Input should be a valid integer"),
        ("train.global_batch=0", "'train.global_batch': Input should be greater than 0"),
        ("ingest.source=ifbd", "'ingest.source': Input should be 'simulated', 'ifdb'"),
        ("embed=3", "'embed': Input should be"),
        ("embed.source=vector", "'embed.source': unknown key; did you mean 'embed.sources'?"),
        ("embed.sources=[text, text]", "a source is named twice in text, text"),
        ("embed.sources=[../text]", "'embed.sources.0': String should match pattern"),
        ("name.first=x", "'name.first': 'name' has no keys below it"),
        ("train.global_batch", "--set train.global_batch: expected KEY=VALUE"),
        ("train.global_batch=[1", "--set train.global_batch=[1: the value is not YAML"),
        ("ranks=3", "train.global_batch 1024 is not a multiple of ranks 3"),
        ("model.representations.own={kind: individual, rows: 5}", "individual takes no 'rows'"),
        ("evaluate.variants={a: {train.sed: 1}}", "evaluate.variants.a: 'train.sed': unknown key; did you mean 'train.seed'?"),
    ],
)
def test_a_wrong_override_is_told_in_one_line(tmp_path: Path, override: str, told: str) -> None:
    with pytest.raises(InputError) as error:
        load(recipe(tmp_path), [override])
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("name: x\nworkdir: y\ningest: {source: simulated}\n")
    with pytest.raises(InputError, match=r"empty.yaml: 'model': Field required"):
        load(str(path))


@pytest.mark.parametrize("content", [b"a: [1", b"\xff\xfe\xfd", b"a: b: c\n"])
def test_a_file_that_is_no_yaml_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"bad.yaml: not YAML") as error:
        load(str(path))
    assert "\n" not in str(error.value)


def test_a_recipe_that_is_no_mapping_is_named(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n")
    with pytest.raises(InputError, match=r"list.yaml: a recipe is a mapping"):
        load(str(path))


def test_recipes_that_extend_each_other_are_named(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(f"extends: {two}")
    two.write_text(f"extends: {one}")
    with pytest.raises(InputError, match="'extends' leads back to it"):
        load(str(one))


def test_an_unknown_recipe_names_its_nearest_neighbour() -> None:
    with pytest.raises(InputError, match=r"recipe 'simulatd' is neither a file nor one of .*did you mean 'simulated'"):
        load("simulatd")


@pytest.mark.parametrize("command", [["-m", "pipeline.train"], ["-m", "pipeline.cli", "train"]])
def test_a_user_error_is_one_line_and_exit_code_2(command: list[str]) -> None:
    result = subprocess.run([sys.executable, *command, "nonexist"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("semid train: recipe 'nonexist' is neither a file nor one of ")
