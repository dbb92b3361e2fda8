"""One TorchX component per stage, e.g. `torchx run -s local_cwd launch/components.py:train --recipe simulated -j 1x2`.

TorchX executes this file inside a module of its own: no relative imports, and typing's Optional, List and Dict for arguments.
"""

import shlex
from typing import Callable, Dict, List, Optional, TypeVar

from torchx import specs
from torchx.components.dist import parse_nnodes
from torchx.specs import macros

IMAGE = "semid:latest"
PROCESS_ENV = {
    "OMP_WAIT_POLICY": "passive",  # spinning threads slow processes that share cores sevenfold
    # Every step allocates the same buffers: glibc, left to itself, gives them back to the kernel and faults them in again.
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
}
TORCHRUN_ENV = {
    "OMP_NUM_THREADS": "1",
    # Slurm and Kubernetes kill a job 30 s after its SIGTERM: the ranks get 25 s of that to save, torchrun the rest to end.
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "25",
    # Else restarted ranks meet in the store of those that died, and may find the addresses that these left there.
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
}
Env = Optional[Dict[str, str]]
Component = TypeVar("Component", bound=Callable[..., specs.AppDef])

_ARGUMENTS = """
Args:
    overrides: keys of the recipe to override, KEY=VALUE each, given last, e.g. train.global_batch=2048
    recipe: a name in pipeline/recipes, or the path of a YAML file that the job can read
    image: container image, or what stands for one with the chosen scheduler; local_cwd ignores it
    python: the Python interpreter inside the image
    cpu: CPU cores per node
    memMB: main memory per node, in MB
    env: environment variables, e.g. LOGLEVEL=INFO,TZ=UTC
"""
_DISTRIBUTED_ARGUMENTS = """    gpu: GPUs per node
    j: nodes and ranks per node as {nodes}x{ranks}, or {min}:{max}x{ranks} where the scheduler is elastic
    max_restarts: how often torchrun restarts all ranks, which resume from the newest checkpoint, after one has failed
    max_retries: how often the scheduler starts the job again, which resumes likewise, after it has failed or lost its place
    rdzv_port: port on the first node through which several nodes find each other; a single node takes a free one
"""


def _documented(arguments: str) -> Callable[[Component], Component]:
    """Append the arguments that components share to their docstrings, which TorchX prints as their help."""

    def append(component: Component) -> Component:
        component.__doc__ = f"{component.__doc__}\n{arguments}"
        return component

    return append


def _stage_arguments(stage: str, recipe: str, overrides: List[str]) -> List[str]:
    settings = [part for override in overrides for part in ("--set", override)]
    return [text.replace("$", "$$") for text in ("-m", f"pipeline.{stage}", recipe, *settings)]  # $ would open a TorchX macro


def _single(stage: str, overrides: List[str], recipe: str, image: str, python: str, cpu: int, memMB: int, env: Env) -> specs.AppDef:
    """A stage of one process."""
    role = specs.Role(
        name=stage,
        image=image,
        entrypoint=python,
        args=_stage_arguments(stage, recipe, overrides),
        env={**PROCESS_ENV, **(env or {})},
        resource=specs.resource(cpu=cpu, memMB=memMB),
    )
    return specs.AppDef(name=stage, roles=[role])


def _distributed(
    stage: str,
    overrides: List[str],
    recipe: str,
    image: str,
    python: str,
    cpu: int,
    memMB: int,
    env: Env,
    gpu: int,
    j: str,
    max_restarts: int,
    max_retries: int,
    rdzv_port: int,
) -> specs.AppDef:
    """A stage of several ranks under torchrun, whose agent shows the first rank of each node and keeps the logs of all."""
    min_nodes, max_nodes, ranks, nodes = parse_nnodes(j)
    # Schedulers name the first node in an environment variable, which the shell fills in; $$ is TorchX's way to write $.
    first_node = "localhost:0 --local-addr=localhost" if max_nodes == 1 else f"$${{{macros.rank0_env}:=localhost}}:{rdzv_port}"
    torchrun = (
        f"exec {shlex.quote(python)} -m torch.distributed.run --nnodes={nodes} --nproc-per-node={ranks} --max-restarts={max_restarts}"
        f" --rdzv-backend=c10d --rdzv-id={macros.app_id} --rdzv-endpoint={first_node} --role={stage} --tee=3 --local-ranks-filter=0 "
    )
    role = specs.Role(
        name=stage,
        image=image,
        min_replicas=min_nodes,
        num_replicas=max_nodes,
        entrypoint="bash",
        args=["-c", torchrun + shlex.join(_stage_arguments(stage, recipe, overrides))],
        env={**PROCESS_ENV, **TORCHRUN_ENV, **(env or {})},
        max_retries=max_retries,
        resource=specs.resource(cpu=cpu, gpu=gpu, memMB=memMB),
        port_map={"c10d": rdzv_port},
    )
    return specs.AppDef(name=stage, roles=[role])


