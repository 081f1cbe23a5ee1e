"""Compares the profile of a day with those of the days before it, and names the symptoms that it finds.

Each comparison needs two things: that the difference cannot be chance, at a level of one in a million, and that it is
large enough to matter. Chance is measured by what the reference days themselves do, since rows of one session or one
user are alike and vary more between days than independent rows would. Medians over the reference days keep a few bad
days among them from counting as normal.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import betainc, fdtrc

from ctr_pipeline.features.profile import LISTED

Counts = NDArray[np.float64]

REFERENCE_DAYS = 14
"""Days before a day with which it is compared."""

LEAST_REFERENCE_DAYS = 3
WEEK = 7
"""Outcomes by the hour and mixes have a weekly rhythm: nothing is said of them without a week of reference."""

SIGNIFICANCE = 1e-6
"""Chance, for one day and one feature or task, that a comparison finds something where there is nothing."""

DEVIATIONS = 6.0
"""How many robust standard deviations a share must be above its usual value."""

LEAST_ROWS = 20
"""Rows that a surge must have, and rows of the day for each bin of a distribution."""

SCALE_FLOOR, MIX_FLOOR = 0.25, 0.1
"""Smallest population stability index that counts, for the magnitude of a number and for a mix of categories."""

COMMON = 0.05
"""A value with a smaller usual share of the rows is counted with the other rare ones in the mix of a category."""

COVERED = 0.9
"""Share of the rows that the listed values of a category must have, for its mix to be known."""

GAP_SHARE = 0.5
"""A gap is where at most this share of the expected outcomes arrived."""

SYMPTOMS = (
    "outcome_gap",
    "late_arrivals",
    "duplicate_delivery",
    "feature_scale",
    "missing_values",
    "unseen_categories",
    "traffic_mix",
    "anomalous_users",
)

SURGE_FLOORS = {
    "late_arrivals": 0.1,
    "duplicate_delivery": 0.005,
    "missing_values": 0.05,
    "unseen_categories": 0.01,
    "anomalous_users": 0.15,
}
"""By how much a share must exceed its usual value."""

_SHARES = (
    ("late_arrivals", "late", "outcomes", "of the outcomes of {name} arrive late"),
    ("duplicate_delivery", "repeats", "deliveries", "of {name} are repeats"),
    ("missing_values", "missing", "values", "of the rows have no {name}"),
    ("anomalous_users", "heaviest", "clients", "of the rows belong to ten {name}s"),
    ("anomalous_users", "suspicious", "same_day", "of the outcomes come from users who respond as no person does"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One symptom on one day: which feature, task or table shows it, how much of it there is, and how much is usual."""

    day: date
    symptom: str
    name: str
    value: float
    usual: float
    message: str


_RUNS = np.triu_indices(25, k=1)
"""First and end hour of each run of hours of a day."""


def find_drift(profile: pl.DataFrame, days: Sequence[date]) -> list[Finding]:
    """What is unusual about ``days``, each compared with up to :data:`REFERENCE_DAYS` days before it.

    Args:
        profile: Profiles of these days and of the days before them (see :mod:`ctr_pipeline.features.profile`). Days
            without impressions are no reference.
        days: Days to evaluate. One with fewer than :data:`LEAST_REFERENCE_DAYS` reference days is left out.

    Returns:
        Findings by day, symptom and name.
    """
    series = _Series.of(profile)
    findings: list[Finding] = []
    for day in series.evaluated(days):
        at = np.array([series.index[day], *(series.index[other] for other in series.reference(day))])
        findings += _of_day(series, day, at)
    return sorted(findings, key=lambda found: (found.day, found.symptom, found.name))


def evaluated_days(profile: pl.DataFrame, days: Sequence[date]) -> list[date]:
    """Those of ``days`` that have impressions and enough days before them in ``profile`` to be compared with."""
    return _Series.of(profile.filter(pl.col("measure") == "rows")).evaluated(days)


