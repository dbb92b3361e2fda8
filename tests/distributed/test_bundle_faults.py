"""A bundle of which a byte is wrong is refused by the name of the file; what was put there to be run is not run."""

import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

from features.entity_store import EntityStore
from features.errors import InputError
from features.semantic_id import UNKNOWN_CODE, SidContract
from features.store.publish import publish
from features.store.versions import open_snapshot
from pipeline.cli import main
from pipeline.serve.bundle import MANIFEST, PROGRAM, open_bundle
from pipeline.serve.request import RankRequest, RequestRows
from pipeline.serve.scorer import Scorer
from tests.exporting import CASES, LENGTH, copied, described, exported, signed, trained

FILES = (
    "bundle.json",
    "manifest.json",
    "dense.safetensors",
    "dense_ids.safetensors",
    "tables/pieces.safetensors",
    "tables/own.safetensors",
    "tables/context_country.safetensors",
    "pieces/pieces/pieces.model",
    "pieces/pieces/meta.json",
    "program.pt2",
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    trained(folder, 3600, {"pieces": CASES["pieces"]})
    exported(folder / "export" / "pieces", folder / "bundle")
    return folder


@pytest.fixture(scope="module")
def run(workdir: Path) -> Path:
    return workdir / "export" / "pieces"


@pytest.fixture
def bundle(workdir: Path, tmp_path: Path) -> Path:
    return copied(workdir / "bundle", tmp_path / "bundle")


class Malice:
    """Makes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.trace),)


def refused(bundle: Path, name: str, *told: str) -> None:
    with pytest.raises(InputError) as refusal:
        open_bundle(bundle)
    assert str(bundle / name) in str(refusal.value), refusal.value
    assert "\n" not in str(refusal.value)
    for words in told:
        assert words in str(refusal.value)


def test_these_are_all_the_files(workdir: Path) -> None:
    assert {file.relative_to(workdir / "bundle").as_posix() for file in (workdir / "bundle").rglob("*") if file.is_file()} == {*FILES}
    open_bundle(workdir / "bundle")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("fault", ["flipped", "cut", "emptied", "longer", "missing", "pickle"])
def test_a_damaged_file_is_refused_by_name(bundle: Path, tmp_path: Path, name: str, fault: str) -> None:
    file = bundle / name
    data = file.read_bytes()
    if fault == "flipped":
        for place in np.linspace(0, len(data) - 1, 12).astype(int):
            if name != MANIFEST or not data[place : place + 1].isspace():  # a blank may stand anywhere in JSON
                file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
                refused(bundle, name)
        return
    if fault == "missing":
        file.unlink()
    else:
        changed = {"cut": data[:-1], "emptied": b"", "longer": data + b"x", "pickle": pickle.dumps(Malice(tmp_path / "run"))}
        file.write_bytes(changed[fault])
    refused(bundle, name)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [name for name in FILES if name not in (MANIFEST, PROGRAM)])
def test_a_pickle_is_not_run_though_the_manifest_names_it(bundle: Path, tmp_path: Path, name: str) -> None:
    with (bundle / name).open("wb") as file:
        torch.save(Malice(tmp_path / "run"), file)
    signed(bundle)
    refused(bundle, name)
    assert not (tmp_path / "run").exists()
    with (bundle / name).open("rb") as file:
        torch.load(file, weights_only=False)
    assert (tmp_path / "run").exists(), "the control: it was a pickle that runs"


def test_the_program_is_never_loaded(bundle: Path, tmp_path: Path) -> None:
    (bundle / PROGRAM).write_bytes(pickle.dumps(Malice(tmp_path / "run")))
    open_bundle(signed(bundle))
    assert not (tmp_path / "run").exists()


def rewritten(file: Path, **changes: torch.Tensor | None) -> None:
    """Other tensors in a safetensors file; None takes one out."""
    found = {**load_file(file), **changes}
    save_file({name: tensor for name, tensor in found.items() if tensor is not None}, file)


def test_tensors_that_are_not_the_models_are_refused(bundle: Path) -> None:
    table = bundle / "tables" / "own.safetensors"
    weight = load_file(table)["weight"].clone()
    for wrong, told in (
        (weight[1:].clone(), f"weight is float32[{len(weight) - 1}, 8], expected float32[{len(weight)}, 8]"),
        (weight.double(), "weight is float64"),
        (weight.T.contiguous(), f"weight is float32[8, {len(weight)}]"),
    ):
        rewritten(table, weight=wrong)
        refused(signed(bundle), "tables/own.safetensors", told)
    rewritten(table, weight=weight, other=weight.clone())
    refused(signed(bundle), "tables/own.safetensors", "has tensors other, weight, expected weight")
    rewritten(table, other=None)
    name = "over_arch.model.1.bias"
    rewritten(bundle / "dense.safetensors", **{name: None})
    refused(signed(bundle), "dense.safetensors", "has tensors ", "expected ")
    rewritten(bundle / "dense.safetensors", **{name: torch.zeros(2)})
    refused(signed(bundle), "dense.safetensors", f"{name} is float32[2], expected float32[1]")


def test_a_description_that_does_not_fit_is_refused(workdir: Path, bundle: Path) -> None:
    told = json.loads((bundle / "bundle.json").read_text())
    own = next(r for r in told["representations"] if r["name"] == "own")
    for changes, words in (
        ({"format": 2}, "is of format 2, and this version of semid reads format 1"),
        ({"format": None}, "is of format None"),
        ({"novelty": 1}, "novelty: Extra inputs are not permitted"),
        ({"items": told["items"] + 1}, f"table 'own' has {told['items']} rows, and there are {told['items'] + 1} items"),
        ({"items": None}, "table 'own' has"),
        ({"sid_contracts": {}}, "table 'pieces' is of source 'text', which has no contract or no keys"),
        ({"representations": [own]}, "make BatchSchema"),
        ({"inputs": {**told["inputs"], "context_other": "int64"}}, "make BatchSchema"),
        ({"inputs": {**told["inputs"], "item_id": "string"}}, "column 'item_id' is string"),
        ({"batch": {**told["batch"], "context_tables": {"../../x": 5}}}, "'../../x' cannot be a table's name in a bundle"),
        ({"tables": "int4"}, "tables: "),
    ):
        refused(described(copied(workdir / "bundle", bundle), **changes), "bundle.json", words)
    refused(described(copied(workdir / "bundle", bundle), tables="int8"), "tables/pieces.safetensors", "expected uint8")
    (bundle / "bundle.json").write_text("[1]")
    refused(signed(bundle), "bundle.json", "is of format None")


def test_a_manifest_that_leaves_out_or_leads_out_is_refused(workdir: Path, bundle: Path) -> None:
    (bundle / "dense_ids.safetensors").unlink()
    refused(signed(bundle), "dense_ids.safetensors", "missing in manifest.json")
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["files"]["../outside"] = {"bytes": 1, "sha256": ""}
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest["files"], sort_keys=True).encode()).hexdigest()
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    refused(bundle, MANIFEST, "names ../outside, which lies outside the bundle")


def test_a_vocabulary_of_nonsense_is_refused(bundle: Path) -> None:
    model, meta = (bundle / "pieces" / "pieces" / name for name in ("pieces.model", "meta.json"))
    model.write_bytes(b"nonsense" * 100)
    refused(signed(bundle), "pieces/pieces/pieces.model", "sha256 differs")
    digest = json.loads((bundle / MANIFEST).read_text())["files"]["pieces/pieces/pieces.model"]["sha256"]
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "sha256": digest}))
    refused(signed(bundle), "pieces/pieces/pieces.model", "not a SentencePiece model")


def test_without_verification_sizes_shapes_and_the_description_are_still_checked(bundle: Path) -> None:
    file = bundle / "tables" / "own.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    open_bundle(bundle, verify=False)
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(InputError, match=r"own\.safetensors: has"):
        open_bundle(bundle, verify=False)


def test_a_store_of_other_semantic_ids_is_refused(workdir: Path, tmp_path: Path) -> None:
    bundle = open_bundle(workdir / "bundle")
    before = open_snapshot(workdir / "store")
    path = Path(shutil.copytree(workdir / "store", tmp_path / "store"))
    scorer = Scorer(bundle, EntityStore(path))
    now = 1_700_000_000 * 10**6
    request = RankRequest(now, [1, 2], dense={"dense_past_count": 1, "dense_age_hours": 1}, context={"context_country": 1})
    rows = RequestRows(bundle.inputs, LENGTH).rows(request)
    assert len(scorer.score(rows).known_N) == 2
    contracts = [
        SidContract(**{**contract.to_json(), "codebook_hash": "refreshed", "generation": 2}) for contract in before.contracts.values()
    ]
    (one, *_) = np.flatnonzero(before.codes["text"][:, 0] != UNKNOWN_CODE)
    publish(path, [(before.ids[[one]], {"text": before.codes["text"][[one]]})], contracts)
    for attempt in (lambda: scorer.score(rows), lambda: Scorer(bundle, EntityStore(path))):
        with pytest.raises(InputError, match=r"codebook_hash is 'toy' in .*bundle but 'refreshed' in the entity store"):
            attempt()


def test_rows_that_are_not_the_models_are_refused(workdir: Path) -> None:
    bundle = open_bundle(workdir / "bundle")
    scorer = Scorer(bundle, open_snapshot(workdir / "store"))
    request = RankRequest(10**15, [1, 2], [3], [5], dense={"dense_past_count": 1, "dense_age_hours": 1}, context={"context_country": 1})
    rows = RequestRows(bundle.inputs, LENGTH).rows(request)
    for name, column, told in (
        ("dense_age_hours", pa.array([1.0, 2.0]), "column 'dense_age_hours' is double, expected float"),
        ("dense_age_hours", pa.array([1.0, None], pa.float32()), "column 'dense_age_hours' has a null"),
        ("item_id", pa.array([1, None]), "column 'item_id' has a null"),
        (
            "history_timestamps",
            pa.array([[None], []], rows.schema.field("history_timestamps").type),
            "column 'history_timestamps' has a null",
        ),
    ):
        place = rows.schema.get_field_index(name)
        with pytest.raises(InputError, match=told):
            scorer.score(rows.set_column(place, pa.field(name, column.type), column))
    with pytest.raises(InputError, match=r"column 'item_id' .* is missing"):
        scorer.score(rows.select([name for name in rows.schema.names if name != "item_id"]))


def test_export_refuses_in_one_line_and_leaves_nothing(
    run: Path, workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(source: Path, target: Path) -> str:
        assert main(["export", str(source), str(target)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    assert "is there already, and a bundle is never changed" in told(run, workdir / "bundle")
    assert "semid export" in told(tmp_path, tmp_path / "b")
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    (data,) = copy.glob("*/checkpoints/*/__1_0.distcp")
    data.write_bytes(data.read_bytes()[:-1] + b"x")
    assert f"{data}: missing, or its sha256 differs" in told(copy, tmp_path / "b")
    (config,) = copy.glob("*/config.json")
    settings = json.loads(config.read_text())
    config.write_text(json.dumps({**settings, "model": {**settings["model"], "context_rows": 77}}))
    assert "model is {" in told(copy, tmp_path / "b")
    config.unlink()
    assert f"{config}: not the configuration of a run" in told(copy, tmp_path / "b")
    (tmp_path / "file").touch()
    assert "cannot be made" in told(run, tmp_path / "file" / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "file"]
