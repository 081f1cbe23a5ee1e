"""Raw columns → the pipeline's values, each with the conditions under which a row is set aside."""

from dataclasses import dataclass

import polars as pl

from ctr_pipeline.sources.canonical import FALSE, TRUE, declared_texts, exact_limit, is_rounded, lacks_digits, text_of
from ctr_pipeline.sources.errors import SourceError
from ctr_pipeline.sources.pseudonyms import Pseudonymiser
from ctr_pipeline.sources.rows import ENOUGH_TO_JUDGE, raw
from ctr_pipeline.sources.times import TimeForm, is_time_type, parse_time
from ctr_pipeline.spec.assignment import CONTROL, TREATMENT
from ctr_pipeline.spec.exposure import Arm, Traffic
from ctr_pipeline.spec.features import CategoricalFeature, NumericFeature
from ctr_pipeline.spec.tasks import Label

_TRIVIAL = 0.01
"""Share of rows up to which values that another setting explains are taken for wrong rows."""
_LARGEST = 3.4e38
"""Largest size of a number: what single precision holds, in which the model computes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A reason to set a row aside."""

    broken: pl.Expr
    """True where the rule is broken; null counts as false."""
    reason: str
    rule: str
    """What holds for a good row, as a sentence."""
    column: str | None = None
    """The log's column that breaks the rule."""
    unreadable: bool = False
    """Whether a column of which every value breaks the rule is a wrong column, not a set of wrong rows."""
    refused: pl.Expr | None = None
    """One value over the rows of a file: whether so many break the rule that the spec is wrong, and not the rows."""
    remedy: str = ""
    """What to set in the spec where the column is wrong, as a sentence."""


@dataclass(frozen=True, slots=True)
class Field:
    """One value of a canonical row."""

    value: pl.Expr
    """Named expression."""
    checks: tuple[Check, ...] = ()


def canonical_text(column: str, kind: pl.DataType, where: str) -> pl.Expr:
    """One text for one value, whatever its type: see :func:`~ctr_pipeline.sources.canonical.text_of`.

    Raises:
        SourceError: the column holds lists, objects or other values that have no such text.
    """
    text = text_of(raw(column), kind)
    if text is None:
        raise _wrong_type(where, column, kind, "text, whole numbers or booleans")
    return text


def id_text(column: str, kind: pl.DataType, where: str) -> pl.Expr:
    """The text of an id column; null where it is missing or blank.

    Raises:
        SourceError: as for :func:`canonical_text`.
    """
    text = canonical_text(column, kind, where)
    return pl.when(text.str.strip_chars() != "").then(text) if kind == pl.String else text


def exact_id(column: str, kind: pl.DataType) -> tuple[Check, ...]:
    """An id or category is not a float so large that it stands for several whole numbers, in text neither."""
    rounded = is_rounded(raw(column), kind)
    if rounded is None:
        return ()
    floats = "a number with a point or an exponent" if kind == pl.String else f"a {kind}"
    return (
        Check(
            broken=rounded,
            reason="inexact_id",
            rule=f"`{column}` holds whole numbers exactly, as integers or text; from {exact_limit(kind)} on {floats} does not",
            column=column,
            unreadable=True,
        ),
    )


def number(column: str, kind: pl.DataType, where: str) -> tuple[pl.Expr, pl.Expr]:
    """A column as float64 that may hold NaN, and where a value is there but is no number.

    Raises:
        SourceError: the column's type cannot hold numbers.
    """
    value = raw(column)
    if kind == pl.String:
        text = value.str.strip_chars()
        flag = pl.when(text.is_in(TRUE)).then(1.0).when(text.is_in(FALSE)).then(0.0)
        parsed = pl.coalesce(text.cast(pl.Float64, strict=False), flag)
        return parsed, (text != "") & parsed.is_null()
    if kind == pl.Boolean or kind.is_numeric() or kind == pl.Null:
        return value.cast(pl.Float64), pl.lit(False)
    raise _wrong_type(where, column, kind, "numbers")


def numeric_feature(feature: NumericFeature, kind: pl.DataType, where: str) -> Field:
    """A dense feature: a finite float64 within its declared bounds, or null. NaN is a missing value."""
    column = feature.source_column
    parsed, no_number = number(column, kind, where)
    checks = [
        Check(
            broken=no_number,
            reason="not_a_number",
            rule=f"`{column}` holds numbers (a text that means missing belongs in `null_values`)",
            column=column,
            unreadable=True,
        ),
        Check(
            broken=parsed.fill_nan(None).abs() > _LARGEST,
            reason="non_finite",
            rule=f"`{column}` holds finite numbers, of at most {_LARGEST:g} in size",
            column=column,
        ),
    ]
    low, high = feature.minimum, feature.maximum
    if low is not None or high is not None:
        outside = [] if low is None else [parsed < low]
        outside += [] if high is None else [parsed > high]
        bounds = f"at least {low:g}" if high is None else f"at most {high:g}" if low is None else f"{low:g} to {high:g}"
        rule = f"`{column}` is {bounds}, as feature `{feature.name}` declares"
        outside_bounds = pl.any_horizontal(outside) & parsed.is_not_nan()
        checks.append(Check(broken=outside_bounds, reason="out_of_range", rule=rule, column=column))
    return Field(parsed.fill_nan(None).alias(feature.name), tuple(checks))


