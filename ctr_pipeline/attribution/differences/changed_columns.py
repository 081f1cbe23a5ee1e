"""Features whose values differ between two retrains for the same impressions."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import date

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr_pipeline.attribution.differences.changed_categories import as_text, category_change
from ctr_pipeline.attribution.differences.changed_numbers import differing, number_change
from ctr_pipeline.attribution.differences.column_values import begins, floats
from ctr_pipeline.attribution.differences.difference import Difference, Source, percent
from ctr_pipeline.attribution.differences.lagged_values import lag_of
from ctr_pipeline.attribution.differences.matched_rows import MatchedRows
from ctr_pipeline.attribution.differences.retrain_state import RetrainState

MOST_KEYS = 12
"""Categories that are tried as the key of a value of the past."""

_PLAIN_NUMBERS, _PLAIN_TEXTS = ("position", "propensity", "weight"), ("traffic", "user", "session")
"""Columns of the impressions that are no features, and yet decide what is learnt."""

_TOGETHER = ("missing", "missing filled", "other rows", "constant")
"""What happens to several features at once where a table is not joined, or joined to other rows."""

HASHED_LENGTH = 32
"""Letters of an id that was hashed."""


def changed_columns(old: RetrainState, new: RetrainState, rows: MatchedRows) -> list[Difference]:
    """A difference for each feature that both sides have and of which matched rows have other values."""
    if not rows.matched or not rows.old.height:
        return []
    found = [*_numbers(old, new, rows), *_categories(old, new, rows)]
    return _same_fault_as_one(_swaps_as_one(found), {*old.history, *new.history})


def _numbers(old: RetrainState, new: RetrainState, rows: MatchedRows) -> Iterable[Difference]:
    names = [name for name in old.numbers if name in new.numbers] + _there(_PLAIN_NUMBERS, rows)
    before = {name: _floats(rows.old, name) for name in names}
    keys = [name for name in old.categories if name in new.categories and rows.old[name].dtype == pl.String][:MOST_KEYS]
    for name in names:
        after = _floats(rows.new, name)
        differs = differing(before[name], after)
        if not differs.any():
            continue
        share, since = float(differs.mean()), _since(rows, differs)
        mask = pl.Series(differs)
        others = {other: values[differs] for other, values in before.items() if other != name}
        change = number_change(before[name][differs], after[differs], others, before[name][~differs])
        past = old.history.get(name) or new.history.get(name)
        evidence = [
            f"of {rows.old.height:,} impressions of both retrains {percent(share)} have another value",
            *_example(before[name], after, differs),
        ]
        lag = lag_of(name, rows.old, rows.new, mask, [past[0]] if past and past[0] in rows.old.columns else keys)
        if lag is not None and change.explained < lag.explained:
            yield Difference(
                kind="history", subject=name, form="time shift", sentence=f"“{name}” {lag.words}", share=share, since=since,
                evidence=(*evidence, f"true of {percent(lag.explained)} of the values for which that day is known"),
                follows=_behind(name, old, new), features=(name,), lag=lag.days,
            )  # fmt: skip
            continue
        yield Difference(
            kind="feature" if past is None else "history", subject=name, form=change.form,
            sentence=f"“{name}” {change.words}{_when(since, share)}", share=share, since=since,
            evidence=(*evidence, *([f"true of {percent(change.explained)} of the rows that differ"] if change.explained else [])),
            follows=_behind(name, old, new), features=(name,), other=change.other,
        )  # fmt: skip


def _categories(old: RetrainState, new: RetrainState, rows: MatchedRows) -> Iterable[Difference]:
    names = [name for name in old.categories if name in new.categories] + _there(_PLAIN_TEXTS, rows)
    before = {name: as_text(rows.old[name]) for name in names}
    other_key = old.key_fingerprint != new.key_fingerprint
    for name in names:
        after = as_text(rows.new[name])
        differs = before[name].ne_missing(after)
        if not differs.any():
            continue
        was, now = before[name].filter(differs), after.filter(differs)
        if other_key and _hashed(was) and _hashed(now):
            continue
        flags = differs.to_numpy()
        share, since = float(flags.mean()), _since(rows, flags)
        others = {other: values.filter(differs) for other, values in before.items() if other != name}
        known = set(before[name].drop_nulls().unique().to_list())
        kept = set(before[name].filter(~differs).drop_nulls().unique().to_list())
        change = category_change(was, now, others, known, kept)
        past = old.history.get(name) or new.history.get(name)
        yield Difference(
            kind="category" if past is None else "history", subject=name, form=change.form,
            sentence=f"“{name}” {change.words}{_when(since, share)}", share=share, since=since,
            evidence=(
                f"of {rows.old.height:,} impressions of both retrains {percent(share)} have another value",
                *([f"true of {percent(change.explained)} of the rows that differ"] if change.explained else []),
            ),
            follows=_behind(name, old, new), features=(name,), other=change.other,
        )  # fmt: skip


def _behind(name: str, old: RetrainState, new: RetrainState) -> tuple[Source, ...]:
    """What else would change the values of a feature: of one that is made of the past, all that the past is of."""
    past = old.history.get(name) or new.history.get(name)
    declared: tuple[Source, ...] = (("spec", f"features.history.{name}"), ("spec", f"features.contextual.{name}"))
    clock: tuple[Source, ...] = (("time", ""),)
    if past is None:
        groups = ("dense", "categorical", "contextual")
        fields: tuple[Source, ...] = tuple(("spec", f"features.{group}.{name}") for group in groups)
        of_time = any(f.name == name and f.source_column is None for f in new.spec.features.embedded)
        return (*fields, ("spec", "source"), ("spec", f"impression.{name}"), *(clock if of_time else ()))
    key, tasks = past
    labels: tuple[Source, ...] = tuple(("labels", task) for task in tasks if task) or (("labels", ""),)
    upstream: tuple[Source, ...] = (("category", key), ("rows", ""), ("spec", "tasks"), ("spec", "source"), ("key", ""))
    whole: tuple[Source, ...] = (("spec", "impression"), ("spec", "split.ingest_lag"))
    return (*declared, *clock, *labels, *upstream, *whole)


def _swaps_as_one(found: Sequence[Difference]) -> list[Difference]:
    """Two features with each other's values are one difference."""
    of = {d.subject: d for d in found if d.other is not None}
    pairs = {name: d.other for name, d in of.items()}
    kept: list[Difference] = []
    for difference in found:
        name = difference.subject
        other = pairs.get(name)
        if other is None or pairs.get(other) != name:
            kept.append(difference)
        elif name < other:
            partner = of[other]
            kept.append(
                replace(
                    difference, form="swapped", sentence=f"“{name}” and “{other}” have each other's values{_when(difference.since, difference.share)}",
                    share=max(difference.share, partner.share), evidence=(*difference.evidence, *partner.evidence),
                    follows=tuple(s for s in difference.follows if s in partner.follows), features=(name, other),
                )
            )  # fmt: skip
    return kept


