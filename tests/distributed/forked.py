"""`python -m tests.distributed.forked WORLD MODULE ARGUMENTS..`: ranks of one program, forked once the libraries are imported."""

import importlib
import runpy
import sys

from tests.soak.jobs import Begun, Job


def main(world: int, module: str, arguments: list[str]) -> int:
    """Run `python -m module arguments` as so many gloo ranks; 0 if all of them end well."""
    importlib.import_module(module)

    def rank(begun: Begun) -> None:
        sys.argv = [module, *arguments]
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            if end.code:
                raise
        sys.stdout.flush()

    return int(any(Job(world, rank).wait()))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
