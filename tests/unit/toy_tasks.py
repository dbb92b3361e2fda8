"""Tasks and a probe for tests of what hands them out to processes; imported there by name."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from features.errors import InputError

if TYPE_CHECKING:
    from pipeline.trainer import Trainer


class Awkward(Exception):
    """One that pickle cannot bring back."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and\n{two}")


@dataclass(frozen=True)
class Toy:
    """Writes its process's id into a file of its name, and then does what it is to do.

    Attributes:
        does: nothing, waits for ever, fails for the user's or for our own fault, or is killed.
    """

    title: str
    folder: Path
    does: str = "nothing"
    cost: float = 1.0

    def is_done(self) -> bool:
        return (self.folder / self.title).exists()

    def perform(self) -> None:
        (self.folder / f".{self.title}").write_text(str(os.getpid()))
        (self.folder / f".{self.title}").rename(self.folder / self.title)  # with the number in it
        with (self.folder / ".order").open("a") as file:
            file.write(f"{self.title}\n")
        if self.does == "wait":
            time.sleep(10_000)
        if self.does in ("fail", "break"):
            while not (self.folder / "waiting").exists():  # so that another one is at work when this one fails
                time.sleep(0.01)
        if self.does == "fail":
            raise InputError("file.csv: row 3 has no date")
        if self.does == "break":
            raise Awkward(1, 2)
        if self.does == "die":
            os.kill(os.getpid(), signal.SIGKILL)


def probe_held(trainer: "Trainer") -> dict[str, NDArray[np.float32]]:
    """The first rows' logits, once no file says that it is to wait; it leaves one itself to say that it is there."""
    held = trainer.config.workdir / "hold"
    if held.exists():
        (trainer.config.workdir / f"held-{trainer.config.train.seed}").touch()
    while held.exists():
        time.sleep(0.01)
    return {"logits": trainer.score(0, 100, trained_on=True)[:, 0], "step": np.array([trainer.step])}
