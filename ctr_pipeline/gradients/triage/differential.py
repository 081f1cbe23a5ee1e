"""Where a training departs from the one that it declares, stage by stage, and what that says of causes.

The declared training is built anew from the job. Each of its stages is given what the same stage of the training in
question was given, so that a fault is seen at the stage that it is in and at no later one. A stage that differs beyond
rounding is beyond doubt; which cause made it is told by the form of the difference.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from ctr_pipeline.gradients.triage.evidence import Clue
from ctr_pipeline.gradients.triage.hypothesis import Hypothesis

COMPARED = "the declared training"
"""Name of the comparison among what a triage looked at."""

STAGES: Mapping[str, str] = {
    "rows": "the rows in memory",
    "batches": "the batches",
    "initial": "the weights and buffers before the first step",
    "forward": "the forward pass",
    "loss": "the loss and its gradient at the logits",
    "gradients": "the gradients that backward gives",
    "received": "the gradients that the optimizers receive",
    "update": "what the optimizers write",
    "between": "what lies between two steps",
    "scoring": "the model that was stored",
}
"""The stages in the order of the computation."""

GENERIC: Mapping[str, str] = {
    "rows": "rows_differ", "batches": "batch_differs", "initial": "initial_differs", "forward": "forward_differs",
    "loss": "loss_differs", "gradients": "gradient_differs", "received": "gradient_differs", "update": "update_differs",
    "between": "update_differs", "scoring": "scoring_differs",
}  # fmt: skip
"""The cause that is named where a stage differs in a form that no other cause has."""

GENERIC_WEIGHT = 0.76

_DATA, _SETTINGS = "data", "settings"

_CAUSES_OF: Mapping[str, str] = {
    "rows": """unknown_as_zero mask_drops_labels weights_misapplied label_permute row_shift label_flip label_noise
        mask_inverted base_rate_shift leak hash_clip ids_misplaced id_out_of_range unnormalised_feature infinite_feature
        feature_missing feature_permuted feature_drift ips_unclipped weights_scaled bad_weight duplicate_rows open_window
        train_serving_skew rows_differ wrong_offsets""",
    "batches": """unknown_as_zero mask_drops_labels weights_misapplied label_permute row_shift label_flip label_noise
        mask_inverted base_rate_shift leak hash_clip ids_misplaced id_out_of_range unnormalised_feature infinite_feature
        feature_missing feature_permuted feature_drift ips_unclipped weights_scaled bad_weight duplicate_rows stale_batch
        rows_not_shuffled batch_differs""",
    "initial": """stale_optimizer frozen_tower new_embedding_huge bad_init_large bad_init_small bad_init_const no_base_rate
        padding_row_trained dead_relu wrong_offsets fp16_embedding dropout_too_high unnormalised_feature feature_ignored
        eval_mode weights_overwritten optimizer_state_differs initial_differs""",
    "forward": """detached_tower weights_overwritten feature_permuted ids_misplaced hash_clip feature_missing feature_drift infinite_feature double_sigmoid no_base_rate padding_row_trained dead_relu wrong_offsets eval_mode random_in_evaluation
        bounded_logits temperature feature_ignored batch_mixing dropout_too_high fp16_embedding log_of_negative
        unnormalised_feature forward_differs""",
    "loss": """loss_sum accum_nodiv double_sigmoid sign_flip log0 unknown_as_zero mask_drops_labels mask_empty
        weights_misapplied class_weights task_weight_huge wrong_loss loss_scaled label_flip amp_no_unscale ips_unclipped
        bounded_logits temperature loss_differs""",
    "gradients": """accum_nodiv missing_zero_grad amp_no_unscale amp_no_scaling gradient_zeroed gradient_reversed
        gradient_changed stale_gradients frozen_tower detached_tower l2_in_adam clip_by_value clip_per_param
        padding_row_trained gradient_differs""",
    "received": """accum_nodiv missing_zero_grad clip_per_param clip_by_value clip_too_tight amp_no_unscale amp_no_scaling
        gradient_zeroed gradient_reversed gradient_changed stale_gradients l2_in_adam gradient_differs""",
    "update": """optimizer_misses_table stale_optimizer parameter_held_twice frozen_tower huge_lr tiny_lr l2_in_adam
        huge_weight_decay optimizer_settings optimizer_state_reset weights_overwritten gradient_reversed fp16_embedding
        padding_row_trained update_skipped optimizer_state_differs update_differs""",
    "between": """optimizer_state_reset optimizer_state_differs weights_overwritten l2_in_adam fp16_embedding huge_weight_decay padding_row_trained
        update_differs""",
    "scoring": "random_in_evaluation train_serving_skew weights_overwritten fp16_embedding eval_mode scoring_differs",
    _SETTINGS: """clip_too_tight task_weight_huge amp_no_scaling huge_lr tiny_lr huge_weight_decay optimizer_settings dead_relu
        dropout_too_high strong_smoothing""",
    _DATA: """unknown_as_zero mask_drops_labels weights_misapplied label_permute row_shift label_flip label_noise mask_inverted
        base_rate_shift leak hash_clip ids_misplaced id_out_of_range unnormalised_feature infinite_feature feature_missing
        train_serving_skew feature_permuted feature_drift ips_unclipped weights_scaled bad_weight rows_not_shuffled open_window
        duplicate_rows class_weights""",
}  # fmt: skip
"""By stage, and for data and settings, the causes that may lie there."""

_STAGES_OF: Mapping[str, frozenset[str]] = {
    cause: frozenset(stage for stage, text in _CAUSES_OF.items() if cause in text.split())
    for cause in {name for text in _CAUSES_OF.values() for name in text.split()}
}

_SET_BACK, _LATER = 0.35, 0.7
"""Factors on the score of what the comparison does not bear out; and of what is of a stage after the first that differs, or
was not seen in the comparison where another cause of the same stage was.
"""


def at_stage(clues: Iterable[Clue], stage: str) -> Iterator[Clue]:
    """Clues from a difference of ``stage``, and with the first of them one for the stage itself."""
    first: Clue | None = None
    for clue in clues:
        first = first or clue
        yield replace(clue, stage=stage)
    if first is not None:
        yield generic_clue(stage, first.text, first.location)


def generic_clue(stage: str, text: str, location: str | None = None) -> Clue:
    """The clue that ``stage`` differs, whatever made it."""
    return Clue(cause=GENERIC[stage], weight=GENERIC_WEIGHT, text=text, location=location, stage=stage)


def only_here(own: Iterable[Clue], declared: Iterable[Clue], differing: Collection[str] = ()) -> Iterator[Clue]:
    """Clues of the training in question, with their stage where the same rules say nothing of the declared training.

    Of the stages in which their cause may lie it is one of those ``differing`` that the steps showed, if any, else the first.

    What both show is declared, or is of the rows: no stage differs for it. The rules are those of loss, model and optimizers.
    """
    there = {(clue.cause, clue.location) for clue in declared}
    for clue in own:
        code = [s for s in STAGES if s in _STAGES_OF.get(clue.cause, ()) and s not in ("rows", "batches")]
        code = [stage for stage in code if stage in differing] or code
        known = (clue.cause, clue.location) in there
        yield clue if known or not code or clue.against or clue.weight < 0.5 else replace(clue, stage=code[0])


def borne_out(found: Sequence[Hypothesis], kept: Collection[str] = ()) -> list[Hypothesis]:
    """Hypotheses with the scores that the comparison with the declared training leaves them; those of ``kept`` causes stay."""
    order = list(STAGES)
    differing = sorted({h.stage for h in found if h.stage}, key=order.index)
    specific = {
        h.stage for h in found if h.stage and h.cause not in GENERIC.values() and h.score >= GENERIC_WEIGHT - 0.01
    }
    return [h if h.cause in kept else _borne_out(h, differing, specific) for h in found]


def _borne_out(own: Hypothesis, differing: Sequence[str], specific: set[str]) -> Hypothesis:
    stages = _STAGES_OF.get(own.cause)
    if stages is None:
        return own
    if own.stage:
        if own.cause in GENERIC.values() and own.stage in specific:
            return replace(own, score=round(own.score * _SET_BACK, 4))
        if own.stage != differing[0]:
            text = f"the training departs from what is declared before it, at {STAGES[differing[0]]}"
            return replace(own, score=round(own.score * _LATER, 4), against=(*own.against, text), separating=False)
        return own
    if differing and stages & set(differing):
        text = f"the comparison of {STAGES[differing[0]]} shows another cause"
        if differing[0] not in specific:
            return own
        return replace(own, score=round(own.score * _LATER, 4), against=(*own.against, text), separating=False)
    if differing:
        text = f"it does not explain that the training departs from what is declared at {STAGES[differing[0]]}"
    elif stages & {_DATA, _SETTINGS}:
        return own
    else:
        text = "each stage of the training gives what is declared"
    return replace(own, score=round(own.score * _SET_BACK, 4), against=(*own.against, text), separating=False)