@dataclass(frozen=True, slots=True)
class _Series:
    """Each measure as an array over days: ``table[measure, name]`` is [days, bins] with the labels of the bins."""

    index: Mapping[date, int]
    table: Mapping[tuple[str, str], tuple[Counts, list[str]]]

    @classmethod
    def of(cls, profile: pl.DataFrame) -> "_Series":
        days = profile["day"].unique().sort().to_list()
        index = {day: n for n, day in enumerate(days)}
        position = pl.col("day").replace_strict(index, return_dtype=pl.Int64) if days else pl.lit(0)
        rows = profile.with_columns(position.alias("at"), pl.col("bin").fill_null(""))
        table = {}
        for (measure, name), part in rows.group_by("measure", "name"):
            labels = part["bin"].unique().to_list()
            labels.sort(key=_bin_order)
            places = {label: n for n, label in enumerate(labels)}
            values = np.zeros((len(days), len(labels)))
            values[part["at"].to_numpy(), [places[label] for label in part["bin"]]] = part["value"].to_numpy()
            table[str(measure), str(name)] = (values, labels)
        return cls(index, table)

    def names(self, measure: str) -> list[str]:
        return sorted(name for of, name in self.table if of == measure)

    def values(self, measure: str, name: str) -> Counts:
        """[days] the value of a measure without bins; 0 where there is none."""
        found = self.table.get((measure, name))
        return np.zeros(len(self.index)) if found is None else found[0][:, 0]

    def has_rows(self, day: date) -> bool:
        return day in self.index and bool(self.values("rows", "impressions")[self.index[day]] > 0)

    def evaluated(self, days: Sequence[date]) -> list[date]:
        return [d for d in sorted(days) if self.has_rows(d) and len(self.reference(d)) >= LEAST_REFERENCE_DAYS]

    def reference(self, day: date) -> list[date]:
        before = (day - timedelta(days=n) for n in range(REFERENCE_DAYS, 0, -1))
        return [other for other in before if self.has_rows(other)]


def _bin_order(label: str) -> tuple[float, str]:
    try:
        return float(label), label
    except ValueError:
        return np.inf, label


def _of_day(series: _Series, day: date, at: NDArray[np.intp]) -> Iterator[Finding]:
    """Findings of the day at ``at[0]``, whose reference days are at ``at[1:]``."""
    for symptom, part, whole, text in _SHARES:
        for name in series.names(whole):
            found = surge(series.values(part, name)[at], series.values(whole, name)[at], SURGE_FLOORS[symptom])
            if found is not None:
                share, usual = found
                message = f"{share:.1%} {text.format(name=name)}; usual are {usual:.1%}"
                yield Finding(day=day, symptom=symptom, name=name, value=share, usual=usual, message=message)
    for name in series.names("histogram"):
        found = shift(series.table["histogram", name][0][at], SCALE_FLOOR)
        if found is not None:
            value, usual = found
            quantiles, labels = series.table["quantile", name]
            median = quantiles[at, labels.index("0.5")]
            message = f"{name} has median {median[0]:.4g}, usual is {np.median(median[1:]):.4g} (PSI {value:.2f})"
            yield Finding(day=day, symptom="feature_scale", name=name, value=value, usual=usual, message=message)
    for name in series.names("category"):
        yield from _of_category(series, day, at, name)
    if len(at) > WEEK:
        hours = _by_hour(series, "hour_rows", "impressions")[at]
        for task in series.names("hour_outcomes"):
            gap = outcome_gap(_by_hour(series, "hour_outcomes", task)[at], hours)
            if gap is not None:
                first, end, arrived, expected = gap
                message = (
                    f"{arrived:.0f} outcomes of {task} arrived from {first} to {end} h UTC, expected are {expected:.0f}"
                )
                yield Finding(day=day, symptom="outcome_gap", name=task, value=arrived, usual=expected, message=message)


def _by_hour(series: _Series, measure: str, name: str) -> Counts:
    counts, labels = series.table[measure, name]
    hours = np.zeros((len(counts), 24))
    hours[:, [int(label) for label in labels]] = counts
    return hours


