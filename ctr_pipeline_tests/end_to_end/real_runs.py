"""Runs on real logs, each made once for all tests that read it."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ctr_pipeline_tests.built_once import built_once

Ctr = Callable[..., "subprocess.CompletedProcess[str]"]

REAL_LOG_KEY = "0123456789abcdef0123"
"""Key of the hashes of real logs: it orders rows of one time and position, so that with another the figures differ a little."""


EXIT_CODES = {"loan_funnel": 3, "open_bandit": 3}
"""Of runs whose model is not surely better than the base rate: too few clicks, and a base rate that falls."""


@dataclass(frozen=True)
class RealRun:
    """What `ctr run` of a bundled spec on a real log left, under :data:`REAL_LOG_KEY`."""

    data_root: Path
    report: dict[str, Any]


@pytest.fixture(scope="session")
def real_run(
    ctr: Ctr, project: Path, shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], RealRun]:
    """The run of a spec on a log, both by name; no test may change what it left."""

    def of(spec: str, log: str) -> RealRun:
        def run(folder: Path) -> None:
            ctr(
                "run", "--spec", project / "specs" / f"{spec}.yaml", "--input", shared_data / log,
                "--data-root", folder / "data", "--json", folder / "report.json", expect=EXIT_CODES.get(spec, 0),
                CTR_PSEUDONYM_KEY=REAL_LOG_KEY,
            )  # fmt: skip

        folder = built_once(tmp_path_factory, f"{spec}_run", run)
        report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        for rows in report["rows"].values():
            assert rows["in"] == rows["kept"] + rows["quarantined"]
        return RealRun(folder / "data", report)

    return of
