"""How good a model could be in the simulated marketplace, and how close one comes: `ctr oracle`. See docs/oracle.md.

The only place outside the simulator that reads the truth. Nothing that the pipeline makes depends on this module.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctr_pipeline.deployment.deployment import Deployment, declared_last_day
from ctr_pipeline.deployment.environment import Environment
from ctr_pipeline.deployment.json_files import read_json
from ctr_pipeline.deployment.key import pseudonymiser
from ctr_pipeline.deployment.retrain_files import RetrainFiles
from ctr_pipeline.errors import UserError

if TYPE_CHECKING:
    import polars as pl

CLICK = "click"
"""Event type whose probability the truth has for every impression."""


class OracleError(UserError):
    """There is no such truth, or the scores to be compared with it are not usable."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Predicted click probabilities: ``impression_id`` as hashed in the lake or as in the log, and ``score``."""

    frame: "pl.DataFrame"
    origin: str
    days: tuple[date, date] | None = None
    """Days of the impressions, where they are known."""
    learnt_examination: tuple[float, ...] = ()
    """What the model learnt of the positions: how likely a click is there, relative to the first."""


def oracle_report(
    deployment: Deployment,
    first: date | None,
    last: date | None,
    scored: Scored | None,
    environment: Environment,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """The truth report of the days ``first`` to ``last`` of a simulated deployment; see ``simulator.truth_report``.

    Days that were never simulated, or whose truth is not there, are simulated first.

    Args:
        deployment: The deployment.
        first: First day; by default that of the log.
        last: Last day; by default that of the log.
        scored: Predictions to compare with the truth; left out when they are known to be of other days.
        environment: Where the key is named that ids are hashed with.
        progress: Receives messages about what is being done.

    Raises:
        OracleError: the source is not simulated, or the days are none of its days.
        SimulatorError: the scores are not usable.
    """
    import polars as pl

    from ctr_pipeline.simulator import truth_report, write_days

    simulator = deployment.spec.source.simulator
    log_last = declared_last_day(deployment.spec)
    if simulator is None or log_last is None:
        raise OracleError(
            f"the spec {deployment.spec.name} has no source.simulator: the truth of a real log is not known. "
            "Use a simulated spec such as specs/ads.yaml."
        )
    first, last = first or deployment.first_day, last or log_last
    if not deployment.first_day <= first <= last <= log_last:
        raise OracleError(
            f"--from {first} --to {last}: expected days in order, from {deployment.first_day} to {log_last}."
        )
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    progress(f"Truth of {len(days)} days, {first} to {last}, in {deployment.simulated_root}")
    write_days(simulator, deployment.spec.seed, days, deployment.simulated_root)
    overlaps = scored is not None and (scored.days is None or (scored.days[0] <= last and first <= scored.days[1]))
    if scored is None or not overlaps:
        return truth_report(deployment.simulated_root, first, last)

    known = scored.frame
    if "impression_id" in known.columns:
        known = known.with_columns(pl.col("impression_id").cast(pl.String))
    hashed = known.height > 0 and "impression_id" in known.columns and _all_hashed(known["impression_id"])
    report = truth_report(
        deployment.simulated_root,
        first,
        last,
        known,
        truth_ids=pseudonymiser(environment).expr if hashed else None,
    )
    report["scores"]["origin"] = scored.origin
    for row in report["positions"]:
        if row["position"] <= len(scored.learnt_examination):
            row["learnt"] = scored.learnt_examination[row["position"] - 1]
    return report


def read_scores(path: Path) -> Scored:
    """Predicted click probabilities from a Parquet or CSV file with the columns ``impression_id`` and ``score``.

    Raises:
        OracleError: the file is absent, cannot be read, or lacks a column.
    """
    import polars as pl

    try:
        frame = (
            pl.read_csv(path, schema_overrides={"impression_id": pl.String, "score": pl.Float64})
            if path.suffix.lower() == ".csv"
            else pl.read_parquet(path)
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else "it cannot be read as Parquet or CSV"
        raise OracleError(f"--scores {path}: {reason}. Give a .parquet or .csv file.") from None
    missing = [name for name in ("impression_id", "score") if name not in frame.columns]
    if missing:
        raise OracleError(
            f"--scores {path}: there is no column `{missing[0]}`; found {', '.join(frame.columns)}. "
            "Give `impression_id` and `score` (the predicted click probability)."
        )
    return Scored(frame.select("impression_id", "score"), path.name)


def latest_test_scores(deployment: Deployment) -> Scored | None:
    """Calibrated click probabilities of the test rows of the newest retrain; None when there is no finished one.

    Raises:
        OracleError: the lake has other rows now than the retrain was packed from.
    """
    import numpy as np
    import polars as pl

    from ctr_pipeline.datasets import PackedDataset
    from ctr_pipeline.datasets.examples import rows_of
    from ctr_pipeline.datasets.view import read_tables
    from ctr_pipeline.lake import Lake

    tasks = deployment.spec.tasks
    click = next((n for n, task in enumerate(tasks) if task.label.event == CLICK), None)
    finished = deployment.paths.retrains("calibration.json")
    if click is None or not finished:
        return None
    day = finished[-1].parent.name
    paths = deployment.paths.retrain(day)
    files = RetrainFiles(paths)
    view, position = files.examples(), files.position_modes[-1]
    # The truth is that of the slot in which a row was shown: scores that know it are comparable.
    calibrated = files.calibrated("test", [task.name for task in tasks], logged_position=position)[:, click]
    probability = 1 / (1 + np.exp(-calibrated))
    last = date.fromisoformat(day)
    tables = read_tables(Lake(deployment.paths.lake), view.versions, deployment.first_day, last)
    rows = (
        rows_of(view.bounds, "test", tables.impressions)
        .select("day", "ts", "impression_id")
        .sort("ts", "impression_id")
        .collect()
    )
    if not np.array_equal(rows["ts"].to_numpy(), PackedDataset.open(paths.packed).splits["test"].ts):
        raise OracleError(
            f"the retrain of {day} was packed from other impressions than the lake has. Run `ctr run` again, "
            "or give --scores."
        )
    frame = rows.select("impression_id", score=pl.Series(probability))
    shown = rows["day"].unique().sort()
    learnt = read_json(paths.position_effect).get("relative", {}).get(tasks[click].name, [])
    return Scored(frame, f"test rows of the retrain of {day}", (shown[0], shown[-1]), tuple(learnt))


def _all_hashed(ids: "pl.Series") -> bool:
    return bool(ids.str.contains("^[0-9a-f]{32}$").fill_null(False).all())