def embedded_feature(
    feature: CategoricalFeature, kind: pl.DataType, where: str, pseudonymiser: Pseudonymiser | None
) -> Field:
    """A categorical feature as text, or as a pseudonym of it where ``pseudonymiser`` is given."""
    column = feature.source_column
    assert column is not None, "one that is made of the time is not read"
    value = identity(column, kind, where, pseudonymiser) if pseudonymiser else canonical_text(column, kind, where)
    return Field(value.alias(feature.name), exact_id(column, kind))


def identity(column: str, kind: pl.DataType, where: str, pseudonymiser: Pseudonymiser) -> pl.Expr:
    """The pseudonyms of an id column; equal ids of different types (3 and "3") have equal pseudonyms."""
    return pseudonymiser.of(id_text(column, kind, where))


def time_value(column: str, kind: pl.DataType, where: str, form: TimeForm, second: bool = False) -> pl.Expr:
    """A time column as microseconds; null where missing or unusable.

    With ``second`` a local time that occurs twice, or never, is read the other way.

    Raises:
        SourceError: the column's type cannot hold times.
    """
    if not is_time_type(kind):
        raise _wrong_type(where, column, kind, "times")
    if kind in (pl.Float16, pl.Float32):
        raise SourceError(
            f"{where}: column `{column}` has type {kind}, and the spec uses it for times: one {kind} stands for half a "
            "minute and more of them, so their order is lost. Write the column as integers, 64-bit floats or timestamps."
        )
    declared = form.format_of(column)
    parsed = parse_time(raw(column), kind, form.unit, form.zone, declared, second)
    return pl.when(~lacks_digits(raw(column))).then(parsed) if kind == pl.String and declared is None else parsed


def time_checks(
    column: str, kind: pl.DataType, parsed: pl.Expr, form: TimeForm, required: bool = True
) -> tuple[Check, ...]:
    """A row needs a usable time in ``column``; an optional one may be absent, but not unreadable."""
    given = is_given(column, kind)
    bad = Check(
        broken=given & parsed.is_null(),
        reason="bad_time",
        rule=f"`{column}` holds {form.expected(column)}, between 1980 and 2200",
        column=column,
        unreadable=True,
    )
    checks: tuple[Check, ...] = (bad,)
    if kind == pl.String and form.format_of(column) is None:
        rounded = Check(
            broken=lacks_digits(raw(column)),
            reason="inexact_time",
            rule=f"`{column}` holds whole times; of one such as 1.7721e+09 the last digits were cut off",
            column=column,
            unreadable=True,
        )
        checks = (rounded, bad)
    missing = Check(broken=~given, reason="missing_time", rule=f"each row has a time in `{column}`", column=column)
    return (missing, *checks) if required else checks


def future_check(column: str, broken: pl.Expr, rule: str | None = None) -> Check:
    """A time is not of the future; by default, not later than the instant of reading can explain."""
    default = f"`{column}` is not later than one day after this reading (is the clock of this machine right?), or than `days.last`"
    return Check(broken=broken, reason="future_time", rule=rule or default, column=column, unreadable=True)


def is_given(column: str, kind: pl.DataType) -> pl.Expr:
    """Whether a value is there: neither null nor NaN nor empty text."""
    value = raw(column)
    if kind == pl.String:
        return (value.str.strip_chars() != "").fill_null(False)
    return (value.is_not_null() & value.is_not_nan()) if kind.is_float() else value.is_not_null()


def label(declared: Label, kind: pl.DataType, where: str) -> tuple[pl.Expr, tuple[Check, ...]]:
    """A label column as 0/1 in int8, null where not known, and the checks that it is nothing else."""
    column = str(declared.column)
    if declared.positive:
        return _named_label(declared, column, kind, where)
    parsed, no_number = number(column, kind, where)
    known = parsed.fill_nan(None)
    if declared.counts == "positive":
        check = Check(
            broken=no_number | ~(known.is_finite() & (known >= 0)),
            reason="bad_label",
            rule=f"`{column}` is a number from 0, true, false or missing, as `counts: positive` declares",
            column=column,
            unreadable=True,
        )
        return pl.when(known.is_finite() & (known >= 0)).then(known > 0).cast(pl.Int8), (check,)
    count = (known >= 2) & (known == known.floor()) & known.is_finite()
    binary = known.is_in([0.0, 1.0])
    rule = f"`{column}` is 0, 1, true, false or missing"
    counts = Check(
        broken=count,
        reason="bad_label",
        rule=f"{rule}; 2 is a count: set `counts: positive`, or name the value in `label.positive`",
        column=column,
        # Set aside, they would be missing among the positives.
        refused=(count.sum() >= ENOUGH_TO_JUDGE) & (count.sum() > _TRIVIAL * (known >= 1).sum()),
    )
    other = Check(
        broken=no_number | ~binary,
        reason="bad_label",
        rule=rule,
        column=column,
        unreadable=True,
        remedy="Name the values that mean yes in `label.positive`, and those that mean no in `label.negative`.",
    )
    return pl.when(binary).then(known).cast(pl.Int8), (counts, other)


