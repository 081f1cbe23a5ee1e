"""What a check is: a question about an asset, and a function that answers it. Dagster's specs and results follow.

A check is added by one :class:`CheckDefinition` and one call of :func:`register`, in its file or by an extension.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import dagster as dg


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The answer to a check's question."""

    passed: bool
    error: bool = False
    """Whether a failure is an error; else it is a warning."""
    description: str | None = None
    """What was found, where, what was expected and what to do; None where there is nothing to report."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Figures, as Dagster's metadata."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckDefinition:
    """A check of one asset.

    Attributes:
        asset: Name of the asset that it guards.
        name: Name of the check, unique for the asset.
        question: What holds where the check passes, as a sentence.
        blocking: Whether what failed it with an error must not be used.
        evaluate: Answers the question from the asset's evidence, an object that the asset's module documents.
    """

    asset: str
    name: str
    question: str
    evaluate: Callable[[Any], Outcome]
    blocking: bool = False

    def spec(self) -> dg.AssetCheckSpec:
        """The check as Dagster declares it."""
        return dg.AssetCheckSpec(self.name, asset=self.asset, blocking=self.blocking, description=self.question)

    def result(self, evidence: Any) -> dg.AssetCheckResult:
        """The check as Dagster records it."""
        outcome = self.evaluate(evidence)
        severity = dg.AssetCheckSeverity.ERROR if outcome.error else dg.AssetCheckSeverity.WARN
        return dg.AssetCheckResult(
            asset_key=self.asset,
            check_name=self.name,
            passed=outcome.passed,
            severity=severity,
            description=outcome.description,
            metadata=dict(outcome.metadata),
        )


_REGISTERED: dict[tuple[str, str], CheckDefinition] = {}


_DERIVED: list[Callable[[], Iterable[CheckDefinition]]] = []


def derive(make: Callable[[], Iterable[CheckDefinition]]) -> None:
    """Adds checks that follow from another registry; ``make`` is called whenever an asset's checks are asked for."""
    _DERIVED.append(make)


def register(*definitions: CheckDefinition) -> None:
    """Adds checks; one of the same asset and name is replaced, as when its module is loaded again."""
    _REGISTERED.update({(definition.asset, definition.name): definition for definition in definitions})


def checks_of(asset: str) -> list[CheckDefinition]:
    """The registered checks of an asset, in the order of their registration, then those that are derived."""
    derived = [definition for make in _DERIVED for definition in make()]
    return [definition for definition in (*_REGISTERED.values(), *derived) if definition.asset == asset]


def check_specs(asset: str) -> list[dg.AssetCheckSpec]:
    """Dagster's declarations of an asset's checks."""
    return [definition.spec() for definition in checks_of(asset)]


def check_results(asset: str, evidence: Any) -> list[dg.AssetCheckResult]:
    """The results of an asset's checks.

    Args:
        asset: Name of the asset.
        evidence: What its checks look at.
    """
    return [definition.result(evidence) for definition in checks_of(asset)]


def refused(asset: str, results: list[dg.AssetCheckResult]) -> list[dg.AssetCheckResult]:
    """Those of the results that forbid the use of what was made: blocking checks that failed with an error."""
    blocking = {definition.name for definition in checks_of(asset) if definition.blocking}
    return [
        result
        for result in results
        if not result.passed and result.severity == dg.AssetCheckSeverity.ERROR and result.check_name in blocking
    ]
