"""Does a server look up what training joins, on the day on which it serves?"""

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from ctr_pipeline.orchestration.checks.definition import CheckDefinition, Outcome, register

if TYPE_CHECKING:
    from ctr_pipeline.online.table_comparison import Comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotEvidence:
    """What was made, and what was served before."""

    made: "Comparison"
    """The new snapshot against the values that it was made of."""
    served: "Comparison | None"
    """The snapshot of the last day of the log, as servers had it on that day, against that day of the history table now;
    None where there is none."""
    newest: date | None
    """Last day that has a snapshot."""
    needed: date
    """The day after the last one that was read: the one on which servers ask now."""


def check_values(evidence: SnapshotEvidence) -> Outcome:
    """Error when a value that is looked up is not the table's."""
    wrong = evidence.made.differing
    return Outcome(
        passed=not wrong,
        error=True,
        metadata={"values_compared": evidence.made.compared, "values_differing": sum(wrong.values())},
        description=f"Looked up in the snapshot, other values than those that it was made of: {_named(wrong)} of "
        f"{evidence.made.compared}. Do not serve it: please report this."
        if wrong
        else None,
    )


def check_served(evidence: SnapshotEvidence) -> Outcome:
    """Warning when rows that were read late changed what had been served."""
    if evidence.served is None:
        return Outcome(passed=True, metadata={"values_compared": 0, "values_differing": 0})
    wrong = evidence.served.differing
    return Outcome(
        passed=not wrong,
        metadata={"values_compared": evidence.served.compared, "values_differing": sum(wrong.values())},
        description=f"Of {evidence.served.compared} values that servers looked up on the last day of the log, these are "
        f"others in the history table by now: {_named(wrong)}. Logs of before that day were read after its snapshot was "
        "made: training sees what servers did not. Make snapshots later in the day, or have the logs delivered earlier."
        if wrong
        else None,
    )


def check_newest(evidence: SnapshotEvidence) -> Outcome:
    """Warning when servers of today would look up the values of an earlier day."""
    late = evidence.newest is None or evidence.newest < evidence.needed
    return Outcome(
        passed=not late,
        metadata={"newest_day": str(evidence.newest), "needed_day": str(evidence.needed)},
        description=f"The log was read up to the day before {evidence.needed}, and the newest snapshot is of "
        f"{evidence.newest}: materialise the last partition, or run `ctr snapshot`."
        if late
        else None,
    )


def _named(differing: dict[str, int]) -> str:
    return ", ".join(f"{count} of {name}" for name, count in differing.items())


register(
    CheckDefinition(
        asset="feature_snapshot",
        name="values_as_made",
        question="A sample of the values, looked up in the snapshot, is what it was made of.",
        evaluate=check_values,
        blocking=True,
    ),
    CheckDefinition(
        asset="feature_snapshot",
        name="values_as_served",
        question="What servers looked up on the last day of the log is what the history table has of that day now.",
        evaluate=check_served,
    ),
    CheckDefinition(
        asset="feature_snapshot",
        name="snapshot_of_today",
        question="The day after the last one that was read has a snapshot.",
        evaluate=check_newest,
    ),
)
