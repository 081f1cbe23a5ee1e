"""Figures of a column as plain numbers: polars types them as anything that a column may hold."""

from datetime import date
from typing import cast

import numpy as np
import polars as pl
from numpy.typing import NDArray


def mean(values: pl.Series) -> float:
    """The mean of numbers, or the share of what is true; nulls count not, and 0 without values."""
    found = values.drop_nulls().mean()
    return 0.0 if found is None else float(cast(float, found))


def median(values: pl.Series) -> float:
    """The median of numbers without nulls; 0 without values."""
    found = values.drop_nulls().median()
    return 0.0 if found is None else float(cast(float, found))


def total(values: pl.Series) -> float:
    """The sum of numbers."""
    return float(values.sum())


def bounds(values: pl.Series) -> tuple[float, float] | None:
    """The smallest and the largest number; None without values."""
    found = values.drop_nulls()
    return None if not found.len() else (float(cast(float, found.min())), float(cast(float, found.max())))


def first_day(days: pl.Series) -> date | None:
    """The earliest of some days; None without any."""
    return cast("date | None", days.min())


def begins(days: pl.Series, all_days: pl.Series) -> date | None:
    """The first of ``days`` where it is later than the first of all of them; else None: there is no day before."""
    found, earliest = first_day(days), first_day(all_days)
    return found if found is not None and earliest is not None and found > earliest else None


def floats(values: pl.Series) -> NDArray[np.float64]:
    """[N] numbers; NaN for null."""
    return values.cast(pl.Float64).fill_null(float("nan")).to_numpy()