def _named_label(declared: Label, column: str, kind: pl.DataType, where: str) -> tuple[pl.Expr, tuple[Check, ...]]:
    text = canonical_text(column, kind, where)
    yes, no = text.is_in(declared_texts(declared.positive)), text.is_in(declared_texts(declared.negative))
    if not declared.negative:
        return pl.when(text.is_not_null()).then(yes).cast(pl.Int8), ()
    check = Check(
        broken=~(yes | no),
        reason="bad_label",
        rule=f"`{column}` has a value of `label.positive` or `label.negative`, or none",
        column=column,
        unreadable=True,
        remedy="Name its values in `label.positive` and `label.negative`, in quotes.",
    )
    return pl.when(yes | no).then(yes).cast(pl.Int8), (check,)


def position(column: str, kind: pl.DataType, where: str, first: int = 1) -> Field:
    """The slot as int32, 1 for the first, which the log calls ``first``."""
    parsed, no_number = number(column, kind, where)
    known = parsed.fill_nan(None)
    whole = (known == known.floor()) & known.is_between(first, 2**31 - 2 + first)
    rule = f"`{column}` is a whole number from {first}, the first slot, or missing"
    bad = Check(broken=no_number | ~whole, reason="bad_position", rule=rule, column=column, unreadable=True)
    zeros = Check(
        broken=known == 0,
        reason="bad_position",
        rule=f"{rule}; positions seem to start at 0: set `first_position: 0`",
        column=column,
        refused=((known == 0).sum() >= ENOUGH_TO_JUDGE)
        & ((known == 0).sum() > _TRIVIAL * known.count())
        & ~(no_number | ~(whole | (known == 0))).any(),
    )
    slot = pl.when(whole).then(known - first + 1).cast(pl.Int32)
    return Field(slot.alias("position"), (zeros, bad) if first == 1 else (bad,))


def propensity(column: str, kind: pl.DataType, where: str) -> Field:
    """The logged probability as float64."""
    parsed, no_number = number(column, kind, where)
    known = parsed.fill_nan(None)
    check = Check(
        broken=no_number | ~((known > 0) & (known <= 1)),
        reason="bad_propensity",
        rule=f"`{column}` is a probability above 0 and at most 1, or missing",
        column=column,
        unreadable=True,
    )
    return Field(known.alias("propensity"), (check,))


LARGEST_WEIGHT = 1e30
"""Largest weight of a row: its product with other weights still fits into single precision."""


def row_weight(column: str, kind: pl.DataType, where: str) -> Field:
    """The weight of a row in the loss as float64. A missing one could only be guessed, so the row is set aside."""
    parsed, no_number = number(column, kind, where)
    known = parsed.fill_nan(None)
    check = Check(
        broken=no_number | known.is_null() | ~known.is_between(0, LARGEST_WEIGHT),
        reason="bad_weight",
        rule=f"`{column}` is a finite number from 0, the row's weight in the loss, in each row (1 where a row counts once)",
        column=column,
        unreadable=True,
    )
    return Field(known.alias("weight"), (check,))


OTHER_TRAFFIC = "__other_traffic"
"""The kind of traffic of a row, where it is neither random nor production."""


def traffic(declared: Traffic, kind: pl.DataType, where: str) -> tuple[Field, Field]:
    """``random``, ``production``, or null for other traffic; and what that other traffic is called."""
    value = canonical_text(declared.column, kind, where)
    kinds = (
        pl.when(value.is_in(declared_texts(declared.random)))
        .then(pl.lit("random"))
        .when(value.is_in(declared_texts(declared.production)))
        .then(pl.lit("production"))
    )
    return Field(kinds.alias("traffic")), Field(pl.when(kinds.is_null()).then(value).alias(OTHER_TRAFFIC))


ARMS = (CONTROL, TREATMENT)


def arm(declared: Arm, kind: pl.DataType, where: str) -> Field:
    """``control``, ``treatment``, or null for an impression of neither."""
    value = canonical_text(declared.column, kind, where)
    arms = (
        pl.when(value.is_in(declared_texts(declared.control)))
        .then(pl.lit(CONTROL))
        .when(value.is_in(declared_texts(declared.treatment)))
        .then(pl.lit(TREATMENT))
    )
    return Field(arms.alias("arm"))


def _wrong_type(where: str, column: str, kind: pl.DataType, expected: str) -> SourceError:
    return SourceError(
        f"{where}: column `{column}` has type {kind}, but the spec uses it for {expected}. "
        "Name another column in the spec, or convert this one."
    )