def _of_category(series: _Series, day: date, at: NDArray[np.intp], name: str) -> Iterator[Finding]:
    counts, labels = series.table["category", name]
    counts = counts[at]
    used = (counts > 0).any(axis=0)
    counts, labels = counts[:, used], [labels[n] for n in np.flatnonzero(used)]
    rows = (series.values("values", name) - series.values("missing", name))[at]
    # Where the most frequent values are not most of the rows, new values come every day: the vocabulary deals with them.
    open_ended = ((counts > 0).sum(axis=1) == LISTED) & (counts.sum(axis=1) < COVERED * rows)
    if rows[0] == 0 or open_ended[0] or open_ended[1:].mean() >= 0.5:
        return
    # A column with one value a day, such as the day of the week, shows the day and not the traffic.
    if len(at) <= WEEK and ((counts > 0).sum(axis=1) == 1).all():
        return
    new, news = newcomers(counts)
    found = surge(news, np.append(rows[0], rows[:1:-1]), SURGE_FLOORS["unseen_categories"])
    if found is not None:
        share, usual = found
        listed = ", ".join(repr(labels[place]) for place in np.argsort(-counts[0] * new)[:3] if new[place])
        message = f"{share:.1%} of the rows have a {name} not seen before ({listed}); usual are {usual:.1%}"
        yield Finding(day=day, symptom="unseen_categories", name=name, value=share, usual=usual, message=message)
    known = counts[:, ~new]
    if len(at) <= WEEK or known[0].sum() == 0 or np.median(known[1:].sum(axis=1) / rows[1:]) < COVERED:
        return
    found = shift(known, MIX_FLOOR, merge=False)
    if found is not None:
        value, usual = found
        shares = known / np.maximum(known.sum(axis=1, keepdims=True), 1)
        before = np.median(shares[1:], axis=0)
        most = int(np.argmax(np.abs(shares[0] - before)))
        label = labels[int(np.flatnonzero(~new)[most])]
        message = (
            f"{name} {label!r} has {shares[0, most]:.1%} of the rows, usual are {before[most]:.1%} (PSI {value:.2f})"
        )
        yield Finding(day=day, symptom="traffic_mix", name=name, value=value, usual=usual, message=message)


def surge(part: Counts, whole: Counts, floor: float) -> tuple[float, float] | None:
    """Whether a share is far above its usual value.

    It is, when at least :data:`LEAST_ROWS` rows exceed the median share of the reference days by ``floor`` and by
    :data:`DEVIATIONS` standard deviations (the larger of the binomial one and that of the reference days, from their
    median absolute deviation), and reach twice the upper quartile of the reference days, which a weekly rhythm raises.

    Args:
        part: [1 + K] rows that count, of the day and of its K reference days.
        whole: [1 + K] all rows.
        floor: Smallest difference of shares that matters.

    Returns:
        The day's share and the usual one; None when there is no surge.
    """
    reference = whole[1:] > 0
    if part[0] < LEAST_ROWS or whole[0] == 0 or not reference.any():
        return None
    shares = part[1:][reference] / whole[1:][reference]
    share, usual = part[0] / whole[0], float(np.median(shares))
    smoothed = (usual * whole[0] + 1) / (whole[0] + 2)
    chance = np.sqrt(smoothed * (1 - smoothed) / whole[0])
    deviation = max(chance, 1.4826 * float(np.median(np.abs(shares - usual))))
    surges = (
        share - usual >= floor
        and share - usual >= DEVIATIONS * deviation
        and share >= 2 * np.quantile(shares, 0.75, method="lower")
    )
    return (float(share), usual) if surges else None


