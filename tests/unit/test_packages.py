"""The packages' whereabouts and weight: found in this repository, importable alone, and as light as the design says."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import features
from launch.chain import ROOT

HEAVY = {"features.batch", "features.kjt", "features.content"}  # where the design allows torch
ENGINES = {"features.engines.ray_data", "features.engines.spark"}  # each needs its own
FEATURES = sorted(module.name for module in pkgutil.walk_packages(features.__path__, "features.") if module.name not in HEAVY | ENGINES)

REFUSING = """
import importlib, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ImportError(f"{name} must not be needed")

sys.meta_path.insert(0, Refuse())
for module in sys.argv[2].split(","):
    importlib.import_module(module)
"""


def import_refusing(refused: str, modules: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", REFUSING, refused, ",".join(modules)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("package", ["features", "models", "pipeline", "launch"])
def test_a_package_lies_in_the_repository(package: str) -> None:
    file = importlib.import_module(package).__file__
    assert file is not None
    assert Path(file).resolve() == Path(__file__).resolve().parents[2] / package / "__init__.py"


def test_features_needs_pyarrow_and_numpy_alone() -> None:
    assert {"features.dataset", "features.enrich", "features.prefix_ngram", "features.reader", "features.schema"} <= set(FEATURES)
    result = import_refusing("torch,torchrec,fbgemm_gpu,pydantic,yaml,sentence_transformers,torchx,rich,models,pipeline,launch", FEATURES)
    assert result.returncode == 0, result.stderr


def test_the_refusal_works() -> None:
    assert "torch must not be needed" in import_refusing("torch", ["features.kjt"]).stderr


def test_the_command_line_starts_and_explores_without_torch() -> None:
    result = import_refusing(
        "torch,torchrec,fbgemm_gpu", ["pipeline.cli", "pipeline.demo", "pipeline.doctor", "pipeline.config", "pipeline.explore"]
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("file", sorted((ROOT / "launch").glob("*.py")), ids=lambda file: file.name)
def test_launch_imports_torchx_and_the_standard_library_alone(file: Path) -> None:
    tree = ast.parse(file.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= {"torchx", "launch"} | set(sys.stdlib_module_names)


@pytest.mark.parametrize("file", sorted((ROOT / "features").rglob("*.py")), ids=lambda file: file.name)
def test_every_file_says_what_it_is_for(file: Path) -> None:
    assert ast.get_docstring(ast.parse(file.read_text()))
