"""Is the model good enough to take over?"""

from collections.abc import Mapping, Sequence

import dagster as dg

CALIBRATED = "observed_over_expected"
PARITY = "export_parity"
NOT_WORSE = "not_worse_than_champion"
INFORMATIVE = "better_than_base_rate"


def evaluation_check_specs(asset: str) -> list[dg.AssetCheckSpec]:
    """Checks of the evaluation on the test rows."""
    return [
        dg.AssetCheckSpec(INFORMATIVE, asset=asset, description="Normalised entropy of the first task is below 1."),
        dg.AssetCheckSpec(
            CALIBRATED, asset=asset, description="Observed over expected outcomes is near 1 on the test."
        ),
    ]


def parity_check_spec(asset: str) -> dg.AssetCheckSpec:
    """Blocking: what is served must be what was trained."""
    return dg.AssetCheckSpec(
        PARITY, asset=asset, blocking=True, description="The exported graph scores as the trained model does."
    )


def champion_check_spec(asset: str) -> dg.AssetCheckSpec:
    """Warning: the challenger lost, so the champion stays."""
    return dg.AssetCheckSpec(NOT_WORSE, asset=asset, description="The new model is not worse than the champion.")


def check_informative(asset: str, task: str, ne: float | None) -> dg.AssetCheckResult:
    """Error when the model predicts no better than the base rate."""
    passed = ne is not None and ne < 1
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=INFORMATIVE,
        passed=passed,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={"task": task, **({"ne": ne} if ne is not None else {})},
        description=None
        if passed
        else (
            f"Normalised entropy of {task} is {ne:.4f}: the model is no better than the base rate."
            if ne is not None
            else f"The test rows of {task} have only one class: nothing can be said about the model."
        ),
    )


def check_calibrated(
    asset: str, intervals: Mapping[str, tuple[float, float, float]], low: float = 0.9, high: float = 1.1
) -> dg.AssetCheckResult:
    """Warning when a task's observed/expected lies outside [low, high] beyond doubt.

    Args:
        asset: Asset that was evaluated.
        intervals: Observed/expected with its 95 % interval (value, low, high), by task.
        low: Smallest ratio that counts as calibrated.
        high: Largest ratio that counts as calibrated.
    """
    off = {task: oe for task, oe in intervals.items() if oe[2] < low or oe[1] > high}
    listed = ", ".join(f"{task} {oe[0]:.3f} [{oe[1]:.3f}, {oe[2]:.3f}]" for task, oe in off.items())
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=CALIBRATED,
        passed=not off,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={f"observed_over_expected/{task}": oe[0] for task, oe in intervals.items()},
        description=f"Outcomes are not as many as predicted: {listed}." if off else None,
    )


def check_parity(asset: str, passed: bool, logit: float, probability: float, batch: float) -> dg.AssetCheckResult:
    """Error when the exported graph and the trained model disagree, or a row's score depends on its batch.

    Args:
        asset: Asset that was exported.
        passed: The verdict.
        logit: Largest difference of a logit.
        probability: Largest difference of a calibrated probability.
        batch: Largest difference of a row's probability alone and in a batch.
    """
    figures = (
        f"logits differ by up to {logit:.1e}, probabilities by {probability:.1e}, alone and in a batch by {batch:.1e}"
    )
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=PARITY,
        passed=passed,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={"logit": logit, "probability": probability, "batch": batch},
        description=figures,
    )


def check_champion(asset: str, promoted: bool, reasons: Sequence[str]) -> dg.AssetCheckResult:
    """Warning when the new model was not promoted."""
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=NOT_WORSE,
        passed=promoted,
        severity=dg.AssetCheckSeverity.WARN,
        description=" ".join(reasons) or None,
    )
