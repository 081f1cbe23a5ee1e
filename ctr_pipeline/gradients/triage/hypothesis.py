"""What may have broken a training: causes with their evidence, ranked."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Verdict = Literal["cures", "masks", "no effect", "not replayed"]
"""What the replay of a remedy showed: the training is as a healthy one; it is finite and learns no more than before; it is
as it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    """A cause that may have broken a training.

    Attributes:
        cause: Name of the cause in :mod:`ctr_pipeline.gradients.triage.causes`.
        score: How well the evidence fits, from 0 to 1.
        evidence: What speaks for it, a sentence each.
        against: What speaks against it.
        fix: The smallest change that would cure it.
        location: Parameter, feature, task or module where it is; None where it is nowhere in particular.
        verdict: What a replay with the fix alone showed.
        separating: Whether the evidence is of a kind that no other known cause leaves behind.
        stage: The first stage at which the training departs from what is declared, of its evidence; empty where it has none.
    """

    cause: str
    score: float
    evidence: tuple[str, ...]
    against: tuple[str, ...] = ()
    fix: str = ""
    location: str | None = None
    verdict: Verdict = "not replayed"
    separating: bool = False
    stage: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def with_verdict(self, verdict: Verdict, found: str) -> "Hypothesis":
        """After a replay of its fix; ``found`` is what it showed."""
        for_it = (*self.evidence, found) if verdict == "cures" else self.evidence
        against = self.against if verdict == "cures" else (*self.against, found)
        return replace(self, verdict=verdict, evidence=for_it, against=against)


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """A change that was tried alone in a replay.

    Attributes:
        name: What was changed, in words.
        verdict: What it did.
        found: The numbers behind the verdict, a sentence.
        cause: The cause that it would cure; None for one that treats symptoms, such as clipping.
    """

    name: str
    verdict: Verdict
    found: str
    cause: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Triage:
    """The hypotheses about one training.

    Attributes:
        hypotheses: The most likely one first; none where nothing that was measured separates causes.
        sure: Whether the first one is beyond doubt: its evidence separates it from all others, and nothing contradicts it.
        remedies: What replays showed, in the order in which they were tried.
        looked_at: What the triage had: names of the evidence that was there.
        compared: What differs from the last good training, a sentence each.
        differing: Stages at which the training does otherwise than it declares, beyond doubt, the first one first.
    """

    hypotheses: tuple[Hypothesis, ...] = ()
    sure: bool = False
    remedies: tuple[Remedy, ...] = ()
    looked_at: tuple[str, ...] = ()
    compared: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()

    @property
    def unknown(self) -> bool:
        """Whether no cause can be named."""
        return not self.hypotheses

    @property
    def top(self) -> Hypothesis | None:
        """The most likely cause."""
        return next(iter(self.hypotheses), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "sure": self.sure,
            "unknown": self.unknown,
            "hypotheses": [found.to_dict() for found in self.hypotheses],
            "remedies": [tried.to_dict() for tried in self.remedies],
            "looked_at": list(self.looked_at),
            "compared": list(self.compared),
            "differing": list(self.differing),
        }
