"""Who takes part in an experiment, and in which arm: by a keyed hash of the user's pseudonym."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from ctr_pipeline.evaluation.metrics import EvaluationError
from ctr_pipeline.spec.assignment import CONTROL, TREATMENT, arm_in, place_of

__all__ = ["CONTROL", "TREATMENT", "Canary", "Design"]


@dataclass(frozen=True, slots=True)
class Canary:
    """A canary whose users take no part in an experiment.

    Attributes:
        trial: Identifier of the trial, which `ctr release status` shows.
        share: Its share of the users.
    """

    trial: str
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """The assignment of users to the two arms of an experiment.

    Whether a user takes part and in which arm are two independent draws: a larger ``share`` adds users, and moves none from
    one arm to the other.

    Attributes:
        name: Of the experiment, the key of the draws: another name is another, independent assignment.
        share: Share of the users who take part.
        treated: Share of those who are treated.
        canaries: Canaries that may run meanwhile; their users take no part.
    """

    name: str
    share: float = 1.0
    treated: float = 0.5
    canaries: Sequence[Canary] = ()

    def __post_init__(self) -> None:
        if not self.name:
            raise EvaluationError("experiment: it has no name; the name is the key of the assignment")
        if not 0 < self.share <= 1:
            raise EvaluationError(f"share: expected a share of the users above 0, and at most 1; found {self.share}")
        if not 0 < self.treated < 1:
            raise EvaluationError(f"treated: expected a share between 0 and 1; found {self.treated}")
        for canary in self.canaries:
            if not 0 < canary.share < 1:
                raise EvaluationError(
                    f"canary {canary.trial}: expected its share of the users, between 0 and 1; found {canary.share}"
                )

    def arm_of(self, user: str) -> str | None:
        """The arm of the user with this pseudonym, ``treatment`` or ``control``; None for who takes no part."""
        return None if self.in_canary(user) else arm_in(user, self.name, self.share, self.treated)

    @property
    def taking_part(self) -> float:
        """Expected share of all users that is in one of the arms: without those of the canaries, whose draws are independent."""
        return self.share * math.prod(1.0 - canary.share for canary in self.canaries)

    def in_canary(self, user: str) -> bool:
        """Whether one of the canaries has this user."""
        return any(place_of(user, canary.trial) < canary.share for canary in self.canaries)

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        canaries = [{"trial": canary.trial, "share": canary.share} for canary in self.canaries]
        return {"name": self.name, "share": self.share, "treated": self.treated, "canaries": canaries}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The design that :meth:`to_json` describes."""
        return cls(
            name=content["name"],
            share=content["share"],
            treated=content["treated"],
            canaries=tuple(Canary(one["trial"], one["share"]) for one in content["canaries"]),
        )
