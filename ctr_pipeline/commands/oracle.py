"""What the simulated world's truth says of the log and of a model. The only place outside the simulator that reads it.

Nothing that the pipeline makes depends on this module: it serves the command `ctr truth` alone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from ctr_pipeline.deployment.raw_logs import pseudonymiser
from ctr_pipeline.deployment.settings import PipelineSettings, declared_last_day
from ctr_pipeline.errors import UserError
from ctr_pipeline.orchestration.files import CALIBRATION_FILE, read_json, scores

if TYPE_CHECKING:
    import polars as pl

CLICK = "click"
"""Event type whose probability the truth knows for every impression."""

CEILINGS = {
    "bayes": "knows every probability",
    "position_unknown": "all but the position",
    "observables": "what the log shows",
}
CDF_LABELS = ("1 min", "1 h", "6 h", "1 d", "3 d", "7 d", "14 d")


class TruthError(UserError):
    """There is no such truth, or the scores to be compared with it are not usable."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Predicted click probabilities: ``impression_id`` as hashed in the lake or as in the log, and ``score``."""

    frame: "pl.DataFrame"
    origin: str
    days: tuple[date, date] | None = None
    """Days of the impressions, where they are known."""


def truth_of(
    settings: PipelineSettings,
    first: date | None,
    last: date | None,
    scored: Scored | None,
    environment: Mapping[str, str],
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """The truth report of the days ``first`` to ``last`` of a simulated deployment; see ``simulator.truth_report``.

    Days that were never simulated, or whose truth is not there, are simulated first.

    Args:
        settings: The deployment.
        first: First day; by default that of the log.
        last: Last day; by default that of the log.
        scored: Predictions to compare with the truth; left out when they are known to be of other days.
        environment: Where the key is named that ids are hashed with.
        progress: Told what is being done.

    Raises:
        TruthError: the source is not simulated, or the days are none of its days.
        SimulatorError: the scores are not usable.
    """
    import polars as pl

    from ctr_pipeline.simulator import truth_report, write_days

    simulator = settings.spec.source.simulator
    log_last = declared_last_day(settings.spec)
    if simulator is None or log_last is None:
        raise TruthError(
            f"the spec {settings.spec.name} has no source.simulator: the truth of a real log is not known. "
            "Use a simulated spec such as specs/ads.yaml."
        )
    first, last = first or settings.first_day, last or log_last
    if not settings.first_day <= first <= last <= log_last:
        raise TruthError(
            f"--from {first} --to {last}: expected days in order, from {settings.first_day} to {log_last}."
        )
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    progress(f"Truth of {len(days)} days, {first} to {last}, in {settings.simulated_root}")
    write_days(simulator, settings.spec.seed, days, settings.simulated_root)
    overlaps = scored is not None and (scored.days is None or (scored.days[0] <= last and first <= scored.days[1]))
    if scored is None or not overlaps:
        return truth_report(settings.simulated_root, first, last)

    known = scored.frame
    if "impression_id" in known.columns:
        known = known.with_columns(pl.col("impression_id").cast(pl.String))
    hashed = known.height > 0 and "impression_id" in known.columns and _all_hashed(known["impression_id"])
    report = truth_report(
        settings.simulated_root,
        first,
        last,
        known,
        truth_ids=pseudonymiser(environment).expr if hashed else None,
    )
    report["scores"]["origin"] = scored.origin
    return report


def read_scores(path: Path) -> Scored:
    """Predicted click probabilities from a Parquet or CSV file with the columns ``impression_id`` and ``score``.

    Raises:
        TruthError: the file is absent, cannot be read, or lacks a column.
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
        raise TruthError(f"--scores {path}: {reason}. Give a .parquet or .csv file.") from None
    missing = [name for name in ("impression_id", "score") if name not in frame.columns]
    if missing:
        raise TruthError(
            f"--scores {path}: there is no column `{missing[0]}`; found {', '.join(frame.columns)}. "
            "Give `impression_id` and `score` (the predicted click probability)."
        )
    return Scored(frame.select("impression_id", "score"), path.name)


def latest_test_scores(settings: PipelineSettings) -> Scored | None:
    """Calibrated click probabilities of the test rows of the newest retrain; None when there is no finished one."""
    import numpy as np
    import polars as pl

    from ctr_pipeline.datasets import PackedDataset
    from ctr_pipeline.evaluation import Calibrator
    from ctr_pipeline.lake import Lake
    from ctr_pipeline.orchestration.assets.datasets import view_of

    click = next((n for n, task in enumerate(settings.spec.tasks) if task.label.event == CLICK), None)
    finished = sorted((settings.data_root / "training").glob(f"*/{CALIBRATION_FILE}"))
    if click is None or not finished:
        return None
    day = finished[-1].parent.name
    logits = scores(settings, day, "test")[:, click]
    fitted = read_json(finished[-1], "calibrated_ranker")[settings.spec.tasks[click].name]
    probability = 1 / (1 + np.exp(-Calibrator.from_json(fitted).apply(logits)))
    bounds, tables = view_of(settings, Lake(settings.lake_root), day)
    start, end = bounds.stretches["test"]
    rows = (
        tables.impressions.filter(
            pl.col("ts").is_between(start, end, closed="left"), pl.col("ingest_ts") <= bounds.label_as_of("test")
        )
        .select("day", "ts", "impression_id")
        .sort("ts", "impression_id")
        .collect()
    )
    packed = PackedDataset.open(settings.packed_folder(day)).splits["test"].ts
    if not np.array_equal(rows["ts"].to_numpy(), packed):
        raise TruthError(
            f"the retrain of {day} was packed from other impressions than the lake has. Run `ctr run` again, "
            "or give --scores."
        )
    frame = rows.select("impression_id", score=pl.Series(probability))
    shown = rows["day"].unique().sort()
    return Scored(frame, f"test rows of the retrain of {day}", (shown[0], shown[-1]))


def print_truth(report: Mapping[str, Any], console: Console) -> None:
    """Prints the truth report for a person."""
    days = report["days"]
    console.print(
        f"\n[bold]Truth[/]  {days['first']} to {days['last']}, {report['rows']:,} impressions", highlight=False
    )
    console.print(_ceilings(report))
    console.print(_positions(report["positions"]))
    console.print(_delays(report["delays"]))
    noise = report["noise"]
    console.print(
        f"  {noise['clicks']:,} clicked; of those, advertisers fired {noise['fired']:,} outcomes that did not happen, "
        f"and {noise['lost']:,} lost one that did",
        highlight=False,
    )
    for name, count in report["incidents"].items():
        console.print(f"  incident {name}: {count:,} impressions", highlight=False)
    found = report.get("scores")
    if found is None:
        console.print("  No scores to compare: run `ctr run` first, or give --scores.", highlight=False)
        return
    console.print(
        f"\nScores ({found['origin']}): {found['rows']:,} impressions, predicted rate {found['predicted_rate']:.3%}, "
        f"true rate {found['bayes']['rate']:.3%}",
        highlight=False,
    )
    console.print(_table(("", "AUC", "AP", "NE"), ((name, *_measures(found[name])) for name in ("model", "bayes"))))
    console.print(
        f"  excess NE {found['excess_ne']:.4f}; the model captures {found['captured']:.1%} of what can be known",
        highlight=False,
    )


def _all_hashed(ids: "pl.Series") -> bool:
    return bool(ids.str.contains("^[0-9a-f]{32}$").fill_null(False).all())


def _ceilings(report: Mapping[str, Any]) -> Table:
    rows = [
        (
            CLICK,
            name.replace("_", " "),
            meaning,
            f"{report['ceilings'][name]['rate']:.3%}",
            *_measures(report["ceilings"][name]),
        )
        for name, meaning in CEILINGS.items()
    ]
    rows += [
        (step, "bayes", CEILINGS["bayes"], f"{found['rate']:.3%}", *_measures(found))
        for step, found in report["steps"].items()
    ]
    title = f"Best possible scores (observables: fitted on {report['ceilings']['observables']['rows']:,} rows)"
    return _table(("outcome", "ceiling", "of a model that", "rate", "AUC", "AP", "NE"), rows, title)


def _positions(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = ("position", "examination", "observed", "IPS", "observed IPS", "random rows")
    return _table(
        columns,
        (
            (
                str(row["position"]),
                _number(row["examination"]),
                _number(row["observed"]) + (f" ± {row['observed_error']:.3f}" if row["observed_error"] else ""),
                _number(row["ips"]),
                _number(row["observed_ips"]),
                f"{row['random_rows']:,}",
            )
            for row in rows
        ),
        "Position effects: true, and as random sessions show them",
    )


def _delays(report: Mapping[str, Any]) -> Table:
    rows = []
    for step, found in report.items():
        distribution = found.get("since_previous", found)
        cdf, quantiles = distribution["cdf"], distribution["quantiles"]
        late = found.get("out_of_window_share")
        rows.append(
            (
                step.replace("_", " "),
                f"{found['happened']:,}" if "happened" in found else "",
                "–" if quantiles is None else f"{quantiles['0.5']:,.0f} s",
                *(("–",) * len(CDF_LABELS) if cdf is None else (f"{share:.1%}" for share in cdf.values())),
                "" if late is None else f"{late:.1%}",
            )
        )
    columns = ("delay of", "happened", "median", *(f"≤ {label}" for label in CDF_LABELS), "out of window")
    return _table(columns, rows, "Delays since the step before")


def _measures(found: Mapping[str, float]) -> tuple[str, str, str]:
    return f"{found['auc']:.4f}", f"{found['ap']:.4f}", f"{found['ne']:.4f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]], title: str | None = None) -> Table:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    return table
