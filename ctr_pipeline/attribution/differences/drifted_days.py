"""What the days look like that one retrain has and the other has not: moved by themselves, or broken.

No impression of these days can be compared with itself, so distributions are: with the old side's own days, which also
say how much two days differ where nothing happened.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr_pipeline.attribution.differences.changed_categories import as_text
from ctr_pipeline.attribution.differences.column_values import floats, mean
from ctr_pipeline.attribution.differences.difference import Difference, Source, number, percent
from ctr_pipeline.attribution.differences.matched_rows import MatchedRows
from ctr_pipeline.attribution.differences.retrain_state import RetrainState

BINS = 10
MOVED = 0.02
"""Stability index below which a feature has not moved, whatever its days do."""

TIMES_USUAL = 3.0
"""How many times the largest index of a day beside the others a feature's has to be."""

STRONG = 0.5
"""Stability index from which on a formula is looked for: traffic moves a feature by less."""

LEAST_FACTOR = 1.5
FITS = 0.12
"""Largest error of a quantile that a formula says, as a share of the spread between the outer ones."""

MOST_VALUES = 500
"""Of a category with more values, new ones are nothing new."""

NAMED = 5

LEAST_SHARE = 0.005
"""Share of the new side's impressions that have to be of other days."""

LEAST_ROWS = 200
"""Rows that a day needs to be looked at by itself."""

BETTER = 0.4
"""Most of the error without a formula that one with it may leave."""

_FOLLOWS: tuple[Source, ...] = (
    ("spec", "split"),
    ("spec", "tasks"),
    ("spec", "days"),
    ("spec", "impression"),
    ("time", ""),
)


@dataclass(frozen=True, slots=True)
class _Move:
    """How far a feature moved: the largest stability index of a new day, and of an earlier day beside the others."""

    feature: str
    index: float
    usual: float

    @property
    def ratio(self) -> float:
        return self.index / max(self.usual, MOVED / TIMES_USUAL)


def drifted_days(old: RetrainState, new: RetrainState, rows: MatchedRows, known: set[str]) -> list[Difference]:
    """What is broken on the days that the new side has alone, and one difference for these days themselves.

    Args:
        old: The old side.
        new: The new side.
        rows: Their matched rows; without any, all days are compared so.
        known: Features of which a difference was found by matched rows.
    """
    gone = [day for day in old.days if day not in new.days] if rows.matched else []
    own = rows.fresh(old, new)
    days = sorted(own["day"].unique().to_list())
    if own.height < LEAST_SHARE * new.rows.height or not own.height or not old.rows.height:
        return [_days_gone(gone)] if gone else []
    usual = old.rows
    broken = list(_broken(old, new, usual, own, days, known))
    moves = sorted(_moves(old, new, usual, own, known | {d.subject for d in broken}), key=lambda move: -move.ratio)
    moved = [move for move in moves if move.index >= MOVED and move.ratio >= TIMES_USUAL]
    return [*broken, _new_days(new, usual, own, days, moved, rows.matched)]


def _days_gone(days: Sequence[date]) -> Difference:
    return Difference(
        kind="drift", subject="days", form="fewer days", paired=False,
        sentence=f"{len(days)} days are no longer read ({days[0]} to {days[-1]})", follows=_FOLLOWS,
    )  # fmt: skip


def _new_days(
    new: RetrainState,
    usual: pl.DataFrame,
    own: pl.DataFrame,
    days: Sequence[date],
    moved: Sequence[_Move],
    matched: bool,
) -> Difference:
    evidence = [
        f"{move.feature}: stability index {move.index:.3f}, of single days before at most {move.usual:.3f}"
        for move in moved[:NAMED]
    ]
    for task in new.tasks:
        column = f"y_{task}"
        if column in usual.columns and column in own.columns:
            before, after = (mean(side[column]) for side in (usual, own))
            evidence.append(f"base rate of {task}: {percent(before)} → {percent(after)}")
    names = ", ".join(f"“{move.feature}”" for move in moved[:3])
    what = f"; what moved most: {names}" if moved else "; no feature moved more than from one day to the next"
    span = f"{days[0]} to {days[-1]}" if len(days) > 1 else str(days[0])
    whose = "The new retrain reads other days" if matched else "The two retrains have no impression in common"
    return Difference(
        kind="drift", subject="days", form="moved" if moved else "new days", since=days[0], paired=False,
        share=min(1.0, own.height / max(1, new.rows.height)),
        sentence=f"{whose} ({span}, {percent(own.height / max(1, new.rows.height))} of its impressions){what}",
        evidence=tuple(evidence), features=tuple(move.feature for move in moved),
        follows=_FOLLOWS, against=() if moved else ("no feature of these days moved more than single days before did",),
    )  # fmt: skip


