"""Checkpoints that are either whole or not there, and random states that come back exactly."""

import hashlib
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctr_pipeline.training.job_spec import TrainingError

CHECKPOINTS = 20
"""Checkpoints of a run whose job does not say how many: what a killed process loses is a twentieth of the work."""

MOST_STEPS = 1000
"""Most steps between two of them."""

SHARE_OF_TIME = 0.05
"""Of the time of a run, checkpoints between the ends of epochs take no more than this."""


class CheckpointSchedule:
    """When a checkpoint is due.

    Args:
        every: Steps between checkpoints; None where the number of steps decides.
        steps: Steps of the run.
        clock: Seconds from an arbitrary start.
    """

    def __init__(self, every: int | None, steps: int, clock: Callable[[], float]) -> None:
        self._given = every is not None
        self.every = every or min(max(steps // CHECKPOINTS, 1), MOST_STEPS)
        self._clock = clock
        self._ended, self._took = clock(), 0.0

    def is_due(self, step: int) -> bool:
        """Whether one is due behind that many steps."""
        return step % self.every == 0

    def is_worth_its_time(self) -> bool:
        """Whether enough time has passed for what the last one took; always where the job says how many."""
        return self._given or (self._clock() - self._ended) * SHARE_OF_TIME >= self._took

    def written(self, started: float) -> None:
        """Note one that was begun at ``started`` and is written."""
        self._ended = self._clock()
        self._took = self._ended - started


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` by atomic rename, with its SHA-256 in ``<path>.sha256``.

    The digest file is written first and also keeps the digest of the checkpoint before: whenever the process dies,
    the checkpoint that lies there is one that the digest file knows.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(dict(state), partial)
    sidecar = _sidecar(path)
    before = sidecar.read_text(encoding="ascii").split()[:1] if sidecar.is_file() else []
    partial_sidecar = sidecar.with_suffix(".partial_sha256")
    partial_sidecar.write_text("\n".join([_digest(partial), *before]) + "\n", encoding="ascii")
    partial_sidecar.replace(sidecar)
    partial.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint after comparing its SHA-256.

    Raises:
        TrainingError: The file is damaged or its digest is missing.
    """
    sidecar = _sidecar(path)
    if not sidecar.is_file():
        raise TrainingError(f"{sidecar.name} is missing beside {path.name}: remove the checkpoint to start anew")
    if _digest(path) not in sidecar.read_text(encoding="ascii").split():
        raise TrainingError(f"{path.name} is damaged, its SHA-256 differs: remove it to start anew")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def generator_state(device: torch.device) -> dict[str, Any]:
    """The state of torch's generators, the only ones that a training step draws from."""
    return {
        # As `torch.get_rng_state`, without its detours: it is asked at every step.
        "torch": torch.default_generator.get_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of every random generator of this process, as tensors and plain values."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, words, following = random.getstate()
    return {
        **generator_state(device),
        "numpy": (str(name), np.asarray(keys).tolist(), int(position), int(has_gauss), float(gauss)),
        "python": (version, list(words), following),
    }


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Put every random generator of this process back to ``state``."""
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))
    version, words, following = state["python"]
    random.setstate((version, tuple(words), following))


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
