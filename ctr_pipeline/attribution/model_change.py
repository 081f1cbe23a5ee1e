"""What changed from one trained model to another, measured on the same impressions: plain values, and their JSON.

Everywhere ``old`` is the first retrain and ``new`` the second, a change is new minus old, and NE is that of calibrated
logits as the model is served: lower is better, so a change above 0 is a loss.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from ctr_pipeline.evaluation.metrics import Interval

How = Literal["impression", "time and position", "not matched"]
"""How rows of both sides were told to be of one impression: by its hashed id; by time, position and the plain values that
both have, as under different keys of the hashes; or not at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreShift:
    """How the logits of the same impressions moved: the new model on the new data beside the old one on the old.

    Attributes:
        mean: Mean of new minus old calibrated logit.
        deviation: Population standard deviation of it.
        probability_old: Mean calibrated probability.
        probability_new: The same of the new side.
        rank_correlation: Spearman's, of both sides' logits; None where one of them is constant.
    """

    mean: float
    deviation: float
    probability_old: float
    probability_new: float
    rank_correlation: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceChange:
    """One slice of the matched rows by each side.

    Attributes:
        dimension: What the rows were divided by.
        value: The rows' value of it.
        rows: Labelled rows.
        positives: Positive ones.
        old: Observed over expected outcomes of the old side, with an interval that knows of users.
        new: The same of the new side.
        ne: NE of the new side minus that of the old one within the slice; None where it has one class.
    """

    dimension: str
    value: str
    rows: int
    positives: int
    old: Interval
    new: Interval
    ne: Interval | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DayChange:
    """One day (UTC) of the matched rows: since when both sides differ.

    Attributes:
        day: YYYY-MM-DD.
        rows: Labelled rows.
        positives: Positive ones.
        old: NE of the old side; None where the day has one class, as the two below.
        new: NE of the new side.
        change: ``new`` minus ``old``, paired by user.
    """

    day: str
    rows: int
    positives: int
    old: Interval | None
    new: Interval | None
    change: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoByTwo:
    """NE of both models on both data, and what of the difference comes of which.

    The effects are means over both values of the other factor (Shapley values of two players), so ``model`` + ``data`` =
    ``total``, and swapped sides change the signs of all three.

    Attributes:
        old_on_old: NE of the old model on the old data; as the three below with its interval over users.
        old_on_new: Of the old model on the new data.
        new_on_old: Of the new model on the old data.
        new_on_new: Of the new model on the new data.
        total: ``new_on_new`` - ``old_on_old``.
        model: Effect of the model, at the same data.
        data: Effect of the data, at the same model.
        interaction: How much larger the effect of the model is on the new data than on the old.
        rows_old: Labelled rows of the old data.
        rows_new: Of the new data.
        positives_old: Positive rows of the old data.
        positives_new: Of the new data.
        absent_in_old: Features that the new model needs and the old data lacks: taken as missing.
        absent_in_new: Features that the old model needs and the new data lacks.
    """

    old_on_old: Interval
    old_on_new: Interval
    new_on_old: Interval
    new_on_new: Interval
    total: Interval
    model: Interval
    data: Interval
    interaction: Interval
    rows_old: int
    rows_new: int
    positives_old: int
    positives_new: int
    absent_in_old: tuple[str, ...] = ()
    absent_in_new: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Graft:
    """The new model with one block of the old one, on the new data.

    Attributes:
        block: Name of the block, such as ``embeddings``, ``embeddings of ad``, ``numbers``, ``hidden layers``, ``heads``.
        change: NE with the block replaced minus NE of the new model: below 0, the old block was better. None where it
            cannot be replaced.
        reason: Why it cannot be replaced; None where it can.
    """

    block: str
    change: Interval | None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PermutationChange:
    """What each side loses when a feature's values are permuted among the rows, the same way on both sides.

    Attributes:
        feature: Name of the feature; of a list of events, the list.
        old: Rise of the old side's log loss (nats); None where it lacks the feature.
        new: Rise of the new side's log loss.
        change: ``new`` minus ``old``; None where one side lacks it.
    """

    feature: str
    old: Interval | None
    new: Interval | None
    change: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributionChange:
    """Integrated gradients of a feature, or of all features of a group of the spec. The baseline is each side's mean row.

    Attributes:
        name: The feature or the group.
        old: Mean absolute value over the rows, in logits; None where the side lacks it.
        new: The same of the new side.
        change: ``new`` minus ``old``; None where one side lacks it.
        shift: Mean of what it adds to the new side's logits minus what it adds to the old side's, a feature that a side
            lacks counting 0: over all features they add up to the shift of the logits away from their baselines.
    """

    name: str
    old: Interval | None
    new: Interval | None
    change: Interval | None
    shift: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Substitution:
    """A model on rows in which some features have the values of another side's rows of the same impressions.

    Attributes:
        features: The features that were replaced.
        model: Whose model: ``old`` or ``new``; its own data are what the values are put into.
        change: NE with the other values minus NE with its own: below 0 the other values cure.
        share: Share of the total change in NE that goes away: 1 where NE then is that of the other side. None where the
            total's interval holds 0, so that a share says nothing.
    """

    features: tuple[str, ...]
    model: Literal["old", "new"]
    change: Interval
    share: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskChange:
    """All of it for one task. What the rows do not define, as NE of one class, is None.

    Attributes:
        task: Name of the task.
        rows: Matched rows with a label.
        positives: Positive ones.
        shift: Of the matched rows.
        ne: NE of the new side minus that of the old one, paired by user, on the matched rows with the new side's labels.
        auc: The same of the AUC: below 0 is a loss.
        slices: Calibration by slice, on the same rows.
        pipelines: Both models on the same impressions as each side's pipeline has them. None without matched rows.
        periods: Both models on each side's own test rows: what the reports of both retrains show.
        grafts: By block.
        permutation: By feature, the largest change first.
        features: Integrated gradients by feature, the largest shift first.
        groups: The same by group of features.
        days: NE by day, on the same rows.
    """

    task: str
    rows: int
    positives: int
    shift: ScoreShift | None
    ne: Interval | None
    auc: Interval | None
    slices: tuple[SliceChange, ...]
    pipelines: TwoByTwo | None
    periods: TwoByTwo | None
    grafts: tuple[Graft, ...]
    permutation: tuple[PermutationChange, ...]
    features: tuple[AttributionChange, ...]
    groups: tuple[AttributionChange, ...]
    days: tuple[DayChange, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChange:
    """What changed from an old trained model to a new one.

    Attributes:
        old: Name of the old side.
        new: Name of the new side.
        how: How the rows were matched.
        matched: Impressions that both sides have.
        old_rows: Test rows of the old side that were replayed.
        new_rows: Test rows of the new side that were replayed.
        of_matched: Impressions with a label that both sides have; more than ``matched`` where these are a sample.
        of_old_rows: Test rows of the old side with a label, likewise.
        of_new_rows: Of the new side.
        examined: Matched rows on which blocks, permuted features and integrated gradients were measured: a sample, as they
            take long.
        baseline: What integrated gradients start from, in words.
        tasks: By task that both sides have.
        notes: What could not be compared, and why; sentences.
    """

    old: str
    new: str
    how: How
    matched: int
    old_rows: int
    new_rows: int
    of_matched: int
    of_old_rows: int
    of_new_rows: int
    examined: int
    baseline: str
    tasks: Mapping[str, TaskChange]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values; an interval as an object, infinite bounds and what is not defined as null."""
        found: dict[str, Any] = _plain(self)
        return found


def _plain(value: Any) -> Any:
    if isinstance(value, Interval):
        return value.to_json() if np.isfinite(value.value) else None
    if isinstance(value, Mapping):
        return {name: _plain(own) for name, own in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(own) for own in value]
    if hasattr(value, "__dataclass_fields__"):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value
