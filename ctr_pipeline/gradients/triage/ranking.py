"""From clues to ranked hypotheses: clues of one cause add up, what another cause explains is set back, two may act together."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ctr_pipeline.gradients.triage.causes import CAUSES, INTERACTIONS
from ctr_pipeline.gradients.triage.contract_rules import contract_clues
from ctr_pipeline.gradients.triage.differential import COMPARED, STAGES, borne_out
from ctr_pipeline.gradients.triage.evidence import Clue, RunEvidence
from ctr_pipeline.gradients.triage.hypothesis import Hypothesis, Triage
from ctr_pipeline.gradients.triage.run_rules import run_clues

LEAST_SCORE = 0.3
"""Score below which a hypothesis is not named."""

SURE_SCORE, SURE_LEAD = 0.9, 0.25
"""Score of a hypothesis, and its lead over the next one, from which it may be called sure."""

TOGETHER = 0.5
"""Score from which two causes may act together."""

MOST = 6
"""Hypotheses that are named."""

_NUMBER = re.compile(r"step \d+: contract \w+: |[\d.,]+(e[+-]?\d+)?")

_SET_BACK = 0.35
"""Factor on the score of a hypothesis that a stronger one explains."""

EXPLAINS: dict[str, frozenset[str]] = {
    "new_embedding_huge": frozenset({"no_base_rate", "bad_init_large", "huge_lr", "dead_relu"}),
    "bad_init_large": frozenset({"no_base_rate", "huge_lr", "dead_relu"}),
    "unnormalised_feature": frozenset(
        {
            "feature_permuted",
            "no_base_rate",
            "bad_init_large",
            "feature_drift",
            "dead_relu",
            "huge_lr",
            "feature_ignored",
        }
    ),
    "infinite_feature": frozenset({"nonfinite_weight", "log0", "unnormalised_feature"}),
    "ips_unclipped": frozenset({"weights_scaled", "huge_lr"}),
    "loss_sum": frozenset({"loss_scaled", "wrong_loss", "huge_lr", "clip_too_tight", "mask_empty"}),
    "double_sigmoid": frozenset({"wrong_loss", "log0", "loss_scaled"}),
    "sign_flip": frozenset({"wrong_loss", "log0", "gradient_reversed", "huge_lr"}),
    "log0": frozenset({"wrong_loss", "nonfinite_weight"}),
    "unknown_as_zero": frozenset({"wrong_loss", "mask_empty", "weights_misapplied"}),
    "accum_nodiv": frozenset({"loss_scaled", "wrong_loss", "amp_no_unscale"}),
    "frozen_tower": frozenset({"detached_tower", "optimizer_misses_table", "tiny_lr"}),
    "stale_optimizer": frozenset({"optimizer_misses_table", "tiny_lr", "detached_tower"}),
    "optimizer_misses_table": frozenset({"tiny_lr"}),
    "detached_tower": frozenset({"dead_relu", "tiny_lr", "no_base_rate"}),
    "row_shift": frozenset({"label_permute", "label_noise"}),
    "label_permute": frozenset({"label_noise", "feature_drift", "feature_permuted", "mask_inverted"}),
    "leak": frozenset({"feature_drift", "unnormalised_feature"}),
    "feature_permuted": frozenset({"feature_drift"}),
    "huge_lr": frozenset({"dead_relu", "nonfinite_weight"}),
    "bad_init_small": frozenset({"dead_relu", "detached_tower", "tiny_lr"}),
    "bad_init_const": frozenset({"dead_relu", "bad_init_small"}),
    "missing_zero_grad": frozenset({"gradient_changed", "stale_gradients", "huge_lr"}),
    "clip_per_param": frozenset({"gradient_changed"}),
    "clip_by_value": frozenset({"gradient_changed", "clip_per_param"}),
    "amp_no_scaling": frozenset({"gradient_changed", "gradient_zeroed"}),
    "amp_no_unscale": frozenset({"gradient_changed", "clip_per_param", "loss_scaled"}),
    "duplicate_rows": frozenset(
        {
            "leak",
            "label_permute",
            "feature_missing",
            "feature_drift",
            "ids_misplaced",
            "base_rate_shift",
            "label_noise",
            "unnormalised_feature",
            "rows_not_shuffled",
        }
    ),
    "open_window": frozenset({"base_rate_shift", "label_permute", "label_noise", "no_base_rate"}),
    "temperature": frozenset({"no_base_rate", "bad_init_large", "bounded_logits", "huge_lr", "wrong_loss"}),
    "rows_not_shuffled": frozenset({"stale_batch", "huge_lr", "base_rate_shift"}),
    "stale_gradients": frozenset(
        {
            "gradient_changed",
            "gradient_zeroed",
            "gradient_reversed",
            "clip_per_param",
            "clip_by_value",
            "optimizer_misses_table",
            "tiny_lr",
        }
    ),
    "optimizer_settings": frozenset({"tiny_lr", "huge_lr"}),
    "hash_clip": frozenset({"ids_misplaced", "feature_drift", "feature_permuted", "label_permute", "label_noise"}),
    "ids_misplaced": frozenset({"hash_clip", "feature_permuted"}),
    "feature_drift": frozenset({"feature_permuted"}),
    "label_noise": frozenset({"mask_inverted", "base_rate_shift", "label_permute"}),
    "mask_inverted": frozenset({"base_rate_shift", "no_base_rate", "label_noise"}),
    "task_weight_huge": frozenset({"loss_scaled", "accum_nodiv", "wrong_loss"}),
    "dropout_too_high": frozenset({"gradient_zeroed", "dead_relu"}),
    "label_flip": frozenset({"no_base_rate", "base_rate_shift", "mask_inverted", "label_noise", "feature_drift"}),
    "log_of_negative": frozenset({"log0", "bad_init_large", "no_base_rate", "huge_lr", "detached_tower", "dead_relu"}),
    "nonfinite_weight": frozenset({"log0", "bad_init_large", "no_base_rate", "log_of_negative"}),
    "feature_missing": frozenset(
        {
            "feature_permuted",
            "feature_drift",
            "infinite_feature",
            "feature_ignored",
            "unnormalised_feature",
            "hash_clip",
        }
    ),
    "batch_mixing": frozenset({"random_in_evaluation"}),
    "dead_relu": frozenset({"feature_ignored", "detached_tower"}),
    "train_serving_skew": frozenset({"label_permute", "label_noise", "feature_drift", "feature_permuted", "leak"}),
    "eval_mode": frozenset({"gradient_changed"}),
    "bounded_logits": frozenset({"dead_relu", "no_base_rate"}),
    "optimizer_state_differs": frozenset({"tiny_lr", "optimizer_state_reset"}),
}
"""Causes that a cause brings with it: their evidence alone is no second fault."""


def triage(evidence: RunEvidence) -> Triage:
    """The hypotheses about a training, from all clues that its evidence holds."""
    clues = [*contract_clues(evidence), *run_clues(evidence), *evidence.clues]
    return rank(clues, evidence.looked_at)


def rank(clues: Sequence[Clue], looked_at: tuple[str, ...] = ()) -> Triage:
    """The hypotheses that ``clues`` suggest."""
    found = [_joined(cause, clues) for cause in dict.fromkeys(clue.cause for clue in clues if not clue.against)]
    differing = tuple(stage for stage in STAGES if any(h.stage == stage for h in found))
    if COMPARED in looked_at:
        # Of two that act together, one may be in the code and the other in the rows.
        likely = {h.cause for h in found if h.score >= TOGETHER}
        together = {cause for pair in INTERACTIONS if pair <= likely for cause in pair}
        found = borne_out(found, together)
    found = _with_interactions(_explained_away(found))
    named = sorted((h for h in found if h.score >= LEAST_SCORE), key=lambda h: -h.score)[:MOST]
    return Triage(hypotheses=tuple(named), sure=is_sure(named), looked_at=looked_at, differing=differing)


def _joined(cause: str, clues: Iterable[Clue]) -> Hypothesis:
    own = [clue for clue in clues if clue.cause == cause]
    speaking = sorted((c for c in own if not c.against), key=lambda c: -c.weight)
    against = [c for c in own if c.against]
    doubt = 1.0
    seen: set[str] = set()
    for clue in speaking:
        # The same observation of two runs has other digits.
        shape = _NUMBER.sub("#", clue.text)
        if shape not in seen:
            doubt *= 1 - clue.weight
            seen.add(shape)
    score = 1 - doubt
    for clue in against:
        score *= 1 - clue.weight
    return Hypothesis(
        cause=cause,
        score=round(score, 4),
        evidence=tuple(dict.fromkeys(c.text for c in speaking)),
        against=tuple(dict.fromkeys(c.text for c in against)),
        fix=CAUSES[cause].fix,
        location=next((c.location for c in speaking if c.location), None),
        separating=any(c.separating for c in speaking),
        stage=next((stage for stage in STAGES if any(c.stage == stage for c in speaking)), ""),
    )


def _explained_away(found: Sequence[Hypothesis]) -> list[Hypothesis]:
    """Hypotheses with the score set back where one that is as likely brings them with it."""
    kept = []
    for own in found:
        by = [other for other in found if _explains(other, own)]
        if by:
            best = max(by, key=lambda h: h.score)
            text = f"{best.cause} explains it"
            own = replace(own, score=round(own.score * _SET_BACK, 4), against=(*own.against, text), separating=False)
        kept.append(own)
    return kept


def _explains(other: Hypothesis, own: Hypothesis) -> bool:
    """Whether ``other`` brings the evidence of ``own`` with it, and is as likely."""
    if own.cause not in EXPLAINS.get(other.cause, ()) or other.score < LEAST_SCORE:
        return False
    # Of two that bring each other the likelier one is the cause.
    mutual = other.cause in EXPLAINS.get(own.cause, ())
    if mutual and (other.score, other.separating, other.cause) <= (own.score, own.separating, own.cause):
        return False
    # Only what is told for sure may be a little behind what it explains.
    return other.score >= own.score - (0.1 if other.separating else 0.0) and (other.separating or not own.separating)


def _with_interactions(found: Sequence[Hypothesis]) -> list[Hypothesis]:
    """Pairs of causes that act together take the place of both at the top."""
    named = {h.cause: h for h in found if h.score >= TOGETHER}
    joined: list[Hypothesis] = []
    for pair, name in INTERACTIONS.items():
        if pair <= set(named) and not any(h.cause == name for h in joined):
            parts = sorted((named[cause] for cause in pair), key=lambda h: -h.score)
            joined.append(
                Hypothesis(
                    cause=name,
                    score=round(min(0.99, max(p.score for p in parts) + 0.02), 4),
                    evidence=tuple(text for part in parts for text in part.evidence),
                    against=tuple(text for part in parts for text in part.against),
                    fix=CAUSES[name].fix,
                    location=" × ".join(part.location for part in parts if part.location) or None,
                    separating=all(part.separating for part in parts),
                )
            )
    parts_of_joined = {
        cause for pair, name in INTERACTIONS.items() if any(h.cause == name for h in joined) for cause in pair
    }
    rest = [replace(h, score=round(h.score * 0.7, 4)) if h.cause in parts_of_joined else h for h in found]
    return [*joined, *rest]


def is_sure(named: Sequence[Hypothesis]) -> bool:
    """Whether the first of them, the most likely one first, is beyond doubt."""
    if not named or not named[0].separating or named[0].against:
        return False
    second = named[1].score if len(named) > 1 else 0.0
    return named[0].score >= SURE_SCORE and named[0].score - second >= SURE_LEAD
