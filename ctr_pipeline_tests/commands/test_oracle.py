"""`ctr oracle` as a user runs it; and nothing that the pipeline makes depends on the truth."""

import ast
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from ctr_pipeline_tests.end_to_end.fixtures import Finished

Ctr = Callable[..., "subprocess.CompletedProcess[str]"]

TRUTH_COMMAND = Path("commands") / "oracle.py"


def test_the_ceilings_of_a_world_that_was_never_run(small_spec: Path, ctr: Ctr, tmp_path: Path) -> None:
    out = tmp_path / "truth.json"
    days = ("--from", "2026-01-02", "--to", "2026-01-03")
    done = ctr("oracle", "--spec", small_spec, "--data-root", tmp_path / "data", *days, "--json", out)
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["days"] == {"first": "2026-01-02", "last": "2026-01-03"}
    assert report["rows"] == 2 * 1500 * 5
    assert "scores" not in report
    for words in ("Best possible scores", "position unknown", "observables", "examination", "≤ 1 d", "No scores"):
        assert words in done.stdout, words
    for ceiling in ("bayes", "position_unknown"):
        assert f"{report['ceilings'][ceiling]['auc']:.4f}" in done.stdout
    assert not (tmp_path / "data").exists()
    # Truth that is missing beside existing logs is made again, and says the same.
    [simulated] = (tmp_path / "simulated_logs").iterdir()
    shutil.rmtree(simulated / "truth")
    ctr("oracle", "--spec", small_spec, "--data-root", tmp_path / "data", *days, "--json", tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text(encoding="utf-8")) == report


def test_the_newest_retrain_is_compared_by_hashed_ids(finished: Finished, ctr: Ctr, tmp_path: Path) -> None:
    out = tmp_path / "truth.json"
    done = ctr("oracle", "--spec", finished.spec, "--data-root", finished.data_root, "--json", out)
    found = json.loads(out.read_text(encoding="utf-8"))["scores"]
    assert found["rows"] == finished.report["split"]["test"]["rows"]
    assert found["origin"] == "test rows of the retrain of 2026-01-16"
    assert 0.005 < found["predicted_rate"] < 0.02
    assert 0 < found["captured"] < 1
    assert found["excess_ne"] == pytest.approx(found["model"]["ne"] - found["bayes"]["ne"])
    # In expectation over labels, and so inside the interval that the labelled rows gave.
    interval = finished.report["metrics"]["click"]["test"]["auc"]
    assert interval["low"] - 0.03 < found["model"]["auc"] < interval["high"] + 0.03
    assert "captures" in done.stdout


def test_perfect_scores_of_a_csv_capture_everything(small_spec: Path, ctr: Ctr, tmp_path: Path) -> None:
    def truth(*options: object) -> None:
        ctr("oracle", "--spec", small_spec, "--data-root", tmp_path / "data", "--to", "2026-01-01", *options)

    truth()
    [file] = (tmp_path / "simulated_logs").glob("*/truth/2026-01-01.parquet")
    known = pl.read_parquet(file).select("impression_id", score=pl.col("click_probability").cast(pl.Float64))
    known.write_csv(tmp_path / "scores.csv")
    truth("--scores", tmp_path / "scores.csv", "--json", tmp_path / "truth.json")
    found = json.loads((tmp_path / "truth.json").read_text(encoding="utf-8"))["scores"]
    assert found["rows"] == 7500
    assert found["captured"] == pytest.approx(1, abs=1e-5)
    assert found["excess_ne"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--from", "2026-01-09", "--to", "2026-01-08"), "expected days in order, from 2026-01-01 to 2026-01-16"),
        (("--to", "2026-02-01"), "--from 2026-01-01 --to 2026-02-01: expected days"),
        (("--scores", "absent.parquet"), "--scores absent.parquet: no such file"),
    ],
)
def test_impossible_questions_are_refused_plainly(
    small_spec: Path, ctr: Ctr, tmp_path: Path, options: tuple[str, str], message: str
) -> None:
    done = ctr("oracle", "--spec", small_spec, "--data-root", tmp_path / "data", *options, expect=2)
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_real_log_has_no_truth(project: Path, ctr: Ctr, tmp_path: Path) -> None:
    done = ctr("oracle", "--spec", project / "specs" / "ga4.yaml", "--data-root", tmp_path / "data", expect=2)
    assert "source.simulator is absent" in done.stderr


def test_scores_without_their_column_are_refused(small_spec: Path, ctr: Ctr, tmp_path: Path) -> None:
    pl.DataFrame({"impression_id": ["x"], "p": [0.5]}).write_parquet(tmp_path / "scores.parquet")
    options = ("--data-root", tmp_path / "data", "--to", "2026-01-01", "--scores", tmp_path / "scores.parquet")
    done = ctr("oracle", "--spec", small_spec, *options, expect=2)
    assert "there is no column `score`; found impression_id, p" in " ".join(done.stderr.split())


def test_no_package_and_no_asset_reads_the_truth(project: Path) -> None:
    """Outside the simulator, only the module behind `ctr oracle` reads the truth, and only the command and its text import it."""
    package = project / "ctr_pipeline"
    words = (
        "truth_file",
        "truth_report",
        "simulator.truth",
        "simulator.world",
        '"truth"',
        "'truth'",
        "commands.oracle",
    )
    readers, importers = [], []
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package)
        if name.parts[0] == "simulator" or name == TRUTH_COMMAND:
            continue
        text = path.read_text(encoding="utf-8")
        if name not in (Path("cli/models.py"), Path("commands/oracle_text.py")):
            # The command's name before is not the truth.
            text = text.replace('app.command("truth", hidden=True)', "")
            readers += [f"{name}: {word}" for word in words if word in text]
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                found = {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
            elif isinstance(node, ast.Import):
                found = {alias.name for alias in node.names}
            else:
                continue
            if "ctr_pipeline.commands.oracle" in found:
                importers.append(str(name))
    assert readers == []
    assert importers == ["cli/models.py", "commands/oracle_text.py"]
