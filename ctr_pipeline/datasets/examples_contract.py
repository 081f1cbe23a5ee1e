"""The contract of examples, generated from the spec: the last look at a day's rows before they are packed."""

import warnings

import numpy as np
import polars as pl

from ctr_pipeline.datasets.packed import DatasetError
from ctr_pipeline.labels import label_column
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.features import NumericFeature
from ctr_pipeline.spec.history import HistoryRate

with warnings.catch_warnings():
    # Where pyspark is installed Pandera imports it, and it warns of the version of pandas, which is not used here.
    warnings.simplefilter("ignore", FutureWarning)
    import pandera.polars as pa
    from pandera.errors import SchemaErrors

_RULES = "rules"
_UNIQUE = "impression_id occurs once"


def weight_column(task: str) -> str:
    """Name of the column with the weight of the label of ``task``."""
    return f"w_{task}"


def examples_contract(spec: Spec) -> pa.DataFrameSchema:
    """What holds for the examples of a day.

    - ``day``, ``impression_id``, ``ts``: given; each impression once, at a time of that day.
    - A Float32 for each number of the log: finite, within its limits, or null where it is missing.
    - A Float64 for each number made of the past: finite and not negative, a rate at most 1, or null.
    - An Int8 :func:`~ctr_pipeline.labels.table.label_column` for each task: 1, 0, or null while it is not settled; and
      1 only where the task's parent is 1.
    - A Float32 :func:`weight_column` for each task: finite and above 0; at least 0 where rows have weights.
    - ``position``: an Int32 from 1, or 0 where the log has none.
    """
    given, missing = _columns(spec)
    columns = {name: pa.Column(kind) for name, kind in given.items()}
    columns |= {name: pa.Column(kind, nullable=True) for name, kind in missing.items()}
    rules = list(_rules(spec).values())

    def kept(data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.all_horizontal(rules))

    return pa.DataFrameSchema(columns, checks=pa.Check(kept, name=_RULES), strict=True)


def check_examples(spec: Spec, frame: pl.DataFrame) -> None:
    """Refuses examples that break :func:`examples_contract`.

    Types and rules are compared in one pass over the columns. Pandera, which takes some ten milliseconds however few
    the rows, is asked only to explain what is broken.

    Args:
        spec: Features and tasks.
        frame: The examples of one day, with the columns of the contract in any order.

    Raises:
        DatasetError: names the columns and rules that are broken, and no value.
    """
    given, missing = _columns(spec)
    rules = _rules(spec)
    # Equal hashes of different ids are possible, and then looked into below.
    quick = rules | {_UNIQUE: pl.col("impression_id").hash().n_unique() == pl.len()}
    if dict(frame.schema) == given | missing and frame.select(pl.all_horizontal(list(quick.values()))).item():
        return
    broken: set[str] = set()
    try:
        examples_contract(spec).validate(frame, lazy=True)
    except SchemaErrors as error:
        broken = {f"{case.schema.name}: {case.check}" for case in error.schema_errors if _RULES not in str(case.check)}
    if not broken:
        broken = {rule for rule, holds in frame.select(**rules).row(0, named=True).items() if not holds}
    if not broken:
        return
    days = ", ".join(str(day) for day in frame["day"].unique().sort()) if "day" in frame.columns else "unknown"
    raise DatasetError(
        f"examples of {days}: {len(frame)} rows break their contract ({'; '.join(sorted(broken))}). Such rows should "
        "have been quarantined when the log was read: please report this as a defect, with your spec."
    )


def _columns(spec: Spec) -> tuple[dict[str, pl.DataType], dict[str, pl.DataType]]:
    """Types of the columns that have a value in each row, and of those that may lack one."""
    given = {"day": pl.Date(), "impression_id": pl.String(), "ts": pl.Int64(), "position": pl.Int32()}
    given |= {weight_column(task.name): pl.Float32() for task in spec.tasks}
    missing: dict[str, pl.DataType] = {
        name: pl.Float32() for feature in spec.features.numeric for name in feature.inputs
    }
    missing |= {name: pl.Float64() for name, _ in spec.features.history_numbers}
    missing |= {label_column(task.name): pl.Int8() for task in spec.tasks}
    return given, missing


def _rules(spec: Spec) -> dict[str, pl.Expr]:
    """Each rule as a sentence, and whether all rows keep it; a missing value breaks none."""
    ids, at = pl.col("impression_id"), pl.col("ts")
    given, _ = _columns(spec)
    rules = {
        "each row has a value in the columns that need one": pl.all_horizontal(pl.col(*given).null_count() == 0),
        _UNIQUE: ids.n_unique() == pl.len(),
        "ts lies on the day": (pl.from_epoch(at, time_unit="us").dt.date() == pl.col("day")).all(),
        "position is at least 0": (pl.col("position") >= 0).all(),
    }
    for feature in spec.features.numeric:
        for name in feature.inputs:
            rules |= _limits(feature, pl.col(name), name)
    for name, made in spec.features.history_numbers:
        value = pl.col(name)
        rules[f"{name} is finite and not negative"] = ((value >= 0) & value.is_finite()).all()
        if isinstance(made, HistoryRate):
            rules[f"{name} is at most 1"] = (value <= 1).all()
    for task in spec.tasks:
        label, weight = pl.col(label_column(task.name)), pl.col(weight_column(task.name))
        rules[f"{label_column(task.name)} is 0 or 1"] = label.is_in([0, 1]).all()
        if spec.impression.weight is None:
            rules[f"{weight_column(task.name)} is finite and above 0"] = ((weight > 0) & weight.is_finite()).all()
        else:
            rules[f"{weight_column(task.name)} is finite and not negative"] = ((weight >= 0) & weight.is_finite()).all()
        if task.parent is not None:
            parent = pl.col(label_column(task.parent))
            holds = ((label != 1).fill_null(True) | (parent == 1).fill_null(False)).all()
            rules[f"{label_column(task.name)} is 1 only where {label_column(task.parent)} is"] = holds
    return rules


def _limits(feature: NumericFeature, value: pl.Expr, name: str) -> dict[str, pl.Expr]:
    """Limits rounded as the values were, so that a value at its limit keeps it."""
    rules = {f"{name} is finite": value.is_finite().all()}
    if feature.minimum is not None:
        rules[f"{name} is at least {feature.minimum:g}"] = (value >= float(np.float32(feature.minimum))).all()
    if feature.maximum is not None:
        rules[f"{name} is at most {feature.maximum:g}"] = (value <= float(np.float32(feature.maximum))).all()
    return rules
