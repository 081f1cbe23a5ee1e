"""What a detector found, and the findings of a run."""

from collections.abc import Mapping
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
    """

    severity: Severity
    message: str
    numbers: Mapping[str, Any] = field(default_factory=dict)


def grade(value: float, warn: float, error: float = float("inf")) -> Severity:
    """``error`` above one limit, ``warn`` above the other, else ``ok``."""
    return "error" if value > error else "warn" if value > warn else "ok"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedFinding:
    """A finding and the detector that it is of.

    Attributes:
        name: Name of the detector.
        finding: What was found.
    """

    name: str
    finding: Finding

    def to_dict(self) -> dict[str, Any]:
        """Plain values for result.json."""
        return {"name": self.name, "severity": self.finding.severity, "message": self.finding.message}


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

    def finding(self, name: str) -> Finding:
        """The finding of the detector ``name``; KeyError when there is none."""
        return {found.name: found.finding for found in self.findings}[name]
