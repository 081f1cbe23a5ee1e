"""What was done to a category, from its values on both sides of the same impressions."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import polars as pl

from ctr_pipeline.attribution.differences.column_values import mean
from ctr_pipeline.attribution.differences.difference import percent

NEARLY_ALL = 0.95
NAMED = 4
"""Values that are named at most."""


@dataclass(frozen=True, slots=True)
class CategoryChange:
    """What was done to a category: in one or two words, as a part of a sentence, and whose values it has."""

    form: str
    words: str
    explained: float
    other: str | None = None


def as_text(values: pl.Series) -> pl.Series:
    """Values as texts; those of a list as one."""
    if isinstance(values.dtype, pl.List):
        return values.cast(pl.List(pl.String)).list.join(", ")
    return values.cast(pl.String)


_SPELLINGS: dict[str, Callable[[pl.Series], pl.Series]] = {
    "in lower case": lambda s: s.str.to_lowercase(),
    "in upper case": lambda s: s.str.to_uppercase(),
    "with a capital letter": lambda s: s.str.to_titlecase(),
    "without blanks": lambda s: s.str.strip_chars(),
    "without leading zeros": lambda s: s.str.strip_chars_start("0"),
    "as a whole number": lambda s: s.str.replace(r"\.0+$", ""),
    "as a decimal number": lambda s: s + ".0",
}


def category_change(
    old: pl.Series, new: pl.Series, others: Mapping[str, pl.Series], known: Collection[str], kept: Collection[str]
) -> CategoryChange:
    """What was done to a category, of rows that differ.

    Args:
        old: [K] texts of the old side; null = missing.
        new: [K] texts of the new side, other ones in every row.
        others: [K] texts of the old side's other categories, by feature.
        known: All texts that the old side has of the feature.
        kept: Those of the rows that do not differ.
    """
    rows = len(old)
    for name, values in others.items():
        if values.n_unique() > 2 and (share := _share(new.eq_missing(values))) >= NEARLY_ALL:
            return CategoryChange("other feature", f"has the values of {name}", share, name)
    if (share := _share(new.is_null())) >= NEARLY_ALL:
        return CategoryChange("missing", "is missing where it had a value", share)
    if (share := _share(old.is_null())) >= NEARLY_ALL:
        most = _named(new)
        return CategoryChange("missing filled", f"is {most} where it was missing", share)
    for words, spelt in _SPELLINGS.items():
        if (share := _share(spelt(old).eq_missing(new))) >= NEARLY_ALL:
            return CategoryChange("renamed", f"is spelt {words} ({_pairs(old, new)})", share)
    if new.n_unique() == 1 and old.n_unique() > 3:
        return CategoryChange("constant", f"is {_named(new)} in all of them", 1.0)
    pairs = pl.DataFrame({"old": old, "new": new}).group_by("old", "new").len().sort("len", descending=True)
    best = pairs.group_by("old", maintain_order=True).first()
    determined = float(best["len"].sum()) / rows
    appeared = new.is_in(list(known)).not_() & new.is_not_null()
    if _share(appeared) >= NEARLY_ALL:
        gone = set(old.drop_nulls().unique().to_list())
        # Of a value that was renamed no row is left; of one of which some rows are another now, some are.
        if determined >= NEARLY_ALL and best["new"].n_unique() == best.height and not gone & set(kept):
            return CategoryChange("renamed", f"has other names for its values ({_pairs(old, new)})", determined)
        return CategoryChange(
            "new category", f"has new values: {_named(new)}, where it was {_named(old)}", _share(appeared)
        )
    stays = set(kept)
    if determined >= NEARLY_ALL and not set(best["old"].drop_nulls().to_list()) & stays:
        if best["new"].n_unique() == best.height and not set(best["new"].drop_nulls().to_list()) & stays:
            return CategoryChange(
                "permuted", f"has its values under each other's names ({_pairs(old, new)})", determined
            )
        return CategoryChange("merged", f"has several values as one ({_pairs(old, new)})", determined)
    if old.drop_nulls().sort().equals(new.drop_nulls().sort()):
        return CategoryChange("other rows", "has the values of other impressions: its rows were mixed up", 1.0)
    return CategoryChange("other values", f"has other values: {_named(new)}, where it was {_named(old)}", 0.0)


def _share(found: pl.Series) -> float:
    return mean(found.fill_null(False))


def _named(values: pl.Series) -> str:
    counts = values.fill_null("missing").value_counts(sort=True)
    names = counts.get_column(values.name).to_list()
    shown = [f"‘{name}’" for name in names[:NAMED]]
    more = len(names) - len(shown)
    total = len(values)
    if len(names) == 1:
        return shown[0]
    first = percent(counts["count"][0] / total)
    return ", ".join(shown) + (f" and {more} more" if more else "") + f" (the first in {first})"


def _pairs(old: pl.Series, new: pl.Series) -> str:
    pairs = (
        pl.DataFrame({"old": old.fill_null("missing"), "new": new.fill_null("missing")}).group_by("old", "new").len()
    )
    shown = pairs.sort(["len", "old"], descending=[True, False]).head(2)
    return "; ".join(f"‘{before}’ became ‘{after}’" for before, after, _ in shown.iter_rows())
