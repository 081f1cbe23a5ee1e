"""The definitions load, fast, and without the heavy libraries."""

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import Environment
from ctr_pipeline.orchestration.build import build_definitions
from ctr_pipeline.orchestration.stages import LIVE_ASSETS, STAGES


@pytest.fixture
def settings(tmp_path: Path, project: Path) -> Deployment:
    return Deployment.from_environment(
        Environment.of({"CTR_SPEC": str(project / "specs" / "ads.yaml"), "CTR_DATA_ROOT": str(tmp_path / "data")})
    )


def test_definitions_are_loadable_and_complete(settings: Deployment) -> None:
    defs = build_definitions(settings)
    dg.Definitions.validate_loadable(defs)
    keys = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    assert keys == {stage.name for stage in STAGES} | set(LIVE_ASSETS)


def test_importing_the_definitions_loads_no_heavy_library(project: Path) -> None:
    code = (
        "import sys, ctr_pipeline.definitions;"
        "print(sorted({'torch', 'mlflow', 'sklearn', 'polars', 'pandera', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=project)
    assert done.stdout.strip() == "[]"


def test_dg_check_defs_passes(project: Path, tmp_path: Path) -> None:
    dg_command = Path(sys.executable).with_name("dg")
    done = subprocess.run(
        [str(dg_command), "check", "defs"],
        capture_output=True,
        text=True,
        cwd=project,
        env={"PATH": str(dg_command.parent) + ":/usr/bin:/bin", "HOME": str(tmp_path), "DAGSTER_HOME": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
