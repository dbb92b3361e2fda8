"""`semid doctor` in processes of its own: on this environment, and on environments that are broken on purpose."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.doctor import ROOT, TESTED


def doctor(
    *, path: Path | None = None, programs: Path | None = None, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    folders = [str(folder) for folder in (path, ROOT) if folder is not None]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"} | (environment or {})
    if programs is not None:
        variables["PATH"] = f"{programs}{os.pathsep}{variables['PATH']}"
    return subprocess.run([sys.executable, "-m", "pipeline.cli", "doctor"], env=variables, capture_output=True, text=True, check=False)


def distribution(folder: Path, name: str, version: str) -> None:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n")


def unimportable_torch(folder: Path) -> None:
    """Spare a test that is about something else the seconds of the real import."""
    (folder / "torch.py").write_text("raise ImportError('not in this test')")


def line(output: str, name: str) -> str:
    return next(line for line in output.splitlines() if line[4:].startswith(f"{name} "))


def test_this_environment_fits() -> None:
    result = doctor()
    assert result.returncode == 0, result.stdout + result.stderr
    assert line(result.stdout, "torch").split() == ["ok", "torch", TESTED[0]["torch"]]
    assert "runs, and updates its rows" in line(result.stdout, "embedding lookup")
    assert "CPU cores; GPU:" in line(result.stdout, "devices")
    assert line(result.stdout, "scheduler local_cwd").endswith("ready")
    assert "To mend it" not in result.stdout


def test_another_version_of_torchrec_is_named_with_the_command_that_mends_it(tmp_path: Path) -> None:
    distribution(tmp_path, "torchrec", "1.4.0")
    unimportable_torch(tmp_path)
    result = doctor(path=tmp_path)
    assert result.returncode == 1
    assert line(result.stdout, "torchrec") == "!!  torchrec               1.4.0; 1.8.0 was tested with torch 2.13.0"
    mend = result.stdout.splitlines()[-1]
    assert mend.startswith(
        f"To mend it: {sys.executable} -m pip uninstall -y fbgemm-gpu fbgemm-gpu-cpu && {sys.executable} -m pip install "
    )
    assert mend.endswith("torch==2.13.0 torchrec==1.8.0 torchx==0.7.0")
    assert result.stdout.count("To mend it") == 1


def test_an_fbgemm_for_another_torch_is_reported_as_its_import_fails(tmp_path: Path) -> None:
    distribution(tmp_path, "fbgemm_gpu_cpu", "1.6.0")
    (tmp_path / "fbgemm_gpu").mkdir()
    (tmp_path / "fbgemm_gpu" / "__init__.py").write_text("raise OSError('fbgemm_gpu_py.so: undefined symbol: _ZN5torch7Library4_defE')")
    result = doctor(path=tmp_path)
    assert result.returncode == 1
    assert "undefined symbol" in line(result.stdout, "embedding lookup")
    assert line(result.stdout, "fbgemm").startswith("!!  fbgemm                 1.6.0; 1.8.0 was tested")
    assert result.stderr == ""


def test_a_library_that_kills_the_process_does_not_kill_the_doctor(tmp_path: Path) -> None:
    (tmp_path / "fbgemm_gpu").mkdir()
    (tmp_path / "fbgemm_gpu" / "__init__.py").write_text("import os; os.kill(os.getpid(), 11)")
    result = doctor(path=tmp_path)
    assert result.returncode == 1
    assert "died with exit code -11" in line(result.stdout, "embedding lookup")


def test_the_other_tested_column_fits_too(tmp_path: Path) -> None:
    for name, version in (("torch", "2.11.0+cu130"), ("fbgemm_gpu_cpu", "1.6.0"), ("torchrec", "1.6.1")):
        distribution(tmp_path, name, version)
    unimportable_torch(tmp_path)
    result = doctor(path=tmp_path)
    assert [line(result.stdout, name).split()[0] for name in ("torch", "fbgemm", "torchrec", "torchx")] == ["ok"] * 4


@pytest.mark.parametrize(("program", "finding", "expected"), [("sbatch", "scheduler slurm", "ready"), ("nvidia-smi", "torchrec", "1.4.0")])
def test_programs_on_the_path_are_seen(tmp_path: Path, program: str, finding: str, expected: str) -> None:
    (tmp_path / program).write_text("#!/bin/sh\n")
    (tmp_path / program).chmod(0o755)
    distribution(tmp_path / "site", "torchrec", "1.4.0")
    unimportable_torch(tmp_path / "site")
    result = doctor(path=tmp_path / "site", programs=tmp_path)
    assert expected in line(result.stdout, finding)
    assert ("pip install fbgemm-gpu==1.8.0" in result.stdout) == (program == "nvidia-smi")
