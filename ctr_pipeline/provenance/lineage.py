"""What a training was made from and where, recorded so that it can be reproduced bit for bit."""

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ctr_pipeline import __version__
from ctr_pipeline.provenance.source_code import extension_digests

FORMAT = 2
LIBRARIES = ("torch", "numpy", "polars", "narwhals", "polars-hash", "deltalake", "pyarrow")
"""Libraries whose version may decide a bit of a packed array or of a weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """All that decides a model, and digests of what came out."""

    day: str
    """Partition of the retrain."""
    first_day: date
    """First day that the training could read."""
    examples: Mapping[str, Any]
    """The view of the tables: versions, bounds, watermarks."""
    seed: int
    spec_hash: str
    key_fingerprint: str
    """Of the key of the hashes."""
    environment: Mapping[str, str]
    """Versions and hardware (:func:`environment_info`), the code's version, and the device."""
    arrays: Mapping[str, str]
    """SHA-256 of each packed array."""
    model_sha256: str | None
    """SHA-256 of the weights; None where the training did not finish."""
    files: Mapping[str, str] = field(default_factory=dict)
    """The beginning of the SHA-256 of each file of the code (:func:`file_digests`); empty in what older code wrote."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"format": FORMAT, **asdict(self), "first_day": self.first_day.isoformat()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Lineage":
        """The lineage that :meth:`to_json` described, also in format 1, which calls the environment surroundings."""
        fields = {name: content[name] for name in cls.__slots__ if name in content}
        environment = content["environment"] if "environment" in content else content["surroundings"]
        return cls(**{**fields, "environment": environment, "first_day": date.fromisoformat(content["first_day"])})


def environment_info() -> dict[str, str]:
    """Versions, extensions and hardware of this process, as far as they may decide a bit of a result."""
    return {
        "package": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in LIBRARIES},
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        **{f"extension {name}": digest[:12] for name, digest in extension_digests().items()},
    }


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
