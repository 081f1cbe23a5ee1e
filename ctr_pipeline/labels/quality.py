"""Whose labels are implausible: keys, such as advertisers, with far more or fewer outcomes than the others."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr_pipeline.labels.population import RatePopulation, compare_delays, fit_rates

LEAST_KEYS = 10
"""Keys with enough trials from which the usual rates can be estimated."""

FORMAT = 2
"""Version of the table's JSON."""

_NAMES_BEFORE = {"judged": "evaluated", "verdict": "status"}
_HOUR = 3_600_000_000
_SECOND = 1_000_000


class KeyStatus(StrEnum):
    """How plausible a key's labels of one task are."""

    INFLATED = "inflated"
    """Far more outcomes than the other keys have: z above the threshold."""
    DROPPED = "dropped"
    """Far fewer: z below minus the threshold."""
    LATE = "late"
    """The rate is plausible, but outcomes are known far later than those of the other keys."""
    PLAUSIBLE = "plausible"
    """As plausible as the others."""
    UNEVALUATED = "not evaluated"
    """Too few trials, or no population to compare with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyQuality:
    """One key's labels of one task."""

    task: str
    key: str
    trials: int
    """Impressions with a settled label, or those whose parent step happened."""
    positives: int
    rate: float
    expected_rate: float | None
    """Mean rate of the honest keys; None, like z, where no population was fitted."""
    z: float | None
    status: str
    weight: float
    """What the loss of the key's rows is multiplied by, if the spec asks for it."""
    delay_hours: float | None
    """Median time from the parent's outcome (or the impression) until the outcome was known."""
    delay_z: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQuality:
    """The population of one task, and what was found in it."""

    task: str
    parent: str | None
    usable: bool
    reason: str
    """Why no key was evaluated; empty when they were."""
    keys: int
    evaluated: int
    trials: int
    positives: int
    expected_rate: float | None
    alpha: float | None
    beta: float | None
    spread: float | None
    """Standard deviation of the logit of the honest keys' rates."""
    outlier_share: float | None
    inflated: int
    dropped: int
    late: int
    flagged_share: float
    """Share of the outcomes, or of the trials if that is larger, of keys that inflate or drop."""

    @property
    def population(self) -> RatePopulation | None:
        """The honest keys; None where no population was fitted."""
        if self.alpha is None or self.beta is None or self.outlier_share is None:
            return None
        return RatePopulation(alpha=self.alpha, beta=self.beta, outlier_share=self.outlier_share)


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityTable:
    """What was found in all tasks. Keys that are plausible, or were not evaluated, are counted but not listed."""

    key: str | None
    """Feature whose values were evaluated; None when the spec declares none."""
    tasks: tuple[TaskQuality, ...]
    flagged: tuple[KeyQuality, ...]
    """Inflated and dropped ones, worst first; then late ones."""

    def row_weights(self, chain: Sequence[str], keys: pl.Series) -> NDArray[np.float64]:
        """[N] weights of rows with these keys [N] for the first task of ``chain``; 1 for keys that are not flagged.

        A child inherits the weight of the steps above it, since its label holds theirs. Where several are flagged the
        smallest counts: one cause often shows in more than one step, and must not count twice.

        Args:
            chain: A task, its parent, its parent's parent, and so on.
            keys: The keys as text.
        """
        smallest: dict[str, float] = {}
        for entry in self.flagged:
            if entry.task in chain:
                smallest[entry.key] = min(entry.weight, smallest.get(entry.key, 1.0))
        if not smallest:
            return np.ones(len(keys))
        weights = keys.replace_strict(smallest, default=1.0, return_dtype=pl.Float64)
        return weights.to_numpy().astype(np.float64)

    def to_json(self) -> str:
        """The table as JSON text; read back by :meth:`from_json`."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The table in JSON ``text`` that :meth:`to_json` made, also in format 1, which has other names for two keys."""
        content = with_names_of_today(json.loads(text))
        return cls(
            key=content["key"],
            tasks=tuple(TaskQuality(**entry) for entry in content["tasks"]),
            flagged=tuple(KeyQuality(**entry) for entry in content["flagged"]),
        )


