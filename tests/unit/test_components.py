"""The TorchX components: what they run, that their help is complete, and that TorchX itself finds them."""

import inspect
import shlex
import subprocess
import sys
from collections.abc import Callable

import pytest
from torchx.specs import AppDef
from torchx.specs.file_linter import get_fn_docstring
from torchx.specs.finder import get_component

from launch import components
from launch.chain import ROOT
from pipeline.stage import STAGES

DISTRIBUTED = [stage.name for stage in STAGES.values() if stage.distributed]
SINGLE = [stage.name for stage in STAGES.values() if not stage.distributed]


def component(stage: str) -> Callable[..., AppDef]:
    function: Callable[..., AppDef] = getattr(components, stage)
    return function


def torchrun_arguments(app: AppDef) -> list[str]:
    (role,) = app.roles
    assert (role.entrypoint, role.args[0]) == ("bash", "-c")
    return shlex.split(role.args[1])


@pytest.mark.parametrize("stage", SINGLE)
def test_a_single_stage_runs_its_module(stage: str) -> None:
    app = component(stage)("a.b=1", "c=[2,3]", recipe="simulated", python="/py", env={"TZ": "UTC"}, memMB=7)
    (role,) = app.roles
    assert (app.name, role.name, role.entrypoint, role.num_replicas) == (stage, stage, "/py", 1)
    assert role.args == ["-m", f"pipeline.{stage}", "simulated", "--set", "a.b=1", "--set", "c=[2,3]"]
    assert role.env == {**components.PROCESS_ENV, "TZ": "UTC"}
    assert role.resource.memMB == 7


@pytest.mark.parametrize("stage", DISTRIBUTED)
def test_a_distributed_stage_runs_under_torchrun(stage: str) -> None:
    app = component(stage)("a.b=x y", recipe="my recipe.yaml", python="/p y", j="1x4", max_restarts=3, max_retries=2, gpu=4)
    words = torchrun_arguments(app)
    assert words[:4] == ["exec", "/p y", "-m", "torch.distributed.run"]
    assert words[-5:] == ["-m", f"pipeline.{stage}", "my recipe.yaml", "--set", "a.b=x y"]
    assert {"--nnodes=1", "--nproc-per-node=4", "--max-restarts=3", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"} < set(words)
    (role,) = app.roles
    assert (role.env["OMP_NUM_THREADS"], role.env["OMP_WAIT_POLICY"]) == ("1", "passive")
    assert 10 < int(role.env["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) < 30, "time to save, before schedulers lose patience"
    assert (role.resource.gpu, role.max_retries) == (4, 2)


def test_several_nodes_meet_at_the_first() -> None:
    app = components.train(recipe="r", j="2:3x8", rdzv_port=1234, env={"OMP_NUM_THREADS": "4"})
    words = torchrun_arguments(app)
    assert "--rdzv-endpoint=$${${rank0_env}:=localhost}:1234" in words
    assert {"--nnodes=2:3", "--nproc-per-node=8"} < set(words)
    (role,) = app.roles
    assert (role.min_replicas, role.num_replicas, role.port_map) == (2, 3, {"c10d": 1234})
    assert role.env["OMP_NUM_THREADS"] == "4"


@pytest.mark.parametrize("stage", STAGES)
def test_the_help_documents_every_argument(stage: str) -> None:
    summary, arguments = get_fn_docstring(component(stage))
    parameters = inspect.signature(component(stage)).parameters
    assert set(parameters) == set(arguments)
    assert all(text.strip() for text in arguments.values())
    assert not summary.startswith(stage), "TorchX's own hint stands where the description is missing"


@pytest.mark.parametrize("stage", STAGES)
def test_torchx_validates_the_component(stage: str) -> None:
    assert get_component(f"{ROOT}/launch/components.py:{stage}").validation_errors == []


def test_the_torchx_command_resolves_a_component_and_its_arguments() -> None:
    words = [
        "run",
        "--dryrun",
        "-s",
        "local_cwd",
        "launch/components.py:train",
        "--recipe",
        "simulated",
        "-j",
        "1x3",
        "--max_restarts",
        "2",
    ]
    words += ["--env", "A=1,B=2", "quantize.hidden_dims=[256,128]", "workdir=a$b"]
    main = "import sys; from torchx.cli.main import main; main(sys.argv[1:])"
    result = subprocess.run([sys.executable, "-c", main, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    request = "".join(line.strip().strip("'").strip('"') for line in result.stdout.partition("SCHEDULER REQUEST")[2].splitlines())
    request = " ".join(request.replace("'", " ").replace('"', " ").split())
    assert "--nproc-per-node=3 --max-restarts=2" in request
    assert "-m pipeline.train simulated --set quantize.hidden_dims=[256,128]" in request
    assert "workdir=a$b" in request
    assert "A : 1" in request.replace("'", "")
