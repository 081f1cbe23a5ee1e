"""`ctr explain RUN_A RUN_B`: why the second model predicts otherwise than the first."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ctr_pipeline.commands.report import ReportError, find_report
from ctr_pipeline.deployment.explained_changes import explained_change
from ctr_pipeline.deployment.json_files import read_json
from ctr_pipeline.deployment.retrain_places import NoRetrainError, RetrainPlace


def explain_change(
    run_a: str,
    run_b: str,
    data_root: Path | None,
    other_root: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """What `ctr explain --json` writes: in what two retrains differ, and the causes in order.

    Args:
        run_a: The retrain before: an MLflow run id, a day, ``latest``, or the folder of a retrain's training.
        run_b: The retrain that is explained, likewise.
        data_root: Where runs are looked for by name; None where both are folders.
        other_root: Where ``run_b`` is looked for by name; ``data_root`` when None.
        progress: Receives what is done next.

    Raises:
        NoRetrainError: there is no such retrain, or it is not whole.
    """
    old, new = find_retrain(run_a, data_root), find_retrain(run_b, other_root or data_root)
    if old == new:
        raise NoRetrainError(f"{run_a} and {run_b} are the same retrain ({old.paths.training}): name two.")
    return explained_change(old, new, progress=progress).to_json()


def find_retrain(run: str, data_root: Path | None) -> RetrainPlace:
    """The retrain that ``run`` names.

    Raises:
        NoRetrainError: there is none; the message lists those of the data root.
    """
    if Path(run).is_dir():
        return RetrainPlace.of_folder(Path(run))
    if data_root is None:
        raise NoRetrainError(f"{run}: no such folder. To name a run by its id or day, add --data-root.")
    root = data_root.resolve()
    days = sorted(path.parent.name for path in root.glob("training/*/spec.yaml"))
    if run in days:
        return RetrainPlace(root, run)
    if run == "latest" and days:
        return RetrainPlace(root, days[-1])
    try:
        day = str(find_report(run, root).get("days", {}).get("last"))
    except ReportError:
        day = ""
    recorded = [*root.glob("training/*/run.json"), *root.glob("replaced/training/*/run.json")]
    if own := [path.parent for path in recorded if read_json(path).get("run_id") == run]:
        return RetrainPlace.of_folder(own[0])
    if day in days:
        raise NoRetrainError(
            f"run {run} is no longer the retrain of {day} in {root}: a later one of the same day took its place. Its report is kept."
        )
    raise NoRetrainError(
        f"no retrain {run!r} in {root}. Retrains there: {', '.join(days) or 'none'}. Make one with `ctr run`."
    )
