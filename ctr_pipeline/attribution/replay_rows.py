"""The rows on which two models are compared: a frozen sample of the test rows of both, matched by impression."""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import polars_hash  # noqa: F401  (registers the expression namespace `nchash`)
from numpy.typing import NDArray

from ctr_pipeline.attribution.model_change import How
from ctr_pipeline.attribution.trained_side import ReplayRows, TrainedSide


@dataclass(frozen=True, slots=True, kw_only=True)
class TestKeys:
    """What tells the N test rows of a side apart, in the order of its packed rows.

    Attributes:
        impressions: Hashed ids; null where they are not known.
        ts: [N] times, microseconds since 1970 UTC.
        position: [N] slot; 0 = not logged.
        settled: [N] whether any label is settled.
    """

    __test__ = False  # Not a class of tests, whatever pytest makes of its name.

    impressions: pl.Series
    ts: NDArray[np.int64]
    position: NDArray[np.int16]
    settled: NDArray[np.bool_]

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.ts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """Rows of both sides that are of one impression: row ``old[i]`` of the old side and ``new[i]`` of the new one."""

    how: How
    old: NDArray[np.int64]
    new: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Two trained models and the rows that both score.

    Attributes:
        old: The old side.
        new: The new side.
        how: How rows were matched.
        old_matched: Impressions that are test rows of both, as the old side's pipeline has them. Where none are, the test
            rows of the new side, so that both models can be compared on these.
        new_matched: The same impressions in the same order, as the new side's pipeline has them.
        old_rows: Test rows of the old side, as its pipeline has them.
        new_rows: Test rows of the new side.
        notes: What could not be read or matched, and why; sentences.
        of_matched: Matched test rows with a label, of which the matched ones are a sample; None where they are all.
        of_old: The same of the old side's own rows.
        of_new: The same of the new side's.
    """

    old: TrainedSide
    new: TrainedSide
    how: How
    old_matched: ReplayRows
    new_matched: ReplayRows
    old_rows: ReplayRows
    new_rows: ReplayRows
    notes: tuple[str, ...] = ()
    of_matched: int | None = None
    of_old: int | None = None
    of_new: int | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that both sides have, in the new side's order."""
        return tuple(task for task in self.new.layout.tasks if task in self.old.layout.tasks)

    @property
    def swapped(self) -> "Replay":
        """The same with old and new changed; of rows that were not matched, those of the new side stay."""
        return Replay(
            old=self.new, new=self.old, how=self.how, old_matched=self.new_matched, new_matched=self.old_matched,
            old_rows=self.new_rows, new_rows=self.old_rows, notes=self.notes,
            of_matched=self.of_matched, of_old=self.of_new, of_new=self.of_old,
        )  # fmt: skip

    def sample(self, rows: int, seed: int) -> "Replay":
        """The same with ``rows`` of the matched rows at most, for what takes long."""
        if len(self.new_matched) <= rows:
            return self
        chosen = np.sort(np.random.default_rng(seed).choice(len(self.new_matched), rows, replace=False))
        return replace(
            self,
            old_matched=self.old_matched.take(chosen),
            new_matched=self.new_matched.take(chosen),
            of_matched=self.of_matched or len(self.new_matched),
        )


def match_rows(old: TestKeys, new: TestKeys) -> Matched:
    """The rows that are of one impression, in the order of the new side's.

    By the hashed id; where that finds fewer, as under another key of the hashes, by time and position. Rows that are not
    alone with what tells them apart are left out.
    """
    by_id = _joined(*(pl.DataFrame({"impression": side.impressions}) for side in (old, new)))
    by_time = _joined(*(pl.DataFrame({"ts": side.ts, "position": side.position}) for side in (old, new)))
    if not (by_id.height or by_time.height):
        none = np.zeros(0, np.int64)
        return Matched(how="not matched", old=none, new=none)
    how: How = "impression" if by_id.height >= by_time.height else "time and position"
    found = by_id if how == "impression" else by_time
    return Matched(how=how, old=found["old"].to_numpy(), new=found["new"].to_numpy())


def chosen_rows(keys: TestKeys, among: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """At most ``count`` places in ``among`` [M]: those of settled rows with the smallest hashes of time, position and seed.

    So two sides with the same impressions choose the same ones, whatever the key of their hashes. They ascend.
    """
    settled = np.flatnonzero(keys.settled[among])
    frame = pl.DataFrame({"ts": keys.ts[among[settled]], "position": keys.position[among[settled]]})
    moment: pl.Expr = pl.format("{}:{}", "ts", "position").nchash.xxhash64(seed=seed)  # type: ignore[attr-defined]
    order = np.argsort(frame.select(moment).to_series().to_numpy(), kind="stable")
    return np.sort(settled[order[:count]]).astype(np.int64)


def _joined(old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    """Columns old and new: row numbers of what is alone on both sides and equal."""
    names = old.columns
    sides = [
        frame.with_row_index(name).filter(pl.all_horizontal(pl.col(names).is_not_null())).unique(names, keep="none")
        for name, frame in (("old", old), ("new", new))
    ]
    found = sides[0].join(sides[1], on=names).select(pl.col("old", "new").cast(pl.Int64))
    return found.sort("new")