def _same_fault_as_one(found: Sequence[Difference], past: Collection[str]) -> list[Difference]:
    """One fault of several features is one difference: a feed that stopped, or a past that is of other days."""
    groups: dict[tuple[object, ...], list[Difference]] = {}
    for difference in found:
        key: tuple[object, ...] = (difference.subject,)
        if difference.form == "time shift":
            key = ("time shift", difference.lag)
        elif difference.kind == "history":
            key = ("history",)
        elif difference.form in _TOGETHER:
            key = (difference.form, round(difference.share, 3), difference.since)
        groups.setdefault(key, []).append(difference)
    if ("history",) in groups and (shifted := [key for key in groups if key[0] == "time shift"]):
        # Of a past that is of other days, ages and counts have other values too.
        own = [d for d in groups[shifted[0]] if d.subject in past]
        if own:
            groups[shifted[0]] += groups.pop(("history",))
    return [members[0] if len(members) == 1 else _joined(members) for members in groups.values()]


def _joined(members: Sequence[Difference]) -> Difference:
    first = members[0]
    names = [name for difference in members for name in (difference.features or (difference.subject,))]
    others = ", ".join(f"“{name}”" for name in names[1:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    behind = [set(difference.follows) for difference in members]
    return replace(
        first, sentence=f"{first.sentence}; likewise {others}", share=max(d.share for d in members), features=tuple(names),
        evidence=tuple(text for d in members[:4] for text in d.evidence), follows=tuple(s for s in first.follows if all(s in b for b in behind)),
    )  # fmt: skip


def _there(names: Sequence[str], rows: MatchedRows) -> list[str]:
    return [
        name
        for name in names
        if all(name in side.columns and side[name].dtype != pl.Null for side in (rows.old, rows.new))
    ]


def _since(rows: MatchedRows, differs: NDArray[np.bool_]) -> date | None:
    """The first day of the rows that differ, where days before it have none and it is not the first."""
    return begins(rows.days.filter(pl.Series(differs)), rows.days)


def _when(since: date | None, share: float) -> str:
    if since is not None:
        return f", since {since}"
    return f", in {percent(share)} of the impressions" if share < 0.9 else ""


def _example(before: NDArray[np.float64], after: NDArray[np.float64], differs: NDArray[np.bool_]) -> list[str]:
    at = np.flatnonzero(differs)[:3]
    return ["for example " + ", ".join(f"{before[i]:.6g} → {after[i]:.6g}" for i in at).replace("nan", "missing")]


def _hashed(values: pl.Series) -> bool:
    shown = values.drop_nulls().head(100)
    return shown.len() > 0 and bool(shown.str.contains(rf"^[0-9a-f]{{{HASHED_LENGTH}}}$").all())


def _floats(frame: pl.DataFrame, name: str) -> NDArray[np.float64]:
    return floats(frame[name])
