"""What the processes of a service serve: verified versions and the trial that runs, as one file tells all of them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Self

from ctr_pipeline.serving.release.guardrails import GuardrailRules


class TrialMode(StrEnum):
    """How a challenger is tried."""

    SHADOW = "shadow"
    """It scores every request, and the champion answers."""
    CANARY = "canary"
    """It answers a share of the users."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A trial of a version beside the champion.

    Attributes:
        id: Identifies it; another one of the same version has another.
        mode: How it is tried.
        version: Version of the registered model.
        share: Share of the users that a canary answers, from 0 to 1.
        started: When it was started, ISO 8601.
        rules: What ends it.
    """

    id: str
    mode: TrialMode
    version: str
    share: float
    started: str
    rules: GuardrailRules

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The trial that :meth:`to_json` describes."""
        own = {"mode": TrialMode(content["mode"]), "rules": GuardrailRules.from_json(content["rules"])}
        return cls(**{**content, **own})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedVersion:
    """A verified bundle.

    Attributes:
        folder: Where a copy of its files lies that nobody changes.
        sha256: What it is.
        facts: What else is known of it: its version in the registry, the day of its data.
    """

    folder: str
    sha256: str
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedState:
    """What is served.

    Attributes:
        champion: Answers.
        challenger: The version of the trial; None without one.
        trial: The trial that runs; None without one.
        refused: Versions that the registry names and that are not served, with the reason.
        other_inputs: Features of the version before and of the trial's. A request may have them, though the model that
            answers it does not know them: so it is answered before and after a promotion.
        key: Fingerprint of the key of the hashes that was at hand when the versions were verified; empty for none.
    """

    champion: ServedVersion
    challenger: ServedVersion | None = None
    trial: Trial | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    other_inputs: tuple[str, ...] = ()
    key: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The state that :meth:`to_json` describes."""
        challenger, trial = content["challenger"], content["trial"]
        return cls(
            champion=ServedVersion(**content["champion"]),
            challenger=None if challenger is None else ServedVersion(**challenger),
            trial=None if trial is None else Trial.from_json(trial),
            refused=dict(content["refused"]),
            other_inputs=tuple(content["other_inputs"]),
            key=content["key"],
        )