def label_quality(
    key: str,
    counts: pl.DataFrame,
    delays: pl.DataFrame,
    parents: Mapping[str, str | None],
    *,
    min_trials: int,
    threshold: float,
    floor: float,
) -> tuple[QualityTable, pl.DataFrame]:
    """Evaluates each key by its rate among the others: an empirical-Bayes outlier test on the logit scale.

    The honest keys' rates are taken to be Beta distributed, and their distribution is estimated from all keys with
    outliers set apart (:func:`~ctr_pipeline.labels.population.fit_rates`). With its mean μ and standard deviation τ on
    the logit scale, and the sampling error s of a key's logit rate y, z = (y - μ) / √(τ² + s²) is about standard normal
    for honest keys. A key with at least ``min_trials`` trials and |z| above ``threshold`` is flagged, and gets the
    weight (threshold / z)², at least ``floor``. Borrowing the spread from the other keys: Efron and Morris 1975.

    Delays are compared by the same kind of z on the log scale (:func:`~ctr_pipeline.labels.population.compare_delays`).
    They change no weight: a settled label is right however late it was known.

    Args:
        key: Name of the feature whose values are evaluated.
        counts: A row a task and key: task, key (text), trials, positives.
        delays: A row an outcome: task, key, delay (microseconds from the parent's outcome until it was known).
        parents: Parent of each task to be evaluated, in the order of the result.
        min_trials: Trials below which a key is not evaluated.
        threshold: Largest |z| that is plausible.
        floor: Smallest weight.

    Returns:
        The table; and all keys, a row a task and key with the columns of :class:`KeyQuality`, farthest first.
    """
    tasks, frames = [], []
    for task, parent in parents.items():
        own = counts.filter(pl.col("task") == task, pl.col("trials") > 0).sort("key")
        evaluated = own.with_columns(*_delay_columns(own, delays.filter(pl.col("task") == task)))
        reason = _unusable(own, min_trials)
        population = None if reason else fit_rates(_integers(own, "trials"), _integers(own, "positives"))
        found = _evaluate(evaluated, population, min_trials, threshold, floor)
        tasks.append(_summary(task, parent, found, population, reason, min_trials))
        frames.append(found)
    keys = pl.concat(frames)
    flagged = keys.filter(pl.col("status").is_in([KeyStatus.INFLATED, KeyStatus.DROPPED, KeyStatus.LATE]))
    late = pl.col("status") == KeyStatus.LATE
    worst = flagged.sort(late, pl.when(late).then("delay_z").otherwise(pl.col("z").abs()), "task", "key",
                         descending=[False, True, False, False])  # fmt: skip
    return QualityTable(
        key=key, tasks=tuple(tasks), flagged=tuple(KeyQuality(**row) for row in worst.iter_rows(named=True))
    ), keys


