"""Everything in which two retrains differ."""

from collections.abc import Sequence
from dataclasses import dataclass

from ctr_pipeline.attribution.differences.changed_code import changed_code
from ctr_pipeline.attribution.differences.changed_columns import changed_columns
from ctr_pipeline.attribution.differences.changed_labels import changed_labels
from ctr_pipeline.attribution.differences.changed_rows import changed_rows
from ctr_pipeline.attribution.differences.changed_spec import changed_spec
from ctr_pipeline.attribution.differences.changed_training import changed_training
from ctr_pipeline.attribution.differences.changed_vocabulary import changed_vocabulary
from ctr_pipeline.attribution.differences.difference import Difference
from ctr_pipeline.attribution.differences.drifted_days import drifted_days
from ctr_pipeline.attribution.differences.matched_rows import MatchedRows
from ctr_pipeline.attribution.differences.retrain_state import RetrainState


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What was found between two retrains.

    Attributes:
        differences: All of them.
        rows: The impressions of both.
        looked_at: What was compared, in words.
        notes: What could not be, and why.
    """

    differences: tuple[Difference, ...]
    rows: MatchedRows
    looked_at: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether nothing was left out of the comparison, so that causes can be excluded."""
        return self.rows.matched and not self.notes

    @property
    def roots(self) -> tuple[Difference, ...]:
        """Those that no other one brings about."""
        return tuple(d for d in self.differences if d.brought_about_by(self.differences) is None)

    @property
    def consequences(self) -> tuple[tuple[Difference, Difference], ...]:
        """Those that another one brings about, each with that one."""
        pairs = [(d, d.brought_about_by(self.differences)) for d in self.differences]
        return tuple((d, cause) for d, cause in pairs if cause is not None)


def compare(old: RetrainState, new: RetrainState) -> Compared:
    """Compares spec, code, libraries, key, rows, clocks, outcomes, features, ids and trainings of two retrains."""
    rows = MatchedRows.of(old, new)
    found: list[Difference] = [*changed_spec(old, new), *changed_code(old, new)]
    found += [*changed_rows(old, new, rows), *changed_labels(old, new, rows)]
    found += changed_columns(old, new, rows)
    found += drifted_days(old, new, rows, {d.subject for d in found if d.kind in ("feature", "category", "history")})
    found += [*changed_vocabulary(old, new, rows), *changed_training(old, new)]
    return Compared(
        differences=tuple(found), rows=rows, looked_at=_looked_at(old, new, rows), notes=_notes(old, new, rows)
    )


def _looked_at(old: RetrainState, new: RetrainState, rows: MatchedRows) -> tuple[str, ...]:
    shared = [name for name in (*old.numbers, *old.categories) if name in (*new.numbers, *new.categories)]
    how = (
        f"{rows.old.height:,} impressions of both, matched by {rows.how}"
        if rows.matched
        else "distributions, as no impression is in both"
    )
    return (
        "spec, code, libraries and key of the hashes",
        f"rows by day, clocks and outcomes of {len([t for t in old.tasks if t in new.tasks])} tasks",
        f"{len(shared)} features ({how})",
        *(["fitted ids"] if old.vocabulary is not None and new.vocabulary is not None else []),
        "course of the training",
    )


def _notes(old: RetrainState, new: RetrainState, rows: MatchedRows) -> tuple[str, ...]:
    notes: list[str] = [f"{side.name}: {note}" for side in (old, new) for note in side.notes]
    if not rows.matched:
        notes.append(
            "The two retrains have no impressions in common that could be told: values were compared by their distributions alone."
        )
    unread = _lists(old) or _lists(new)
    if unread:
        notes.append(f"Of the lists and vectors {', '.join(unread[:5])} the values were not compared.")
    return tuple(notes)


def _lists(side: RetrainState) -> Sequence[str]:
    read = {*side.numbers, *side.categories}
    return [name for name in side.spec.features.inputs if name not in read]