@_documented(_ARGUMENTS)
def ingest(
    *overrides: str, recipe: str, image: str = IMAGE, python: str = "python", cpu: int = 2, memMB: int = 4096, env: Env = None
) -> specs.AppDef:
    """Raw files as published to canonical Parquet."""
    return _single("ingest", list(overrides), recipe, image, python, cpu, memMB, env)


@_documented(_ARGUMENTS)
def simulate(
    *overrides: str, recipe: str, image: str = IMAGE, python: str = "python", cpu: int = 2, memMB: int = 4096, env: Env = None
) -> specs.AppDef:
    """The simulated world as canonical Parquet."""
    return _single("simulate", list(overrides), recipe, image, python, cpu, memMB, env)


@_documented(_ARGUMENTS)
def embed(
    *overrides: str, recipe: str, image: str = IMAGE, python: str = "python", cpu: int = 2, memMB: int = 4096, env: Env = None
) -> specs.AppDef:
    """Item text or given vectors to content embeddings."""
    return _single("embed", list(overrides), recipe, image, python, cpu, memMB, env)


@_documented(_ARGUMENTS + _DISTRIBUTED_ARGUMENTS)
def quantize(
    *overrides: str,
    recipe: str,
    image: str = IMAGE,
    python: str = "python",
    cpu: int = 2,
    memMB: int = 4096,
    env: Env = None,
    gpu: int = 0,
    j: str = "1x1",
    max_restarts: int = 0,
    max_retries: int = 0,
    rdzv_port: int = 29500,
) -> specs.AppDef:
    """Train a quantizer on content embeddings, on all ranks; few items are faster on one."""
    return _distributed("quantize", list(overrides), recipe, image, python, cpu, memMB, env, gpu, j, max_restarts, max_retries, rdzv_port)


@_documented(_ARGUMENTS)
def assign(
    *overrides: str, recipe: str, image: str = IMAGE, python: str = "python", cpu: int = 2, memMB: int = 4096, env: Env = None
) -> specs.AppDef:
    """Semantic IDs of all items into the entity store."""
    return _single("assign", list(overrides), recipe, image, python, cpu, memMB, env)


@_documented(_ARGUMENTS)
def enrich(
    *overrides: str, recipe: str, image: str = IMAGE, python: str = "python", cpu: int = 2, memMB: int = 4096, env: Env = None
) -> specs.AppDef:
    """Impressions and entity store to Parquet with codes."""
    return _single("enrich", list(overrides), recipe, image, python, cpu, memMB, env)


@_documented(_ARGUMENTS + _DISTRIBUTED_ARGUMENTS)
def train(
    *overrides: str,
    recipe: str,
    image: str = IMAGE,
    python: str = "python",
    cpu: int = 2,
    memMB: int = 8192,
    env: Env = None,
    gpu: int = 0,
    j: str = "1x2",
    max_restarts: int = 0,
    max_retries: int = 0,
    rdzv_port: int = 29500,
) -> specs.AppDef:
    """Train the ranker on all ranks."""
    return _distributed("train", list(overrides), recipe, image, python, cpu, memMB, env, gpu, j, max_restarts, max_retries, rdzv_port)


@_documented(_ARGUMENTS + _DISTRIBUTED_ARGUMENTS)
def evaluate(
    *overrides: str,
    recipe: str,
    image: str = IMAGE,
    python: str = "python",
    cpu: int = 2,
    memMB: int = 8192,
    env: Env = None,
    gpu: int = 0,
    j: str = "1x2",
    max_restarts: int = 0,
    max_retries: int = 0,
    rdzv_port: int = 29500,
) -> specs.AppDef:
    """Compare the representations after training and as a stream, on all ranks."""
    return _distributed("evaluate", list(overrides), recipe, image, python, cpu, memMB, env, gpu, j, max_restarts, max_retries, rdzv_port)


@_documented(_ARGUMENTS)
def report(
    *overrides: str, recipe: str, image: str = IMAGE, python: str = "python", cpu: int = 1, memMB: int = 2048, env: Env = None
) -> specs.AppDef:
    """One HTML file with the tables and plots."""
    return _single("report", list(overrides), recipe, image, python, cpu, memMB, env)
