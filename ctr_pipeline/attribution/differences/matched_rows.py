"""Which rows of two retrains are of one impression."""

from dataclasses import dataclass
from datetime import date
from functools import cached_property

import polars as pl

from ctr_pipeline.attribution.differences.retrain_state import RetrainState

BY_ID, BY_TIME, NOT = "impression", "time and position", "not matched"
ENOUGH = 0.3
"""Least share of the smaller side's impressions of common days that both sides have."""

PLACE = "__place"


@dataclass(frozen=True)
class MatchedRows:
    """Both sides' rows of the same impressions, side by side.

    Attributes:
        how: By what: the hashed id, time and position, or not at all.
        old: Rows of the old side, M of them.
        new: Row i is of the same impression as row i of ``old``.
        only_old: Keys of impressions of common days that the old side alone has.
        only_new: Keys of those that the new side alone has.
        common: Days that both sides have.
        pairs: Impressions of common days that both have.
    """

    how: str
    old: pl.DataFrame
    new: pl.DataFrame
    only_old: pl.DataFrame
    only_new: pl.DataFrame
    common: tuple[date, ...]
    pairs: int

    @classmethod
    def of(cls, old: RetrainState, new: RetrainState) -> "MatchedRows":
        """The match by id, where the key of the hashes and the ids are the same; else by time and position."""
        common = tuple(sorted(set(old.days) & set(new.days)))
        best: MatchedRows | None = None
        ways = ((BY_ID, ["impression_id"]), (BY_TIME, ["ts", "position"]))
        for how, columns in ways if old.key_fingerprint == new.key_fingerprint else ways[1:]:
            found = cls._by(old, new, how, columns, common)
            if found is not None and (best is None or found.pairs > 1.5 * best.pairs):
                best = found
        nothing = old.keys.clear()
        return best or cls(NOT, old.rows.clear(), new.rows.clear(), nothing, nothing, common, 0)

    @classmethod
    def _by(
        cls, old: RetrainState, new: RetrainState, how: str, columns: list[str], common: tuple[date, ...]
    ) -> "MatchedRows | None":
        days = pl.col("day").is_in(list(common))
        # By id all rows are looked at: with another clock, an impression is of another day.
        # Its day says then nothing, and rows beyond both periods are none that were lost.
        sides = [side.keys if how == BY_ID else side.keys.filter(days) for side in (old, new)]
        ours, theirs = (_once(side, columns) for side in sides)
        pairs = ours.join(theirs, on=columns, how="inner").height
        if not pairs or pairs < ENOUGH * min(ours.height, theirs.height):
            return None
        within = [side.filter(days) for side in (ours, theirs)]
        rows = [_once(side.rows, columns).with_row_index(PLACE) for side in (old, new)]
        places = (
            rows[0].select(*columns, PLACE).join(rows[1].select(*columns, pl.col(PLACE).alias("__other")), on=columns)
        )
        places = places.sort(PLACE)
        return cls(
            how,
            rows[0].drop(PLACE)[places[PLACE]],
            rows[1].drop(PLACE)[places["__other"]],
            within[0].join(theirs, on=columns, how="anti"),
            within[1].join(ours, on=columns, how="anti"),
            common,
            pairs,
        )

    @property
    def matched(self) -> bool:
        """Whether rows could be matched."""
        return self.how != NOT

    def fresh(self, old: RetrainState, new: RetrainState) -> pl.DataFrame:
        """The new side's rows of days that the old side has not, of impressions that it does not know on any other day."""
        if not self.matched:
            return new.rows
        own = new.rows.filter(~pl.col("day").is_in(list(self.common)))
        return own.join(old.keys, on="impression_id", how="anti") if self.how == BY_ID else own

    @cached_property
    def days(self) -> pl.Series:
        """[M] day of each pair, by the old side's clock."""
        return self.old.get_column("day")


def _once(rows: pl.DataFrame, columns: list[str]) -> pl.DataFrame:
    """The rows whose key no other row has; a key of nulls is none."""
    kept = rows.drop_nulls(columns)
    return kept.unique(columns, keep="none", maintain_order=True)
