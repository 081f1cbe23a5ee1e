"""What a stop, the findings of detectors, the steps and the validation say of causes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from ctr_pipeline.gradients.triage.contract_rules import LOSS_FAULTS
from ctr_pipeline.gradients.triage.evidence import Clue, RunEvidence

REPRODUCED = 0.05
"""Relative difference of a loss up to which a step is the same: other processors, processes and precisions round otherwise."""

SMOOTHED = 0.2
"""Share of each label that is drawn to the base rate, above which predictions are so too."""

HIGH_RATE, HIGH_TABLE_RATE = 0.05, 1.0
"""Learning rates of adaptive optimizers above which trainings of rankers break rather than learn."""


def run_clues(evidence: RunEvidence) -> Iterator[Clue]:
    """Clues from all but the contracts."""
    yield from _stop_clues(evidence)
    yield from _finding_clues(evidence)
    yield from _rate_clues(evidence)
    yield from _smoothing_clues(evidence)
    yield from _step_clues(evidence.steps)


def reproduction_clues(recorded: Sequence[Mapping[str, Any]], losses: Sequence[float]) -> Iterator[Clue]:
    """Whether the first steps that a training recorded are those of the training that is built once more.

    Args:
        recorded: Records of its steps, oldest first.
        losses: Losses of the first steps of the other one.
    """
    by_step = {int(step["step"]): step.get("loss") for step in recorded[: len(losses)] if "step" in step}
    for step, loss in enumerate(losses):
        found = by_step.get(step)
        if not isinstance(found, int | float) or not math.isfinite(found) or not math.isfinite(loss):
            continue
        if abs(found - loss) > REPRODUCED * max(abs(loss), 0.1):
            text = f"the loss of step {step} was recorded as {found:.6g}, and is {loss:.6g} of the training as it is built now"
            yield Clue(cause="not_reproduced", weight=0.5, text=text)
            return


def _stop_clues(evidence: RunEvidence) -> Iterator[Clue]:
    cause = evidence.cause
    kind, text = cause.get("kind"), str(cause.get("message", ""))
    where = cause.get("feature") or cause.get("tensor") or None
    if kind == "input":
        by_tensor = {"numeric": "infinite_feature", "ids": "id_out_of_range", "weights": "bad_weight"}
        if (name := by_tensor.get(str(cause.get("tensor")))) is not None:
            location = cause.get("feature") or where
            yield Clue(cause=name, weight=0.95, text=text, location=location, separating=True)
    elif kind in ("parameter", "buffer", "optimizer_state"):
        yield Clue(cause="nonfinite_weight", weight=0.7, text=text, location=where)
    elif kind == "loss":
        yield Clue(cause="log0", weight=0.5, text=text, location=where)
    elif kind in ("activation", "gradient", "overflow"):
        yield Clue(cause="huge_lr", weight=0.2, text=text, location=where)


def _finding_clues(evidence: RunEvidence) -> Iterator[Clue]:
    if (found := evidence.finding("loss_gradient")) is not None:
        fault = str(found.get("loss_fault", ""))
        if not fault:
            fault = _fault_in(str(found["message"]))
        if (cause := LOSS_FAULTS.get(fault)) is not None:
            weight = 0.5 if fault in ("not_finite", "other_formula", "scaled", "labels_exchanged") else 0.9
            yield Clue(cause=cause, weight=weight, text=str(found["message"]), separating=weight > 0.8)
    if (found := evidence.finding("update_ratio")) is not None:
        error = found["severity"] == "error"
        location = found.get("tensor")
        yield Clue(cause="huge_lr", weight=0.5 if error else 0.25, text=str(found["message"]), location=location)
    if (found := evidence.finding("dead_units")) is not None and "not measured" not in str(found["message"]):
        error = found["severity"] == "error"
        yield Clue(
            cause="dead_relu", weight=0.4 if error else 0.2, text=str(found["message"]), location=found.get("tensor")
        )
    if (found := evidence.finding("learning_rate")) is not None:
        factor = float(found.get("value") or 0.0)
        cause = "tiny_lr" if factor < 1 else "huge_lr"
        # A rate that is a little otherwise is wrong, and neither huge nor tiny.
        sure = found["severity"] == "error" and not 0.1 < factor < 10
        yield Clue(cause=cause, weight=0.93 if sure else 0.5, text=str(found["message"]), separating=sure)
    if (found := evidence.finding("batch_composition")) is not None:
        error = found["severity"] == "error"
        location = found.get("tensor")
        yield Clue(
            cause="rows_not_shuffled",
            weight=0.93 if error else 0.6,
            text=str(found["message"]),
            location=location,
            separating=error,
        )
    if (found := evidence.finding("stale_batch")) is not None:
        yield Clue(cause="stale_batch", weight=0.85, text=str(found["message"]))
    if (found := evidence.finding("norm_ratio")) is not None and found["severity"] == "error":
        yield Clue(cause="huge_lr", weight=0.15, text=str(found["message"]))


def _fault_in(message: str) -> str:
    """The fault of a loss from its sentence, for findings that do not name it."""
    shapes = (
        ("σ(σ(z))", "double_sigmoid"),
        ("r = −1", "sign_flip"),
        ("summed and not averaged", "sum_reduction"),
        ("accumulated and not divided", "accumulation"),
        ("labels that are not known", "unknown_labels"),
        ("weights of the labels are", "weights_twice"),
        ("drops them", "labels_dropped"),
        ("classes are weighted", "class_weights"),
        ("squared error", "squared_error"),
        ("loss scale is applied", "loss_scale"),
        ("without their limit", "weights_unclipped"),
    )
    return next((fault for shape, fault in shapes if shape in message), "")


def _rate_clues(evidence: RunEvidence) -> Iterator[Clue]:
    trouble = (
        bool(evidence.cause) or any(f["severity"] != "ok" for f in evidence.findings) or _diverged(evidence.validation)
    )
    for key, limit, what in (
        ("learning_rate", HIGH_RATE, "the dense part"),
        ("embedding_learning_rate", HIGH_TABLE_RATE, "the tables"),
    ):
        rate = evidence.settings.get(key)
        if isinstance(rate, int | float) and rate > limit:
            text = f"the learning rate of {what} is {rate:g} (above {limit:g} adaptive optimizers rarely learn)"
            yield Clue(cause="huge_lr", weight=0.7 if trouble else 0.4, text=text, location=key)
        if isinstance(rate, int | float) and rate < 1e-6:
            yield Clue(cause="tiny_lr", weight=0.7, text=f"the learning rate of {what} is {rate:g}", location=key)


def _smoothing_clues(evidence: RunEvidence) -> Iterator[Clue]:
    share = evidence.settings.get("label_smoothing")
    if isinstance(share, int | float) and share > SMOOTHED:
        text = f"label_smoothing is {share:g}: predictions of the least loss are drawn to the base rate by that share of their distance"
        yield Clue(cause="strong_smoothing", weight=0.85, text=text, location="label_smoothing")


def _diverged(validation: Sequence[Mapping[str, Any]]) -> bool:
    known = [float(epoch["ne"]) for epoch in validation if epoch.get("ne") is not None]
    return bool(known) and not min(known) < 1


def _step_clues(steps: Sequence[Mapping[str, Any]]) -> Iterator[Clue]:
    losses = [float(step["loss"]) for step in steps if isinstance(step.get("loss"), int | float)]
    if len(losses) < 20 or not all(map(math.isfinite, losses)):
        return
    early, late = median(losses[:5]), median(losses[-10:])
    if late > 2 * abs(early) + 0.1:
        yield Clue(
            cause="huge_lr", weight=0.2,
            text=f"the loss rose from {early:.4g} in the first steps to {late:.4g} in the last ones",
        )  # fmt: skip
