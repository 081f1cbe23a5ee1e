"""The contract of the canonical tables, generated from the spec: checked on every row before this package returns it."""

import warnings

import polars as pl

from ctr_pipeline.sources.errors import SourceError
from ctr_pipeline.sources.pseudonyms import PSEUDONYM_LENGTH
from ctr_pipeline.sources.times import EARLIEST, LATEST
from ctr_pipeline.sources.values import ARMS, LARGEST_WEIGHT
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.features import NumericFeature

with warnings.catch_warnings():
    # Where pyspark is installed Pandera imports it, and it warns of the version of pandas, which is not used here.
    warnings.simplefilter("ignore", FutureWarning)
    import pandera.polars as pa
    from pandera.errors import SchemaErrors

EVENT_SCHEMA = pl.Schema(
    {
        "day": pl.Date,
        "impression_id": pl.String,
        "event": pl.String,
        "kind": pl.String,
        "event_ts": pl.Int64,
        "ingest_ts": pl.Int64,
        "source_log": pl.String,
        "source_file": pl.String,
        "source_row": pl.Int64,
    }
)
"""Columns of the table `outcome_events`."""

_PSEUDONYM = rf"^[0-9a-f]{{{PSEUDONYM_LENGTH}}}$"


def impressions_schema(spec: Spec) -> pl.Schema:
    """Columns of the table `impressions`, in order."""
    return pl.Schema(
        {
            "day": pl.Date,
            "impression_id": pl.String,
            "ts": pl.Int64,
            "ingest_ts": pl.Int64,
            "user": pl.String,
            "session": pl.String,
            "position": pl.Int32,
            "traffic": pl.String,
            "propensity": pl.Float64,
            **({"weight": pl.Float64} if spec.impression.weight is not None else {}),
            **({"arm": pl.String} if spec.impression.arm is not None else {}),
            **dict.fromkeys(spec.key_columns, pl.String),
            **{f.name: pl.List(pl.Float64) if f.holds_lists else pl.Float64 for f in spec.features.numeric},
            **{f.name: pl.List(pl.String) if f.holds_lists else pl.String for f in spec.features.embedded},
        }
    )


def impressions_contract(spec: Spec) -> pa.DataFrameSchema:
    """What holds for every row of `impressions`."""
    kinds = impressions_schema(spec)
    checks: dict[str, list[pa.Check]] = {
        "impression_id": [pa.Check.str_matches(_PSEUDONYM)],
        "user": [pa.Check.str_matches(_PSEUDONYM)],
        "session": [pa.Check.str_matches(_PSEUDONYM)],
        "ts": [_time_check()],
        "ingest_ts": [_time_check()],
        "position": [pa.Check.ge(1)],
        "traffic": [pa.Check.isin(["random", "production"])],
        "propensity": [pa.Check.gt(0), pa.Check.le(1)],
        "arm": [pa.Check.isin(ARMS)],
        "weight": [pa.Check.in_range(0, LARGEST_WEIGHT)],
        **{name: [pa.Check.str_matches(_PSEUDONYM)] for name in spec.key_columns},
    }
    for feature in spec.features.numeric:
        if feature.width is not None:
            checks[feature.name] = _vector_checks(feature, feature.width)
            continue
        bounds = [pa.Check(_all_finite, name="finite")]
        bounds += [pa.Check.ge(feature.minimum)] if feature.minimum is not None else []
        bounds += [pa.Check.le(feature.maximum)] if feature.maximum is not None else []
        checks[feature.name] = bounds
    private = spec.private_columns
    for category in spec.features.embedded:
        if category.source_column in private:
            each = _each(pl.element().str.contains(_PSEUDONYM), "pseudonyms")
            checks[category.name] = [each if category.holds_lists else pa.Check.str_matches(_PSEUDONYM)]
    required = {"day", "impression_id", "ts", "ingest_ts", "weight"}
    return _contract(kinds, checks, required, unique="impression_id")


def events_contract(spec: Spec) -> pa.DataFrameSchema:
    """What holds for every row of `outcome_events`."""
    checks = {
        "impression_id": [pa.Check.str_matches(_PSEUDONYM)],
        "event": [pa.Check.isin([task.name for task in spec.tasks])],
        "kind": [pa.Check.isin(["outcome", "closed", "unknown"])],
        "event_ts": [_time_check()],
        "ingest_ts": [_time_check()],
        "source_row": [pa.Check.ge(0)],
    }
    return _contract(EVENT_SCHEMA, checks, set(EVENT_SCHEMA), unique=None)


def check_impressions(spec: Spec, frame: pl.DataFrame) -> None:
    """Raises SourceError unless ``frame`` keeps the contract of `impressions`."""
    _validate(impressions_contract(spec), frame, "impressions")


def check_events(spec: Spec, frame: pl.DataFrame) -> None:
    """Raises SourceError unless ``frame`` keeps the contract of `outcome_events`."""
    _validate(events_contract(spec), frame, "outcome_events")


def _contract(
    kinds: pl.Schema, checks: dict[str, list[pa.Check]], required: set[str], unique: str | None
) -> pa.DataFrameSchema:
    columns = {
        name: pa.Column(kind, checks=checks.get(name), nullable=name not in required, unique=name == unique)
        for name, kind in kinds.items()
    }
    return pa.DataFrameSchema(columns, strict=True, ordered=True)


def _time_check() -> pa.Check:
    return pa.Check.in_range(EARLIEST, LATEST, include_max=False)


def _vector_checks(feature: NumericFeature, width: int) -> list[pa.Check]:
    def wide(data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key).list.len() == width)

    value = pl.element()
    bounds = [pa.Check(wide, name="width"), _each(value.is_finite() & value.is_not_null(), "finite")]
    bounds += [_each(value >= feature.minimum, "minimum")] if feature.minimum is not None else []
    bounds += [_each(value <= feature.maximum, "maximum")] if feature.maximum is not None else []
    return bounds


def _each(holds: pl.Expr, name: str) -> pa.Check:
    """A rule that each value of a list keeps; of a missing one it says nothing."""

    def check(data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key).list.eval(holds.fill_null(True)).list.all())

    return pa.Check(check, name=name)


def _all_finite(data: pa.PolarsData) -> pl.LazyFrame:
    return data.lazyframe.select(pl.col(data.key).is_finite())


def _validate(contract: pa.DataFrameSchema, frame: pl.DataFrame, table: str) -> None:
    try:
        contract.validate(frame, lazy=True)
    except SchemaErrors as error:
        # The failure cases themselves may hold ids: only columns and rules are named.
        broken = sorted({f"{case.schema.name}: {case.check}" for case in error.schema_errors})
        raise SourceError(
            f"rows of table {table} break its contract ({'; '.join(broken)}). They should have been quarantined: "
            "please report this as a defect, with your spec and the type of that column."
        ) from None
