"""Whether the fitted ids are those of the data: older ones, fewer, or under each other's rows."""

from datetime import date

import polars as pl

from ctr_pipeline.attribution.differences.changed_categories import as_text
from ctr_pipeline.attribution.differences.column_values import mean
from ctr_pipeline.attribution.differences.difference import Difference, Source, percent
from ctr_pipeline.attribution.differences.matched_rows import MatchedRows
from ctr_pipeline.attribution.differences.retrain_state import RetrainState

MORE_UNKNOWN = 0.02
"""By how much the share of rows whose value is unknown has to rise."""

LEAST_LOST = 0.03
"""Share of the fitted values that have to differ, where the rows that they were fitted on are the same."""

OLD_DAYS = 2
"""Days between the last training row and the last one that a vocabulary knows, from which on it is old."""


def changed_vocabulary(old: RetrainState, new: RetrainState, rows: MatchedRows) -> list[Difference]:
    """A difference where the new side's ids are not those that its training rows would give; else none."""
    if old.vocabulary is None or new.vocabulary is None or old.layout is None or new.layout is None:
        return []
    touched: list[tuple[str, float, float, list[str]]] = []
    for column in new.layout.ids:
        name = column.name
        if column.table is not None or name not in new.rows.columns or name not in {c.name for c in old.layout.ids}:
            continue
        if old.key_fingerprint != new.key_fingerprint and name in new.spec.private_columns:
            continue
        before, after = _unknown(old, name, "before"), _unknown(new, name, "before")
        lost, common = _lost_values(old, new, name)
        notes = []
        if after - before >= MORE_UNKNOWN:
            notes.append(
                f"{name}: {percent(after)} of the impressions before the test have a value without a row of its own; it was {percent(before)}"
            )
        if lost >= LEAST_LOST:
            notes.append(
                f"{name}: {percent(lost)} of {common:,} values that had a row have none, though their impressions are the same"
            )
        if notes and (after - before >= MORE_UNKNOWN or lost >= LEAST_LOST) and _same_values(rows, name):
            touched.append((name, after, before, notes))
    found = []
    if touched:
        worst = max(touched, key=lambda one: one[1] - one[2])
        names = [name for name, *_ in touched]
        stale = _staleness(new)
        age = f": its ids end on {stale[0]}, its training rows on {stale[1]}" if stale else ""
        found.append(
            Difference(
                kind="vocabulary", subject=worst[0] if len(names) == 1 else "all features" if len(names) > 3 else ", ".join(names),
                form="stale" if stale else "values lost", share=max(worst[1] - worst[2], 0.0),
                sentence=f"The vocabulary is not that of the training rows{age}; {percent(worst[1])} of the impressions have a “{worst[0]}” that it does not know (it was {percent(worst[2])})",
                evidence=tuple(note for _, _, _, notes in touched for note in notes)[:8], follows=_follows(names), features=tuple(names),
            )
        )  # fmt: skip
    elif (stale := _staleness(new)) and not _staleness(old):
        found.append(
            Difference(
                kind="vocabulary", subject="all features", form="stale", follows=_follows([]),
                sentence=f"The vocabulary is older than the data: its ids end on {stale[0]}, the training rows on {stale[1]}",
            )
        )  # fmt: skip
    return [*found, *_new_unknown(old, new, rows, {name for name, *_ in touched})]


def _follows(names: list[str]) -> tuple[Source, ...]:
    of_categories: tuple[Source, ...] = tuple(("category", name) for name in names)
    declared: tuple[Source, ...] = (("spec", "features"), ("spec", "split"), ("spec", "source"), ("spec", "tasks"))
    return (*of_categories, *declared, ("rows", ""), ("time", ""), ("key", ""))


def _unknown(side: RetrainState, name: str, part: str) -> float:
    """Share of the rows before the test, or of the test, whose value has no row in the side's own vocabulary."""
    assert side.vocabulary is not None
    known = side.vocabulary.filter(pl.col("feature") == name)["key"]
    chosen = side.rows.filter(pl.col("test") == (part == "test"))
    values = chosen[name]
    if isinstance(values.dtype, pl.List):
        values = values.explode()
    texts = as_text(values).drop_nulls()
    if not texts.len():
        return 0.0
    return 1.0 - mean(texts.is_in(known.implode()))


def _lost_values(old: RetrainState, new: RetrainState, name: str) -> tuple[float, int]:
    """Share of the old side's ids that the new side lacks, and how many it had."""
    assert old.vocabulary is not None
    assert new.vocabulary is not None
    before = old.vocabulary.filter(pl.col("feature") == name)["key"]
    after = new.vocabulary.filter(pl.col("feature") == name)["key"]
    # Other days bring other values, and let some go.
    if not before.len() or _train_interval(old) != _train_interval(new):
        return 0.0, 0
    return 1.0 - mean(before.is_in(after.implode())), before.len()


def _train_interval(side: RetrainState) -> set[tuple[int, int]]:
    """Where the training rows of the tasks begin and end."""
    bounds = side.lineage.get("examples", {}).get("bounds", {}).get("tasks", {})
    return {(int(of["train_start"]), int(of["validation_start"])) for of in bounds.values()}


def _same_values(rows: MatchedRows, name: str) -> bool:
    """Whether matched impressions have the same values of a category, so that their ids should be the same."""
    if not rows.matched or name not in rows.old.columns or name not in rows.new.columns:
        return True
    differs = as_text(rows.old[name]).ne_missing(as_text(rows.new[name]))
    return mean(differs) < 0.01


def _staleness(side: RetrainState) -> tuple[date, date] | None:
    """The last day that the vocabulary knows and that of the training rows, where they lie apart."""
    if side.vocabulary is None or "last_day" not in side.vocabulary.columns or not side.vocabulary.height:
        return None
    bounds = side.lineage.get("examples", {}).get("bounds", {}).get("tasks", {})
    ends = [int(of["validation_start"]) for of in bounds.values()]
    known = side.vocabulary["last_day"].max()
    if not ends or not isinstance(known, date):
        return None
    train = side.keys.filter(pl.col("ts") < max(ends))["day"].max()
    return (known, train) if isinstance(train, date) and (train - known).days >= OLD_DAYS else None


def _new_unknown(old: RetrainState, new: RetrainState, rows: MatchedRows, known: set[str]) -> list[Difference]:
    """Categories whose test rows the vocabulary knows less than it did, though the rows before the test are as known as before."""
    assert new.layout is not None
    found = []
    for column in new.layout.ids:
        name = column.name
        if name in known or column.table is not None or name not in new.rows.columns or name not in old.rows.columns:
            continue
        if old.key_fingerprint != new.key_fingerprint and name in new.spec.private_columns:
            continue
        before, after = _unknown(old, name, "test"), _unknown(new, name, "test")
        if after - before < 0.05 or after < 1.5 * before:
            continue
        found.append(
            Difference(
                kind="vocabulary", subject=name, form="unknown in the test", share=after, paired=rows.matched,
                sentence=f"{percent(after)} of the test impressions have a “{name}” that the training did not see often enough; it was {percent(before)}",
                follows=(*_follows([name]), ("drift", "")), features=(name,),
            )
        )  # fmt: skip
    return found
