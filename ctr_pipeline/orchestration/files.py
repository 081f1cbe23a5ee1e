"""Small JSON files and score arrays that one asset leaves for the next."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from ctr_pipeline.deployment.settings import PipelineSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RUN_FILE = "run.json"
CALIBRATION_FILE = "calibration.json"
EVALUATION_FILE = "evaluation.json"
RELEASE_FILE = "release.json"
QUALITY_FILE = "advertiser_quality.json"
SCORED_SPLITS = ("validation", "calibration", "test")
"""Splits that the trainer scores with the best epoch's weights."""


def write_json(path: Path, content: Any) -> None:
    """Writes JSON so that readers see the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path, made_by: str) -> dict[str, Any]:
    """The content of a file that an earlier asset wrote.

    Raises:
        dagster.Failure: it is absent; names the asset to materialise.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise dg.Failure(
            f"{path.name} of this day is absent: materialise {made_by} for the same partition first.",
            allow_retries=False,
        ) from None
    return content


def scores(settings: PipelineSettings, day: str, split: str) -> "NDArray[np.float32]":
    """Uncalibrated logits [N, T] of a split, in the order of its packed rows."""
    import numpy as np

    loaded: NDArray[np.float32] = np.load(settings.training_folder(day) / "scores" / f"{split}.npy")
    return loaded
