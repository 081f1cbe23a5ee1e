"""What a contract found."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["passed", "failed", "not_measured"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a contract found.

    Attributes:
        name: Stable name of the contract, in snake case.
        verdict: ``not_measured`` where the contract does not apply to what it was given; the message says why.
        message: What was found, where, what was expected, and what to do.
        measured: The number that was compared; None where there is none.
        limit: What it was compared with.
        where: Name of the worst tensor, module or task; empty where there is none.
        feature: Feature of an input or of an embedding row, where it is known.
        hard: Whether a training must not begin, or go on, where it failed; else it is a warning.
    """

    name: str
    verdict: Verdict
    message: str
    measured: float | None = None
    limit: float | None = None
    where: str = ""
    feature: str | None = None
    hard: bool = True

    @property
    def failed(self) -> bool:
        """Whether the contract is broken."""
        return self.verdict == "failed"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class ContractBroken(AssertionError):  # noqa: N818 - what broke is a contract, and pytest shows assertions by name
    """At least one contract is broken; the message has a line for each."""


def assert_passed(*outcomes: Outcome, allow_not_measured: bool = False) -> None:
    """Raises where one of ``outcomes`` did not pass.

    Args:
        outcomes: Of some contracts.
        allow_not_measured: Whether one that could not be measured is passed over.

    Raises:
        ContractBroken: a contract is broken, or could not be measured.
    """
    accepted = ("passed", "not_measured") if allow_not_measured else ("passed",)
    bad = [outcome for outcome in outcomes if outcome.verdict not in accepted]
    if bad:
        raise ContractBroken("\n".join(f"{found.name}: {found.verdict}: {found.message}" for found in bad))


def listed(names: Sequence[str], most: int = 5) -> str:
    """``names`` as a list in a sentence, of which at most ``most`` are named."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
