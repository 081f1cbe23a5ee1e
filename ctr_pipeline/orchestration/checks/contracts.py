"""Is the log as the spec declares it, and is every row accounted for?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from ctr_pipeline.orchestration.checks.definition import CheckDefinition, Outcome, register
from ctr_pipeline.orchestration.checks.table_matches import TableEvidence, check_side_tables
from ctr_pipeline.orchestration.checks.touches import TouchEvidence, check_touches
from ctr_pipeline.orchestration.checks.type_changes import TypeEvidence

FEWEST_BROKEN_ROWS = 5
"""Fewer broken rows are never too many, whatever their share: on a small day one row may be one in twenty."""

SHOWN_DAYS = 5


@dataclass(frozen=True, slots=True)
class Share:
    """Broken rows among rows."""

    broken: int
    of: int

    def exceeds(self, limit: float) -> bool:
        """Whether these are too many: above ``limit`` of the rows, and at least :data:`FEWEST_BROKEN_ROWS`."""
        return self.broken > limit * self.of and self.broken >= FEWEST_BROKEN_ROWS

    def __str__(self) -> str:
        return f"{self.broken} of {self.of}"


def days_above(days: Mapping[date, Share], limit: float) -> dict[str, Share]:
    """The days above ``limit``; where no single one is, all of them together if they are.

    Args:
        days: Rows by day.
        limit: Largest share.
    """
    found = {str(day): share for day, share in sorted(days.items()) if share.exceeds(limit)}
    total = _sum(list(days.values()))
    return found or ({"all days together": total} if total.exceeds(limit) else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestEvidence:
    """Where the rows of a log went."""

    table: str
    """The table that was read."""
    rows_in: Mapping[date, int]
    """Rows read, by day."""
    kept: Mapping[date, int]
    """Rows kept, by day."""
    quarantined: Mapping[date, int]
    """Rows quarantined, by day."""
    reasons: Mapping[str, int]
    """Rows quarantined, by reason."""
    total: int
    """Rows read in all, those of no day included."""
    ignored: int
    """Rows left out on purpose."""
    undated: Share
    """Quarantined rows that belong to no day, and are counted with the first, among all rows of the log."""
    max_quarantine_share: float
    """Largest share of a day's rows (`quality.max_quarantine_share`)."""
    outcomes: Mapping[date, Share] = field(default_factory=dict)
    """Quarantined rows among those that state an outcome or may do so, by day."""
    filtered: Mapping[date, int] = field(default_factory=dict)
    """Rows that the spec leaves out, by day."""
    added: Mapping[date, int] = field(default_factory=dict)
    """Impressions that rows stand for, beyond one each, by day."""
    event_types: TypeEvidence = field(default_factory=lambda: TypeEvidence(counts={}, used={}))
    """Events by day and type, of these days and of those that are stored."""
    tables: Sequence[TableEvidence] = ()
    """What the side tables gave."""
    touches: Sequence[TouchEvidence] = ()
    """What became of events that name no impression."""


def check_rows_conserved(evidence: IngestEvidence) -> Outcome:
    """Error when a row got lost or was made up."""
    kept, quarantined = sum(evidence.kept.values()), sum(evidence.quarantined.values())
    filtered, added = sum(evidence.filtered.values()), sum(evidence.added.values())
    lost = evidence.total + added - kept - quarantined - filtered - evidence.ignored
    return Outcome(
        passed=lost == 0,
        error=True,
        metadata={
            "rows_in": evidence.total,
            "kept": kept,
            "quarantined": quarantined,
            "filtered": filtered,
            "ignored": evidence.ignored,
            **({"impressions_added": added} if added else {}),
        },
        description=None if lost == 0 else f"{lost} of {evidence.total} rows are unaccounted for.",
    )


def check_quarantine_share(evidence: IngestEvidence) -> Outcome:
    """Error when a day is above the limit; a warning while there are only a few.

    Rows without a day are evaluated by themselves. So are rows with an outcome: where one impression in fifty is clicked,
    a small share of the rows may be most of the clicks.
    """
    limit, undated = evidence.max_quarantine_share, evidence.undated
    first = min(evidence.rows_in, default=None)
    days = {
        day: Share(evidence.quarantined.get(day, 0), rows)
        if day != first
        else Share(evidence.quarantined.get(day, 0) - undated.broken, rows - undated.broken)
        for day, rows in evidence.rows_in.items()
    }
    found = days_above(days, limit) | ({"rows without a day": undated} if undated.exceeds(limit) else {})
    with_outcome = days_above(evidence.outcomes, limit)
    total, broken = sum(evidence.rows_in.values()), sum(evidence.quarantined.values())
    listed = ", ".join(f"{reason}: {rows}" for reason, rows in evidence.reasons.items())
    description = f"{broken} of {total} rows were quarantined ({listed}); see table {evidence.table}_quarantine."
    if found:
        description += (
            f" Above quality.max_quarantine_share = {limit:.2%}: {_listed(found)}. Correct the log or raise the limit."
        )
    if with_outcome:
        description += (
            f" Of the rows that state an outcome, or whose label cannot be read, above quality.max_quarantine_share = "
            f"{limit:.2%}: {_listed(with_outcome)}. Without them the rates are wrong: correct the log or raise the limit."
        )
    outcomes = _sum(list(evidence.outcomes.values()))
    return Outcome(
        passed=broken == 0,
        error=bool(found or with_outcome),
        metadata={
            "share": broken / total if total else 0.0,
            "limit": limit,
            "days_above": len(found),
            "outcome_share": outcomes.broken / outcomes.of if outcomes.of else 0.0,
            "days_above_by_outcomes": len(with_outcome),
            "rows_without_a_day": undated.broken,
            **{f"reason/{reason}": rows for reason, rows in evidence.reasons.items()},
        },
        description=description if broken else None,
    )