def _moves(
    old: RetrainState, new: RetrainState, usual: pl.DataFrame, own: pl.DataFrame, known: set[str]
) -> Iterable[_Move]:
    for name in [*old.numbers, *old.categories]:
        if name not in own.columns or name not in usual.columns or name in known:
            continue
        codes = _codes(usual[name], own[name], numeric=name in old.numbers and name in new.numbers)
        if codes is None:
            continue
        before, after, bins = codes
        by_day, own_days = (side["day"].to_physical().to_numpy() for side in (usual, own))
        single = [
            stability_index(_counts(before[by_day != day], bins), _counts(before[by_day == day], bins))
            for day in np.unique(by_day)
            if (by_day == day).sum() >= LEAST_ROWS
        ]
        whole = _counts(before, bins)
        fresh = [
            stability_index(whole, _counts(after[own_days == day], bins))
            for day in np.unique(own_days)
            if (own_days == day).sum() >= LEAST_ROWS
        ]
        index = max(fresh, default=stability_index(whole, _counts(after, bins)))
        yield _Move(name, index, max(single, default=0.0))


def stability_index(expected: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """Population stability index of two histograms, without what it is in expectation where nothing moved.

    Under no change (n m / (n + m)) times the index is χ² with one degree of freedom less than there are bins.
    """
    rows, others = expected.sum(), found.sum()
    if not rows or not others:
        return 0.0
    p, q = (expected + 0.5) / (rows + 0.5 * len(expected)), (found + 0.5) / (others + 0.5 * len(found))
    chance = (len(expected) - 1) * (rows + others) / (rows * others)
    return max(0.0, float(((p - q) * np.log(p / q)).sum()) - float(chance))


def _codes(
    before: pl.Series, after: pl.Series, *, numeric: bool
) -> tuple[NDArray[np.intp], NDArray[np.intp], int] | None:
    """Bins of two columns: of quantiles of the first, or its most frequent values; 0 for missing."""
    if numeric:
        first, second = floats(before), floats(after)
        there = first[np.isfinite(first)]
        if not len(there):
            return None
        edges = np.unique(np.quantile(there, np.linspace(0, 1, BINS + 1)[1:-1]))

        def code(values: NDArray[np.float64]) -> NDArray[np.intp]:
            return np.where(np.isfinite(values), 1 + np.searchsorted(edges, values, side="right"), 0).astype(np.intp)

        return code(first), code(second), len(edges) + 2
    texts = as_text(before)
    top = texts.drop_nulls().value_counts(sort=True)[texts.name].to_list()[:50]
    places = {value: place + 2 for place, value in enumerate(top)}

    def place(values: pl.Series) -> NDArray[np.intp]:
        return values.replace_strict(places, default=1, return_dtype=pl.Int64).fill_null(0).to_numpy().astype(np.intp)

    others = as_text(after)
    one, two = place(texts), place(others)
    one[texts.is_null().to_numpy()] = 0
    two[others.is_null().to_numpy()] = 0
    return one, two, len(places) + 2


def _counts(codes: NDArray[np.intp], bins: int) -> NDArray[np.float64]:
    return np.bincount(codes, minlength=bins).astype(np.float64)


def _broken(
    old: RetrainState, new: RetrainState, usual: pl.DataFrame, own: pl.DataFrame, days: Sequence[date], known: set[str]
) -> Iterable[Difference]:
    names = [n for n in old.numbers if n in new.numbers and n not in known]
    strong: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    for name in names:
        codes = _codes(usual[name], own[name], numeric=True)
        if codes is None:
            continue
        before, after, bins = codes
        if stability_index(_counts(before, bins), _counts(after, bins)) >= STRONG:
            strong[name] = floats(usual[name]), floats(own[name])
    for name, (was, now) in strong.items():
        found = _number_form(was, now, {n: v[0] for n, v in strong.items() if n != name})
        if found is not None:
            form, words = found
            yield Difference(
                kind="history" if name in old.history else "feature", subject=name, form=form, since=days[0], paired=False, share=own.height / max(1, new.rows.height),
                sentence=f"“{name}” {words} on the days from {days[0]}", features=(name,),
                evidence=("its distribution on these days beside that of the days before", *_medians(was, now)),
                follows=(("labels", ""),) if name in old.history else (),
            )  # fmt: skip
    for name in [n for n in old.categories if n in new.categories and n not in known]:
        moved = _category_form(as_text(usual[name]), as_text(own[name]), usual["day"])
        if moved is not None:
            form, words, share = moved
            yield Difference(
                kind="history" if name in old.history else "category", subject=name, form=form, since=days[0], paired=False, share=share * own.height / max(1, new.rows.height),
                sentence=f"“{name}” {words} on the days from {days[0]}", features=(name,), evidence=("its values on these days beside those of the days before",),
            )  # fmt: skip


def _number_form(
    before: NDArray[np.float64], after: NDArray[np.float64], others: dict[str, NDArray[np.float64]]
) -> tuple[str, str] | None:
    missing = float(np.isnan(after).mean()) - float(np.isnan(before).mean())
    if missing > 0.3:
        return (
            "missing",
            f"is missing in {percent(float(np.isnan(after).mean()))} of the rows (it was {percent(float(np.isnan(before).mean()))})",
        )
    there, usual = after[np.isfinite(after)], before[np.isfinite(before)]
    if len(there) < 50 or len(usual) < 50:
        return None
    values, counts = np.unique(there, return_counts=True)
    top, share = float(values[np.argmax(counts)]), float(counts.max() / len(there))
    if share > 0.95 and float((usual == top).mean()) < 0.8:
        return "constant", f"is {number(top)} in {percent(share)} of the rows"
    points = np.linspace(0.05, 0.95, 19)
    found, expected = np.quantile(there, points), np.quantile(usual, points)
    spread = max(float(found[-1] - found[0]), 1e-12)

    def fits(predicted: NDArray[np.float64]) -> bool:
        error = np.abs(predicted - found).mean()
        return bool(np.isfinite(error) and error <= min(FITS * spread, BETTER * np.abs(expected - found).mean()))

    for other, values_of in others.items():
        theirs = np.quantile(values_of[np.isfinite(values_of)], points)
        if fits(theirs):
            return "other feature", f"has the distribution of {other}"
    usable = (expected != 0) & (found != 0)
    if usable.sum() >= 5:
        factor = float(np.median(found[usable] / expected[usable]))
        if factor > 0 and max(factor, 1 / factor) >= LEAST_FACTOR and fits(expected * factor):
            nearest = _unit(factor)
            return "unit", f"is about {number(nearest)} times what it was (×{number(nearest)})"
    if fits(-expected[::-1]):
        return "sign", "has the other sign"
    if fits(np.sign(expected) * np.log1p(np.abs(expected))):
        return "transform", "is the log(1 + x) of what it was"
    return None


def _unit(factor: float) -> float:
    known = [10.0**n for n in range(-6, 7) if n] + [60.0, 3600.0, 86400.0, 24.0, 1 / 60, 1 / 3600, 1 / 86400, 1 / 24]
    nearest = min(known, key=lambda size: abs(np.log(factor / size)))
    return nearest if abs(np.log(factor / nearest)) < 0.25 else factor


def _category_form(before: pl.Series, after: pl.Series, days: pl.Series) -> tuple[str, str, float] | None:
    known = before.drop_nulls().unique()
    if not after.len() or known.len() > MOST_VALUES or not known.len():
        return None
    missing = mean(after.is_null()) - mean(before.is_null())
    if missing > 0.2:
        return "missing", f"is missing in {percent(missing)} more of the rows", missing
    fresh = after.drop_nulls()
    fresh = fresh.filter(~fresh.is_in(known.implode()))
    share = fresh.len() / after.len()
    if share < 0.01 or share < TIMES_USUAL * _usual_newcomers(before, days):
        return None
    names = fresh.value_counts(sort=True)[fresh.name].to_list()
    listed = ", ".join(f"‘{name}’" for name in names[:NAMED])
    usual = set(known.to_list())
    if share > 0.9:
        return "renamed", f"has other values than it had ({listed})", share
    lower = {str(value).lower().strip() for value in usual}
    if all(str(value).lower().strip() in lower for value in names):
        return "renamed", f"is spelt otherwise ({listed})", share
    return "new category", f"has new values: {listed}, in {percent(share)} of the rows", share


def _usual_newcomers(values: pl.Series, days: pl.Series) -> float:
    """The largest share of a day's rows, in the second half of some days, with a value that no earlier day has.

    Ads and users come and go: their turnover is nothing that broke.
    """
    frame = pl.DataFrame({"value": values, "day": days})
    first = frame.drop_nulls("value").group_by("value").agg(first=pl.col("day").min())
    shares = (
        frame.join(first, on="value", how="left").group_by("day").agg(share=(pl.col("first") == pl.col("day")).mean())
    )
    later = shares.sort("day").tail(max(1, shares.height // 2))
    return mean(later["share"].top_k(1)) if shares.height > 1 else 0.0


def _medians(before: NDArray[np.float64], after: NDArray[np.float64]) -> tuple[str, ...]:
    if not np.isfinite(before).any() or not np.isfinite(after).any():
        return ()
    return (f"median {number(float(np.nanmedian(before)))} → {number(float(np.nanmedian(after)))}",)
