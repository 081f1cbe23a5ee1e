"""What broken contracts say of causes."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ctr_pipeline.gradients.triage.evidence import Clue, RunEvidence

LOSS_FAULTS = {
    "detached": "mask_drops_labels",
    "sign_flip": "sign_flip",
    "sum_reduction": "loss_sum",
    "divided_twice": "wrong_loss",
    "mean_over_rows": "wrong_loss",
    "task_weight_twice": "task_weight_huge",
    "task_weight_missing": "task_weight_huge",
    "loss_scale": "amp_no_unscale",
    "accumulation": "accum_nodiv",
    "scaled": "loss_scaled",
    "scaled_by_task": "task_weight_huge",
    "weights_twice": "weights_misapplied",
    "weights_missing": "weights_misapplied",
    "weights_unclipped": "ips_unclipped",
    "weights_other": "weights_misapplied",
    "double_sigmoid": "double_sigmoid",
    "squared_error": "wrong_loss",
    "clamped": "wrong_loss",
    "labels_dropped": "mask_drops_labels",
    "class_weights": "class_weights",
    "labels_exchanged": "label_flip",
    "unknown_labels": "unknown_as_zero",
    "other_formula": "wrong_loss",
    "not_finite": "log0",
}
"""The causes of the faults that :mod:`ctr_pipeline.gradients.core.loss_faults` names."""

Rule = Callable[[Mapping[str, Any]], Iterator[Clue]]


def contract_clues(evidence: RunEvidence) -> Iterator[Clue]:
    """Clues from each broken contract."""
    for outcome in [*evidence.outcomes, *_stopping(evidence)]:
        if outcome["verdict"] == "failed" and (rule := _RULES.get(outcome["name"])) is not None:
            yield from rule(outcome)


def _stopping(evidence: RunEvidence) -> list[Mapping[str, Any]]:
    """The contract that ended the training, where it was broken after contracts.json was written."""
    cause = evidence.cause
    name = str(cause.get("contract", ""))
    if not name or evidence.failed(name) is not None:
        return []
    return [{
        "name": name, "verdict": "failed", "message": cause["message"], "where": cause.get("tensor"), "hard": True,
        "feature": cause.get("feature"), "measured": cause.get("measured"), "limit": cause.get("limit"),
    }]  # fmt: skip


def _of(cause: str, weight: float = 0.9, *, separating: bool = True) -> Rule:
    def rule(outcome: Mapping[str, Any]) -> Iterator[Clue]:
        where = outcome.get("feature") or outcome.get("where") or None
        yield Clue(cause=cause, weight=weight, text=str(outcome["message"]), location=where, separating=separating)

    return rule


def _coverage(outcome: Mapping[str, Any]) -> Iterator[Clue]:
    text = str(outcome["message"])
    for part, cause in (
        ("requires_grad", "frozen_tower"),
        ("not in the model", "stale_optimizer"),
        ("no optimizer holds", "optimizer_misses_table"),
        ("more than once", "parameter_held_twice"),
    ):
        if part in text:
            yield Clue(cause=cause, weight=0.95, text=text, location=outcome.get("where") or None, separating=True)
            return


def _movement(outcome: Mapping[str, Any]) -> Iterator[Clue]:
    text, where = str(outcome["message"]), outcome.get("where") or None
    for part, cause, weight in (
        ("requires_grad", "frozen_tower", 0.9),
        ("not reached by backward", "detached_tower", 0.9),
        ("is not updated", "optimizer_misses_table", 0.4),
        ("is not updated", "tiny_lr", 0.4),
        ("gradient of 0 throughout", "dead_relu", 0.2),
    ):
        if part in text:
            yield Clue(cause=cause, weight=weight, text=text, location=where, separating=weight >= 0.9)


def _first_gradient(outcome: Mapping[str, Any]) -> Iterator[Clue]:
    text, where = str(outcome["message"]), outcome.get("where") or None
    if "exactly 0" in text:
        yield Clue(cause="amp_no_scaling", weight=0.9, text=text, separating=True)
    elif "one by one" in text:
        yield Clue(cause="clip_per_param", weight=0.8, text=text)
    else:
        yield Clue(cause="gradient_changed", weight=0.5, text=text, location=where)


def _single_feature(outcome: Mapping[str, Any]) -> Iterator[Clue]:
    text, where = str(outcome["message"]), outcome.get("where") or None
    if "alone tells" in text:
        yield Clue(cause="leak", weight=0.95 if outcome["hard"] else 0.8, text=text, location=where, separating=True)
    else:
        # Of many rows some features say nothing alone.
        yield Clue(cause="label_permute", weight=0.25, text=text)
        yield Clue(cause="label_noise", weight=0.2, text=text)


def _starting_prediction(outcome: Mapping[str, Any]) -> Iterator[Clue]:
    text, where = str(outcome["message"]), outcome.get("where") or None
    if "shifted" in text:
        yield Clue(cause="no_base_rate", weight=0.6, text=text, location=where)
    else:
        yield Clue(cause="bad_init_large", weight=0.6, text=text, location=where)
        yield Clue(cause="new_embedding_huge", weight=0.2, text=text)


def _concentration(outcome: Mapping[str, Any]) -> Iterator[Clue]:
    text, where = str(outcome["message"]), outcome.get("feature") or None
    yield Clue(cause="hash_clip", weight=0.6, text=text, location=where)
    yield Clue(cause="ids_misplaced", weight=0.4, text=text, location=where)


def _funnel(outcome: Mapping[str, Any]) -> Iterator[Clue]:
    """Nearly all outcomes without the step before are those of an inverted mask; some are those of wrong labels too."""
    nearly_all = float(outcome["measured"] or 0.0) > 0.9
    where = outcome.get("where") or None
    yield Clue(
        cause="mask_inverted", weight=0.93 if nearly_all else 0.6 if outcome["hard"] else 0.4, text=str(outcome["message"]),
        location=where, separating=nearly_all,
    )  # fmt: skip


def _known_values(outcome: Mapping[str, Any]) -> Iterator[Clue]:
    """Too few values of the training rows are known, or of the validation's."""
    text, where = str(outcome["message"]), outcome.get("feature") or None
    cause, weight = "feature_missing", 0.9
    if "would learn from what is not there" in text:
        cause = "train_serving_skew"
    elif "unknown to its vocabulary" in text:
        cause = "hash_clip"
    yield Clue(
        cause=cause,
        weight=weight if outcome["hard"] else 0.5,
        text=text,
        location=where,
        separating=bool(outcome["hard"]),
    )


