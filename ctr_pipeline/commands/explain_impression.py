"""Why a model gives an impression its score: `ctr explain --impression`. See docs/explain_impression.md."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctr_pipeline.commands.report import ReportError, find_report
from ctr_pipeline.deployment.json_files import read_json
from ctr_pipeline.deployment.paths import DataRoot
from ctr_pipeline.deployment.retrain_places import RetrainPlace
from ctr_pipeline.deployment.trained_sides import load_side, nth_test_row, one_impression
from ctr_pipeline.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ctr_pipeline.attribution.integrated_gradients import Attribution
    from ctr_pipeline.attribution.trained_side import Encoded, ReplayRows, TrainedSide

FORMAT = 1

HASH_SHOWN = 8
"""Digits of a keyed hash that are shown as the value of a feature."""

BASELINE = "mean of {rows:,} test rows, as the model encodes them; lists of events are empty"


class ExplainError(UserError):
    """There is no such impression or model."""


def explain_impression(data_root: Path, impression: str | None, row: int | None, run: str = "latest") -> dict[str, Any]:
    """The score of one impression, its calibration, and what each feature adds to it, beside an average impression.

    Args:
        data_root: The data root.
        impression: Hash of the impression's id; None where ``row`` is given.
        row: Number of a test row of the retrain, from 0 on.
        run: The retrain whose model scores: a day (YYYY-MM-DD), an MLflow run id, or ``latest``.

    Raises:
        ExplainError: there is no such impression, or no model.
    """
    import numpy as np

    from ctr_pipeline.attribution.importance import BASELINE_ROWS, attributed
    from ctr_pipeline.attribution.trained_side import Encoded
    from ctr_pipeline.datasets import PackedDataset

    retrain = retrain_of(data_root, run)
    side = load_side(retrain, retrain.day)
    if row is not None:
        rows, absent = nth_test_row(retrain, row), f"the test of {retrain.day} has no row {row}: they begin at 0."
    else:
        assert impression is not None, "a hash or a row"
        rows = one_impression(retrain, side, impression)
        absent = (
            f"no impression has the hash {impression}. Check the id, and that the key is the one the log was read with."
        )
    if rows is None:
        raise ExplainError(absent)
    paths = retrain.paths
    test = PackedDataset.open(paths.packed).splits["test"]
    chosen = np.linspace(0, len(test) - 1, min(len(test), BASELINE_ROWS)).astype(np.intp)
    baseline = Encoded(test.numeric[chosen], test.ids[chosen])
    encoded = side.encode(rows)
    raw, calibrated = side.raw_logits(encoded)[0], side.calibrated(encoded)[0]
    values = shown_values(side, rows, encoded)
    metrics = read_json(paths.evaluation).get("metrics", {})
    tasks = {}
    for place, task in enumerate(side.layout.tasks):
        found = attributed(side, encoded, task, baseline)
        tasks[task] = {
            "logit": float(raw[place]),
            "probability": _chance(raw[place]),
            "calibrated_logit": float(calibrated[place]),
            "calibrated_probability": _chance(calibrated[place]),
            "calibrator": _calibrator(side, place),
            "oe": metrics.get(task, {}).get("test", {}).get("oe"),
            "baseline_logit": float(found.reference[0]),
            "baseline_probability": _chance(found.reference[0]),
            "not_attributed": float(found.missed[0]),
            "features": _features(side, found, values),
            "groups": _groups(side, found),
        }
    position = int(rows.position[0])
    return {
        "format": FORMAT,
        "run": {
            "day": retrain.day,
            "folder": str(paths.training),
            "mlflow_run_id": read_json(paths.mlflow_run).get("run_id"),
            "model_sha256": read_json(paths.result).get("model_sha256"),
        },
        "impression": {
            "hash": rows.impressions[0],
            "at": datetime.fromtimestamp(int(rows.ts[0]) / 1e6, UTC).isoformat().replace("+00:00", "Z"),
            "position": position or None,
        },
        "baseline": BASELINE.format(rows=len(chosen)),
        "tasks": tasks,
    }


def retrain_of(data_root: Path, run: str) -> RetrainPlace:
    """The retrain of a data root that ``run`` names: a day, an MLflow run id, or ``latest`` for the newest with a model.

    Raises:
        ExplainError: there is none.
    """
    root = DataRoot(data_root)
    finished = [path.parent.name for path in root.retrains("calibration.json") if (path.parent / "model.pt").is_file()]
    if not finished:
        raise ExplainError(f"{data_root}: no retrain has a model here. Make one with `ctr run`.")
    if run == "latest":
        return RetrainPlace(root.root, finished[-1])
    day = run
    if run not in finished:
        by_run = {read_json(root.retrain(own).mlflow_run).get("run_id"): own for own in finished}
        day = by_run.get(run, "")
    if not day:
        try:
            day = str(find_report(run, data_root)["days"]["last"])
        except ReportError:
            day = ""
    if day not in finished:
        raise ExplainError(f"{data_root}: no model of {run}. There are those of {', '.join(finished)}.")
    return RetrainPlace(root.root, day)


def shown_values(side: "TrainedSide", rows: "ReplayRows", encoded: "Encoded") -> dict[str, dict[str, Any]]:
    """By feature its value in the one row of ``rows``, and whether the model knows it.

    A value that is stored as a keyed hash is shown by the first digits of that.
    """
    from ctr_pipeline.features.layout import UNKNOWN_ROW

    spec = side.spec
    private = spec.private_columns
    hashed = {feature.name for feature in spec.features.embedded if feature.source_column in private}
    hashed |= {made.feature.name for made in spec.features.history_embedded if made.table in hashed}
    row: Mapping[str, Any] = rows.values.row(0, named=True)
    found: dict[str, dict[str, Any]] = {}
    for name in side.features:
        numbers, ids = side.columns(name)
        columns = [column for column in row if column.partition("[")[0] == name]
        own = [row[column] for column in columns]
        value = own[0] if len(own) == 1 and columns[0] == name else own
        if name in hashed:
            value = [_short(text) for text in value] if isinstance(value, list) else _short(value)
        known = not ids or bool(numbers) or not (encoded.ids[0, ids] == UNKNOWN_ROW).any()
        found[name] = {"value": value, "hashed": name in hashed, "known": known}
    return found


def _short(text: str | None) -> str | None:
    return None if text is None else f"{text[:HASH_SHOWN]}…"


def _chance(logit: "float | np.floating[Any]") -> float:
    from scipy import special

    return float(special.expit(float(logit)))


def _calibrator(side: "TrainedSide", place: int) -> dict[str, Any]:
    from ctr_pipeline.calibration import calibrator_to_json

    fitted = side.calibrators[place]
    kind = calibrator_to_json(fitted).get("kind", "platt")
    return {"kind": kind, "rows": fitted.rows, "positives": fitted.positives, "reason": fitted.reason}


def _features(
    side: "TrainedSide", found: "Attribution", values: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    own = found.values[0]
    order = sorted(range(len(own)), key=lambda place: -abs(float(own[place])))
    return [
        {
            "feature": found.features[place],
            "group": side.groups[found.features[place]],
            **values[found.features[place]],
            "adds": float(own[place]),
        }
        for place in order
    ]


def _groups(side: "TrainedSide", found: "Attribution") -> dict[str, float]:
    sums: dict[str, float] = {}
    own: NDArray[np.float64] = found.values[0]
    for name, value in zip(found.features, own, strict=True):
        sums[side.groups[name]] = sums.get(side.groups[name], 0.0) + float(value)
    return dict(sorted(sums.items(), key=lambda item: -abs(item[1])))
