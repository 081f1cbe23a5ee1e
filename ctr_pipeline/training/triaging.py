"""Why a training broke: from what it left behind, and from the training built once more.

``triage_of(evidence)`` ranks causes from files alone. ``triage_of(evidence, build)`` measures the training too:
``build(folder)`` gives the :class:`~ctr_pipeline.training.loop.Trainer` once more as it was before its first step, faults
of its code included, with all that it writes in ``folder``. It is called several times and must give the same training each
time. With ``replay=True`` the remedies of the most likely causes are tried one at a time on further copies.

``evidence_of(folder, cause, health)`` reads what a run left in its folder; ``cause`` and ``health`` are those of
:class:`~ctr_pipeline.training.stopping.Stopped` or of the result, for a training whose result.json is not written.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

from ctr_pipeline.gradients.triage.comparison import Comparison
from ctr_pipeline.gradients.triage.evidence import RunEvidence
from ctr_pipeline.gradients.triage.hypothesis import Triage
from ctr_pipeline.gradients.triage.left_behind import evidence_of, with_settings
from ctr_pipeline.gradients.triage.ranking import triage
from ctr_pipeline.gradients.triage.run_rules import reproduction_clues
from ctr_pipeline.training.declared_training import builder_of
from ctr_pipeline.training.loop import Trainer
from ctr_pipeline.training.triage_replay import with_replays
from ctr_pipeline.training.triage_survey import survey

Build: TypeAlias = Callable[[Path], Trainer]
"""Builds the training once more, writing into the folder that it is given."""


def triage_of(
    evidence: RunEvidence, build: Build | None = None, *, replay: bool = False, compared: Comparison | None = None
) -> Triage:
    """The causes that may have broken a training, the most likely one first.

    Args:
        evidence: What it left behind, from :func:`evidence_of`.
        build: The training once more; without it files alone are looked at.
        replay: Whether remedies are tried; needs ``build``.
        compared: What differs from the last good training.
    """
    if compared is not None:
        evidence = replace(
            evidence,
            clues=(*evidence.clues, *compared.clues),
            looked_at=(*evidence.looked_at, "the last good training"),
        )
    if build is None:
        return _with_facts(triage(evidence), compared)
    with TemporaryDirectory() as name:
        folder = Path(name)
        seen = survey(build, folder / "survey")
        looked_at = (*evidence.looked_at, "the built training", *seen.looked_at)
        clues = (*evidence.clues, *seen.clues, *reproduction_clues(evidence.steps, seen.losses))
        found = triage(replace(evidence, clues=clues, looked_at=looked_at))
        found = with_replays(found, build, folder / "replays", _broke_at(evidence)) if replay else found
    return _with_facts(found, compared)


def _broke_at(evidence: RunEvidence) -> int | None:
    """The step at which a value was not finite, where that stopped the training and no contract was before it."""
    if evidence.cause.get("kind") in (None, "contract", "health", "divergence"):
        return None
    return int(evidence.cause.get("step") or 0)


def _with_facts(found: Triage, compared: Comparison | None) -> Triage:
    if compared is None:
        return found
    hypotheses = tuple(
        replace(h, evidence=(*h.evidence, f"feature {h.location} is new since the last good training"))
        if h.location in compared.new_features else h
        for h in found.hypotheses
    )  # fmt: skip
    return replace(found, hypotheses=hypotheses, compared=(*compared.facts, *found.compared))


__all__ = ["Build", "builder_of", "evidence_of", "triage_of", "with_settings"]
