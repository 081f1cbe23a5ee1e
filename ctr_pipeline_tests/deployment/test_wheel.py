"""The project as a wheel, away from the checkout: which files it holds, and that nothing else is needed."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from configparser import ConfigParser
from pathlib import Path

import pytest

from ctr_pipeline.provenance import code_version

Command = Callable[..., "subprocess.CompletedProcess[str]"]

CONFIGURATION = ("dagster.yaml", "workspace.yaml")


@pytest.fixture(scope="module")
def wheel(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by the backend itself: pip would make an environment for it, and ask the network."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=project, check=True, capture_output=True, timeout=60)
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip would write into an environment."""
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def python(installed: Path, tmp_path: Path) -> Command:
    """Runs Python in an empty folder, with the unpacked wheel, a home and a temporary directory of its own."""
    empty, home, temporary = (tmp_path / name for name in ("empty", "home", "temporary"))
    for folder in (empty, home, temporary):
        folder.mkdir()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("CTR_", "XDG_", "DAGSTER_"))},
        "PYTHONPATH": str(installed),
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "COLUMNS": "180",
    }

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=empty,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        return done

    return run


@pytest.fixture
def ctr_of_wheel(installed: Path, python: Command) -> Command:
    """The command `ctr` as the wheel declares it."""
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    declared = ConfigParser()
    declared.read(entry_points)
    module, function = declared["console_scripts"]["ctr"].split(":")
    return lambda *arguments: python("-c", f"from {module} import {function}; {function}()", *arguments)


def test_a_wheel_holds_the_package_the_specs_and_the_configuration_and_nothing_else(wheel: Path, project: Path) -> None:
    package = {
        path.relative_to(project).as_posix()
        for path in (project / "ctr_pipeline").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    bundled = {f"ctr_pipeline/bundled/specs/{path.name}" for path in (project / "specs").glob("*.yaml")}
    bundled |= {f"ctr_pipeline/bundled/{name}" for name in CONFIGURATION}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == package | bundled
    assert {"ctr_pipeline/py.typed", "ctr_pipeline/features/exact_windows.sql"} <= held
    assert "ctr_pipeline/bundled/specs/ads.yaml" in held


def test_what_is_bundled_is_found_in_the_wheel_and_its_code_is_that_of_the_checkout(
    installed: Path, project: Path, python: Command
) -> None:
    code = """if True:
        import json
        from ctr_pipeline.commands.pages import page_commands
        from ctr_pipeline.definitions import defs
        from ctr_pipeline.deployment.bundled import bundled_file, bundled_specs
        from ctr_pipeline.deployment.paths import DataRoot
        from ctr_pipeline.provenance import code_version
        from pathlib import Path
        print(json.dumps({
            "specs": {name: str(path) for name, path in bundled_specs().items()},
            "dagster": str(bundled_file("dagster.yaml")),
            "webserver": page_commands(DataRoot(Path("data")), 1, 2)["webserver"],
            "assets": len(defs.resolve_asset_graph().get_all_asset_keys()),
            "version": code_version(),
        }))
    """
    found = json.loads(python("-c", code).stdout.splitlines()[-1])
    bundled = installed / "ctr_pipeline" / "bundled"
    assert found["specs"] == {
        path.stem: str(bundled / "specs" / path.name) for path in (project / "specs").glob("*.yaml")
    }
    assert found["dagster"] == str(bundled / "dagster.yaml")
    assert found["webserver"][-2:] == ["-w", str(bundled / "workspace.yaml")]
    assert found["assets"] > 0
    assert found["version"] == code_version()


def test_init_copies_a_spec_into_an_empty_folder(ctr_of_wheel: Command, project: Path, tmp_path: Path) -> None:
    assert "ctr run --spec ads.yaml" in ctr_of_wheel("init", "ads").stdout
    assert (tmp_path / "empty" / "ads.yaml").read_bytes() == (project / "specs" / "ads.yaml").read_bytes()


@pytest.mark.nightly
def test_the_whole_pipeline_runs_from_a_wheel(ctr_of_wheel: Command, small_spec: Path, tmp_path: Path) -> None:
    run = ("run", "--spec", str(small_spec))
    ctr_of_wheel(*run)
    assert "Everything was up to date." in ctr_of_wheel(*run).stdout
    assert "MLflow run" in ctr_of_wheel("report", "latest", "--data-root", "data/ads").stdout
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == ["data"]
    assert list((tmp_path / "temporary").iterdir()) == []