def with_names_of_today(content: Mapping[str, Any]) -> dict[str, Any]:
    """The decoded JSON of a :class:`QualityTable`, also of format 1, with the keys of the current format."""

    def renamed(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [{_NAMES_BEFORE.get(name, name): value for name, value in entry.items()} for entry in entries]

    return {**content, **{name: renamed(content.get(name, [])) for name in ("tasks", "flagged")}}


def _unusable(own: pl.DataFrame, min_trials: int) -> str:
    enough = int((own["trials"] >= min_trials).sum())
    if enough < LEAST_KEYS:
        return (
            f"{enough} keys have {min_trials} trials or more, and estimating the usual rates takes {LEAST_KEYS}: no key "
            "is evaluated, all weights are 1. Lower `min_trials`, or wait for more outcomes."
        )
    positives, trials = int(own["positives"].sum()), int(own["trials"].sum())
    if positives in (0, trials):
        return f"{positives} outcomes in {trials} trials: the keys do not differ, all weights are 1."
    return ""


def _delay_columns(own: pl.DataFrame, delays: pl.DataFrame) -> tuple[pl.Series, pl.Series]:
    """Median delay in hours and its z of each key of ``own``, null where there is none."""
    known = delays.join(own.select("key").with_row_index("code"), on="key", how="inner")
    # Outcomes logged in the second of their parent differ in nothing that matters.
    hours = np.maximum(known["delay"].to_numpy().astype(np.float64), _SECOND) / _HOUR
    found = compare_delays(_integers(known, "code"), hours, own.height)
    return tuple(
        pl.Series(name, values, dtype=pl.Float64).fill_nan(None)
        for name, values in (("delay_hours", found.median), ("delay_z", found.z))
    )  # type: ignore[return-value]


def _evaluate(
    own: pl.DataFrame, population: RatePopulation | None, min_trials: int, threshold: float, floor: float
) -> pl.DataFrame:
    """The rows of ``own`` with the columns of :class:`KeyQuality`, farthest first."""
    z = pl.Series("z", [None] * len(own), dtype=pl.Float64)
    if population is not None:
        z = pl.Series("z", population.z(_integers(own, "trials"), _integers(own, "positives")))
    evaluated = pl.col("z").is_not_null() & (pl.col("trials") >= min_trials)
    inflated, dropped = evaluated & (pl.col("z") > threshold), evaluated & (pl.col("z") < -threshold)
    weight = (threshold / pl.col("z")) ** 2
    return (
        own.with_columns(z)
        .with_columns(
            rate=pl.col("positives") / pl.col("trials"),
            expected_rate=pl.lit(population.rate if population else None, dtype=pl.Float64),
            status=pl.when(inflated)
            .then(pl.lit(KeyStatus.INFLATED.value))
            .when(dropped)
            .then(pl.lit(KeyStatus.DROPPED.value))
            .when(pl.col("delay_z") > threshold)
            .then(pl.lit(KeyStatus.LATE.value))
            .when(evaluated)
            .then(pl.lit(KeyStatus.PLAUSIBLE.value))
            .otherwise(pl.lit(KeyStatus.UNEVALUATED.value)),
            weight=pl.when(inflated | dropped).then(weight.clip(lower_bound=floor)).otherwise(1.0),
        )
        .select(KeyQuality.__slots__)
        .sort(pl.col("z").abs(), "key", descending=[True, False], nulls_last=True)
    )


def _summary(
    task: str, parent: str | None, found: pl.DataFrame, population: RatePopulation | None, reason: str, min_trials: int
) -> TaskQuality:
    statuses = dict(found["status"].value_counts().iter_rows())
    misstated = found.filter(pl.col("status").is_in([KeyStatus.INFLATED, KeyStatus.DROPPED]))

    def total(frame: pl.DataFrame, column: str) -> int:
        return int(frame[column].sum())

    shares = [total(misstated, name) / max(1, total(found, name)) for name in ("positives", "trials")]
    return TaskQuality(
        task=task,
        parent=parent,
        usable=not reason,
        reason=reason,
        keys=found.height,
        evaluated=0 if reason else int((found["trials"] >= min_trials).sum()),
        trials=total(found, "trials"),
        positives=total(found, "positives"),
        expected_rate=population.rate if population else None,
        alpha=population.alpha if population else None,
        beta=population.beta if population else None,
        spread=population.spread if population else None,
        outlier_share=population.outlier_share if population else None,
        inflated=statuses.get(KeyStatus.INFLATED.value, 0),
        dropped=statuses.get(KeyStatus.DROPPED.value, 0),
        late=statuses.get(KeyStatus.LATE.value, 0),
        flagged_share=max(shares),
    )


def _integers(frame: pl.DataFrame, column: str) -> NDArray[Any]:
    return frame[column].to_numpy().astype(np.int64)