def shift(counts: Counts, floor: float, merge: bool = True) -> tuple[float, float] | None:
    """Whether a distribution differs from its usual one, by the population stability index Σ (p - q) ln(p / q).

    q are the median shares of the reference days. Where nothing changed, (n m / (n + m)) PSI follows a χ² law with
    B - 1 degrees of freedom for n and m independent rows in B bins. Rows are not independent, so it is divided by how
    much larger it is on the K reference days in the median (at least 1), and that estimate makes it an F law with
    B - 1 and K (B - 1) degrees of freedom. A shift has a PSI of at least ``floor``, a p-value below
    :data:`SIGNIFICANCE`, and twice the upper quartile of the PSI of the reference days.

    Args:
        counts: [1 + K, bins] rows of the day and of its K reference days; bins in the order of the values.
        floor: Smallest PSI that matters.
        merge: Whether neighbouring bins may be merged into bins of equal mass, as for numbers; for categories the rare
            ones are merged instead. Bins that the reference days lack in the median are a bin of their own.

    Returns:
        The day's PSI and the median one of the reference days; None when there is no shift.
    """
    rows = counts.sum(axis=1)
    kept = rows > 0
    if not kept[0] or kept[1:].sum() < LEAST_REFERENCE_DAYS or rows[0] < 2 * LEAST_ROWS:
        return None
    counts, rows = counts[kept], rows[kept]
    usual = np.median(counts[1:] / rows[1:, None], axis=0)
    if merge:
        bins = int(np.clip(rows[0] // LEAST_ROWS, 2, 10))
        middle = (np.cumsum(usual) - usual / 2) / max(usual.sum(), 1e-12)
        group = np.where(usual > 0, np.minimum(middle * bins, bins - 1).astype(int), bins)
    else:
        common = usual >= COMMON
        group = np.where(common, np.cumsum(common) - 1, common.sum())
    _, group = np.unique(group, return_inverse=True)
    grouped = np.stack([np.bincount(group, weights=row) for row in counts])
    bins = grouped.shape[1]
    if bins < 2:
        return None
    shares = (grouped + 0.5) / (rows[:, None] + 0.5 * bins)
    expected = np.median(shares[1:], axis=0)
    expected /= expected.sum()
    index = ((shares - expected) * np.log(shares / expected)).sum(axis=1)
    others = rows[1:].sum()
    freedom = bins - 1
    scaled = index * rows * others / (rows + others) / freedom
    # Median of the χ² law over its mean (Wilson and Hilferty 1931).
    excess = max(1.0, float(np.median(scaled[1:])) / (1 - 2 / (9 * freedom)) ** 3)
    shifts = (
        index[0] >= floor
        and fdtrc(freedom, freedom * (len(rows) - 1), scaled[0] / excess) < SIGNIFICANCE
        and index[0] >= 2 * np.quantile(index[1:], 0.75, method="lower")
    )
    return (float(index[0]), float(np.median(index[1:]))) if shifts else None


def newcomers(counts: Counts) -> tuple[NDArray[np.bool_], Counts]:
    """Values that were absent on more than half of the days before.

    Args:
        counts: [1 + K, values] rows of a day, and of the K days before it, the earliest first.

    Returns:
        Which values are new on the day [values], and [K] rows with a new value: of the day, and of the reference days
        but for the earliest, each held against the reference days before it.
    """
    present = counts[1:] > 0
    days = len(present)
    new = present.sum(axis=0) < days / 2
    rows = [counts[0, new].sum()]
    for n in range(days - 1, 0, -1):
        rows.append(counts[1 + n, present[:n].sum(axis=0) < n / 2].sum())
    return new, np.array(rows)


def outcome_gap(outcomes: Counts, shown: Counts) -> tuple[int, int, float, float] | None:
    """The run of hours in which outcomes are most surely missing.

    For each run of hours the day's count is compared with the mean count of the reference days, lowered where fewer
    impressions were shown than usual. It is a gap when at most :data:`GAP_SHARE` of the expected and of the lower
    quartile arrived, and when the exact comparison of two Poisson counts (given their sum, the day's is binomial;
    Przyborowski and Wilenski 1940), with counts divided by the reference days' overdispersion, has a p-value below
    :data:`SIGNIFICANCE` after Bonferroni's correction for the 300 runs.

    Args:
        outcomes: [1 + K, 24] outcomes that arrived in each hour of the day and of its K reference days.
        shown: [1 + K, 24] impressions.

    Returns:
        First hour, end hour, outcomes that arrived and that were expected; None when there is no gap.
    """
    first, end = _RUNS
    until = np.zeros((2, len(outcomes), 25))
    np.cumsum([outcomes, shown], axis=2, out=until[:, :, 1:])
    arrived, exposure = until[:, :, end] - until[:, :, first]
    days = len(outcomes) - 1
    with np.errstate(invalid="ignore", divide="ignore"):
        traffic = np.minimum(1.0, np.nan_to_num(exposure[0] / exposure[1:].mean(axis=0), nan=1.0, posinf=1.0))
    mean, middle = arrived[1:].mean(axis=0), np.median(arrived[1:], axis=0)
    spread = 1.4826 * np.median(np.abs(arrived[1:] - middle), axis=0)
    overdispersion = np.maximum(1.0, spread**2 / np.maximum(middle, 1.0))
    low = np.minimum(mean, np.quantile(arrived[1:], 0.25, axis=0, method="lower")) * traffic
    count, total = arrived[0] / overdispersion, (arrived[0] + arrived[1:].sum(axis=0)) / overdispersion
    p = np.ones(len(first))
    candidates = (arrived[0] < GAP_SHARE * low) & (total > count)
    share = traffic[candidates] / (traffic[candidates] + days)
    # The binomial distribution function, for counts that need not be whole numbers.
    p[candidates] = betainc(total[candidates] - count[candidates], count[candidates] + 1, 1 - share)
    best = int(np.argmin(p))
    if p[best] * len(p) >= SIGNIFICANCE:
        return None
    return int(first[best]), int(end[best]), float(arrived[0, best]), float(mean[best] * traffic[best])
