"""A training beside the last one that was good: what is new, and what differs from the first steps on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from ctr_pipeline.gradients.triage.evidence import Clue, RunEvidence

FIRST_STEPS = 20
DIFFERENT = 3.0
"""Factor between the norms or losses of the first steps that is worth a sentence."""

_CALLED = {"learning_rate": ("huge_lr", "tiny_lr"), "embedding_learning_rate": ("huge_lr", "tiny_lr")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What differs from the last good training.

    Attributes:
        facts: Sentences, for people.
        clues: What they say of causes.
        new_features: Features that the good training had not.
    """

    facts: tuple[str, ...] = ()
    clues: tuple[Clue, ...] = ()
    new_features: tuple[str, ...] = ()


def compare(
    own: RunEvidence, good: RunEvidence, features: Sequence[str] = (), good_features: Sequence[str] = ()
) -> Comparison:
    """Compares the settings, the features and the first steps of two trainings.

    Args:
        own: The training in question.
        good: The last good one.
        features: Names of its features; empty where they are not known.
        good_features: Likewise.
    """
    facts: list[str] = []
    clues: list[Clue] = []
    new = tuple(name for name in features if good_features and name not in good_features)
    if new:
        facts.append(f"features that the last good training had not: {', '.join(new)}")
    if gone := [name for name in good_features if features and name not in features]:
        facts.append(f"features that only the last good training had: {', '.join(gone)}")
    for key in sorted({*own.settings, *good.settings}):
        mine, theirs = own.settings.get(key), good.settings.get(key)
        if mine == theirs or (mine is None and key not in _CALLED):
            continue
        facts.append(f"{key} is {mine}, and {theirs} in the last good training")
        clues += _setting_clue(key, mine, theirs)
    for key, what in (("grad_norm", "gradient norm"), ("loss", "loss")):
        here, there = _early(own.steps, key), _early(good.steps, key)
        if here is not None and there is not None and there > 0 and not 1 / DIFFERENT < here / there < DIFFERENT:
            facts.append(
                f"the median {what} of the first steps is {here:.4g}, {here / there:.3g} times that of the last good training"
            )
    return Comparison(facts=tuple(facts), clues=tuple(clues), new_features=new)


def _setting_clue(key: str, mine: Any, theirs: Any) -> list[Clue]:
    if key not in _CALLED or not isinstance(mine, int | float) or not isinstance(theirs, int | float) or theirs <= 0:
        return []
    factor = mine / theirs
    high, low = _CALLED[key]
    text = f"{key} is {factor:.3g} times that of the last good training"
    if factor > 10:
        return [Clue(cause=high, weight=0.5, text=text, location=key)]
    if factor < 0.01:
        return [Clue(cause=low, weight=0.5, text=text, location=key)]
    return []


def _early(steps: Sequence[Mapping[str, Any]], key: str) -> float | None:
    known = [float(step[key]) for step in steps[:FIRST_STEPS] if isinstance(step.get(key), int | float)]
    return median(known) if known else None
