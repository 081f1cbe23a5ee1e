"""What a training was made from and where, recorded so that it can be repeated bit for bit."""

import os
import platform
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ctr_pipeline import __version__
from ctr_pipeline.deployment.raw_logs import key_fingerprint
from ctr_pipeline.deployment.settings import PipelineSettings, model_spec_hash
from ctr_pipeline.orchestration.files import read_json

PROVENANCE_FILE = "provenance.json"
SPEC_FILE = "spec.yaml"
"""Both are artifacts of the MLflow run."""

FORMAT = 1
LIBRARIES = ("torch", "numpy", "polars", "narwhals", "polars-hash", "deltalake", "pyarrow")
"""Libraries whose version may decide a bit of a packed array or of a weight."""


def provenance(settings: PipelineSettings, day: str, code: str, result: dict[str, Any]) -> dict[str, Any]:
    """All that decides the model of the retrain of ``day``, and digests of what came out.

    Args:
        settings: The deployment.
        day: Partition of the retrain.
        code: Version of the package with a digest of its source files.
        result: What the trainer said.
    """
    examples = read_json(settings.dataset_folder(day) / "examples.json", "examples")
    manifest = read_json(settings.packed_folder(day) / "manifest.json", "training_dataset")
    return {
        "format": FORMAT,
        "day": day,
        "first_day": settings.first_day.isoformat(),
        "examples": examples,
        "seed": settings.spec.seed,
        "spec_hash": model_spec_hash(settings),
        "key_fingerprint": key_fingerprint(os.environ),
        "surroundings": {**surroundings(), "code": code, "device": str(result.get("device"))},
        "arrays": manifest["sha256"],
        "model_sha256": result.get("model_sha256"),
    }


def surroundings() -> dict[str, str]:
    """Versions and hardware of this process, as far as they may decide a bit of a result."""
    return {
        "package": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in LIBRARIES},
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
    }


def first_day_of(facts: dict[str, Any]) -> date:
    """First day that the recorded training could read."""
    return date.fromisoformat(facts["first_day"])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _processor() -> str:
    """The processor's name; vector units differ from one to the next, and with them the order of sums."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
