"""A limit beyond which a finding is a warning: a rule of thumb, or one that was calibrated on healthy runs of the same model."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SoftLimit:
    """The limit of a soft detector.

    Attributes:
        value: Above it a finding is a warning.
        runs: Healthy runs from which it was taken; 0 for a rule of thumb.
    """

    value: float
    runs: int = 0

    def error(self, rule: float) -> float:
        """Where a warning becomes an error: at the rule of thumb; a calibrated limit is twice exceeded at least."""
        return max(rule, 2 * self.value) if self.runs else rule

    @property
    def origin(self) -> str:
        """A remark for the finding's message; empty for a rule of thumb."""
        return f", calibrated on {self.runs} healthy runs" if self.runs else ""
