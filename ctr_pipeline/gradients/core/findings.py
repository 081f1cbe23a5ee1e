"""What a detector found, and the findings of a run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["ok", "warn", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a detector found in a run.

    Attributes:
        severity: ``ok``, ``warn``, or ``error``.
        message: A sentence with the numbers and the limits.
        numbers: Measurements under stable names, as values for JSON; they become part of ``health`` in result.json.
        step: Steps taken before the one where the largest value was found; None where it belongs to no step.
        tensor: Parameter, layer or task that has it; None where it belongs to the whole step.
        value: The measurement that is compared with a limit.
        limit: The smallest limit that it is compared with: above it the finding is not ``ok``.
    """

    severity: Severity
    message: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    step: int | None = None
    tensor: str | None = None
    value: float | None = None
    limit: float | None = None

    @property
    def strength(self) -> float:
        """How many times its limit the measurement is; infinite where it is no number, 0 where nothing is compared."""
        if self.value is None or not self.limit:
            return 0.0
        return math.inf if math.isnan(self.value) else self.value / self.limit


def grade(value: float, warn: float, error: float = float("inf")) -> Severity:
    """``error`` above one limit, ``warn`` above the other, else ``ok``; ``error`` for NaN, which no limit holds for."""
    return "error" if math.isnan(value) or value > error else "warn" if value > warn else "ok"


def exceeds(value: float, largest: float) -> bool:
    """Whether ``value`` is worse than the ``largest`` so far: NaN is worse than any number, and stays."""
    return not math.isnan(largest) and (math.isnan(value) or value > largest)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedFinding:
    """A finding and the detector that it is of.

    Attributes:
        name: Name of the detector.
        finding: What was found.
        consequence: Whether such a finding says that something broke, and not what broke it.
    """

    name: str
    finding: Finding
    consequence: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values for result.json."""
        found = self.finding
        return {
            "name": self.name, "severity": found.severity, "message": found.message, "step": found.step,
            "tensor": found.tensor, "value": found.value, "limit": found.limit,
        }  # fmt: skip


def strongest(findings: Sequence[NamedFinding]) -> list[NamedFinding]:
    """Those that are not ``ok``, the one that explains most first.

    Causes come before consequences, errors before warnings, and among these the one that exceeds its limit most.
    """
    return sorted(
        (found for found in findings if found.finding.severity != "ok"),
        key=lambda found: (found.consequence, found.finding.severity != "error", -found.finding.strength),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """A run's gradient health.

    Attributes:
        steps: Steps observed, one that stopped the run included.
        findings: One of each detector, also where all is well.
    """

    steps: int
    findings: tuple[NamedFinding, ...]

    @property
    def numbers(self) -> dict[str, Any]:
        """The steps and every detector's measurements; a name that is taken already is preceded by the detector's."""
        numbers: dict[str, Any] = {"steps": self.steps}
        for found in self.findings:
            for key, value in found.finding.numbers.items():
                numbers[f"{found.name}.{key}" if key in numbers else key] = value
        return numbers

    @property
    def strongest(self) -> list[NamedFinding]:
        """The findings that are not ``ok``, the one that explains most first."""
        return strongest(self.findings)

    def finding(self, name: str) -> Finding:
        """The finding of the detector ``name``; KeyError when there is none."""
        return {found.name: found.finding for found in self.findings}[name]