def check_days_not_empty(evidence: IngestEvidence) -> Outcome:
    """Warning that names the days without rows."""
    empty = [day.isoformat() for day, rows in sorted(evidence.kept.items()) if rows == 0]
    shown = ", ".join(empty[:10]) + (f" and {len(empty) - 10} more" if len(empty) > 10 else "")
    return Outcome(
        passed=not empty,
        metadata={"days": len(evidence.kept), "empty_days": len(empty)},
        description=f"No rows on {shown}: is the log complete?" if empty else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """The events that arrived on one day."""

    early: Share
    """Those before their impression, among all."""
    orphans: Share
    """Those without an impression, among all."""
    evaluated: Share
    """Those without an impression, among events that cannot belong to an impression before the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceEvidence:
    """The events that arrived, and whether they belong to impressions of the log."""

    table: str
    """The asset that lists those that do not."""
    days: Mapping[date, References]
    """What was found, by day of arrival."""
    max_orphan_share: float
    """Largest share of events without an impression (`quality.max_orphan_share`)."""
    max_early_share: float
    """Largest share of events before their impression (`quality.max_quarantine_share`)."""


def check_event_references(evidence: ReferenceEvidence) -> Outcome:
    """Error when events without an impression, or before it, are too many; a warning for a few."""
    days, max_orphans, max_early = evidence.days, evidence.max_orphan_share, evidence.max_early_share
    orphans = days_above({day: found.evaluated for day, found in days.items()}, max_orphans)
    early = days_above({day: found.early for day, found in days.items()}, max_early)
    lost, before = _sum([found.orphans for found in days.values()]), _sum([found.early for found in days.values()])
    evaluated = _sum([found.evaluated for found in days.values()])
    texts = [
        f"Of {lost.of} events, {lost.broken} have no impression in the log ({evaluated.broken} of them late enough to need "
        f"one there) and {before.broken} come before theirs: none of these counts. See table {evidence.table}_quarantine."
    ]
    if orphans:
        texts.append(
            f"Without an impression, above quality.max_orphan_share = {max_orphans:.2%}: {_listed(orphans)}. Do the logs "
            "hold the same ids, and is the impression log complete? Correct them, or raise the limit."
        )
    if early:
        texts.append(
            f"Before their impression, above quality.max_quarantine_share = {max_early:.2%}: {_listed(early)}. Are the "
            "times of both logs in one zone and unit? Correct them, or raise the limit; where clocks differ, set "
            "source.max_early."
        )
    passed = lost.broken + before.broken == 0
    return Outcome(
        passed=passed,
        error=bool(orphans or early),
        metadata={
            "events": lost.of,
            "orphan_event": lost.broken,
            "orphan_event_evaluated": evaluated.broken,
            "event_before_impression": before.broken,
            "max_orphan_share": max_orphans,
            "days_above": len(orphans) + len(early),
        },
        description=None if passed else " ".join(texts),
    )


def _sum(shares: Sequence[Share]) -> Share:
    return Share(sum(share.broken for share in shares), sum(share.of for share in shares))


def _listed(found: Mapping[str, Share]) -> str:
    shown = ", ".join(f"{day} {share}" for day, share in list(found.items())[:SHOWN_DAYS])
    return shown + (f" and {len(found) - SHOWN_DAYS} more days" if len(found) > SHOWN_DAYS else "")


for _table in ("impressions", "outcome_events"):
    register(
        CheckDefinition(
            asset=_table,
            name="rows_conserved",
            question="Rows read, or the impressions that they stand for = rows kept + quarantined + filtered + ignored.",
            evaluate=check_rows_conserved,
            blocking=True,
        ),
        CheckDefinition(
            asset=_table,
            name="quarantine_share",
            question="The share of quarantined rows is small.",
            evaluate=check_quarantine_share,
            blocking=True,
        ),
        CheckDefinition(
            asset=_table, name="days_not_empty", question="Every day has rows.", evaluate=check_days_not_empty
        ),
    )
register(
    CheckDefinition(
        asset="impressions",
        name="side_tables",
        question="Impressions have a row in each side table, and its rows are as the spec declares.",
        evaluate=lambda evidence: check_side_tables(evidence.tables, evidence.max_quarantine_share),
        blocking=True,
    ),
    CheckDefinition(
        asset="outcome_events",
        name="attribution",
        question="Events that name no impression belong to some.",
        evaluate=lambda evidence: check_touches(evidence.touches),
        blocking=True,
    ),
    CheckDefinition(
        asset="event_references",
        name="event_references",
        question="Events belong to impressions that the log holds, and do not come before them.",
        evaluate=check_event_references,
        blocking=True,
    ),
)