def _logit_scale(outcome: Mapping[str, Any]) -> Iterator[Clue]:
    text, where = str(outcome["message"]), outcome.get("where") or None
    constant = "whatever the row" in text
    cause, weight = ("temperature", 0.95) if constant else ("bounded_logits", 0.3)
    yield Clue(cause=cause, weight=weight, text=text, location=where, separating=constant)


def _settings(outcome: Mapping[str, Any]) -> Iterator[Clue]:
    weight = 0.93 if outcome["hard"] else 0.6
    where = outcome.get("where") or None
    yield Clue(
        cause="optimizer_settings",
        weight=weight,
        text=str(outcome["message"]),
        location=where,
        separating=bool(outcome["hard"]),
    )


def _weights(outcome: Mapping[str, Any]) -> Iterator[Clue]:
    weight = 0.95 if outcome["hard"] else 0.6
    where = outcome.get("where") or None
    yield Clue(
        cause="ips_unclipped",
        weight=weight,
        text=str(outcome["message"]),
        location=where,
        separating=bool(outcome["hard"]),
    )


def _loss_oracle(outcome: Mapping[str, Any]) -> Iterator[Clue]:
    for cause in (
        "loss_sum",
        "double_sigmoid",
        "wrong_loss",
        "accum_nodiv",
        "unknown_as_zero",
        "sign_flip",
        "weights_misapplied",
    ):
        yield Clue(cause=cause, weight=0.25, text=str(outcome["message"]))


_RULES: dict[str, Rule] = {
    "optimizer_coverage": _coverage,
    "weights_move": _movement,
    "first_gradient": _first_gradient,
    "single_feature": _single_feature,
    "starting_prediction": _starting_prediction,
    "effective_rows": _weights,
    "loss_oracle": _loss_oracle,
    "training_mode": _of("eval_mode", 0.95),
    "feature_scale": _of("unnormalised_feature", 0.9),
    "id_concentration": _concentration,
    "row_shift": _of("row_shift", 0.95),
    "funnel": _funnel,
    "own_rows": _of("wrong_offsets", 0.95),
    "table_rows": _of("id_out_of_range", 0.95),
    "empty_mask": _of("mask_empty", 0.6, separating=False),
    "loss_range": _of("log0", 0.7, separating=False),
    "cross_sample": _of("batch_mixing", 0.95),
    "differing_units": _of("bad_init_const", 0.95),
    "live_units": _of("dead_relu", 0.85),
    "table_scale": _of("new_embedding_huge", 0.95),
    "clip_direction": _of("clip_per_param", 0.8, separating=False),
    "untouched_rows": _of("l2_in_adam", 0.95),
    "gradients_reset": _of("missing_zero_grad", 0.95),
    "missing_values": _of("feature_missing", 0.93),
    "padding_rows": _of("padding_row_trained", 0.95),
    "parameter_types": _of("fp16_embedding", 0.95),
    "task_balance": _of("task_weight_huge", 0.9),
    "update_ratio": _of("huge_lr", 0.8, separating=False),
    "label_alignment": _of("label_permute", 0.6, separating=False),
    "evaluation_mode": _of("random_in_evaluation", 0.93),
    "feature_dominance": _of("leak", 0.4, separating=False),
    "feature_leak": _of("leak", 0.88),
    "repeated_batch": _of("stale_batch", 0.95),
    "standardisation": _of("unnormalised_feature", 0.93),
    "known_values": _known_values,
    "outcome_rates": _of("open_window", 0.93),
    "batch_composition": _of("rows_not_shuffled", 0.95),
    "optimizer_settings": _settings,
    "optimizer_epsilon": _settings,
    "decay_strength": _of("huge_weight_decay", 0.93),
    "logit_scale": _logit_scale,
    "first_loss": _of("wrong_loss", 0.3, separating=False),
}  # fmt: skip
