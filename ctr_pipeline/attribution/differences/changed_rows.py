"""Which impressions one retrain has and another lacks, within the days of both; and whether their clocks agree."""

import math
from collections.abc import Sequence
from datetime import date

import polars as pl

from ctr_pipeline.attribution.differences.changed_categories import as_text
from ctr_pipeline.attribution.differences.column_values import begins, bounds, mean, median, total
from ctr_pipeline.attribution.differences.difference import Difference, Source, number, percent
from ctr_pipeline.attribution.differences.matched_rows import BY_ID, MatchedRows
from ctr_pipeline.attribution.differences.retrain_state import RetrainState

LEAST_SHARE = 1e-4
"""Share of the impressions of common days that have to differ."""

MOSTLY, HARDLY = 0.9, 0.1
"""Share of a value's rows that a filter takes, and that it takes of the others at most."""

HOUR_US = 3_600_000_000

_FOLLOWS: tuple[Source, ...] = (
    ("time", ""), ("spec", "source"), ("spec", "split"), ("spec", "impression"), ("spec", "days"), ("spec", "tasks"),
)  # fmt: skip


def changed_rows(old: RetrainState, new: RetrainState, rows: MatchedRows) -> list[Difference]:
    """Rows that were lost, added or written twice, and clocks that differ."""
    if not rows.matched:
        return _unmatched(old, new)
    found = [*_clock(rows), *_arrival(rows), *_quarantined(old, new)]
    days = pl.col("day").is_in(list(_whole_days(old, new, rows)))
    lost, added = rows.only_old.filter(days), rows.only_new.filter(days)
    before, after = old.keys.filter(days), new.keys.filter(days)
    if lost.height > LEAST_SHARE * max(before.height, 1):
        found.append(_lost(old, lost, before))
    if added.height > LEAST_SHARE * max(after.height, 1):
        found.append(_added(new, added, after))
    return found


def _whole_days(old: RetrainState, new: RetrainState, rows: MatchedRows) -> Sequence[date]:
    """Days of which both sides read all hours: an interval may begin or end within one."""
    edges = {day for side in (old, new) for day in (side.days[:1] + side.days[-1:])}
    inner = [day for day in rows.common if day not in edges]
    return inner if len(inner) >= len(rows.common) - 2 and inner else rows.common


def _clock(rows: MatchedRows) -> list[Difference]:
    apart = rows.new["ts"] - rows.old["ts"]
    moved = apart != 0
    share = mean(moved)
    if rows.how != BY_ID or share < LEAST_SHARE:
        return []
    steps = apart.filter(moved).value_counts(sort=True)
    step, most = int(steps[steps.columns[0]][0]), int(steps["count"][0])
    if most >= MOSTLY * total(moved):
        form, what = (
            "clock",
            f"The impressions are {_duration(abs(step))} {'later' if step > 0 else 'earlier'} than they were",
        )
        if abs(step) % (HOUR_US // 4) == 0:
            what += ", as with another time zone"
    else:
        form, what = "other times", "The impressions have other times than they had"
    cut = mean(rows.new["ts"] % 1_000_000 == 0) - mean(rows.old["ts"] % 1_000_000 == 0)
    if form == "other times" and cut > MOSTLY:
        form, what = "rounded times", "The times of the impressions are cut off to whole seconds"
    since = begins(rows.days.filter(moved), rows.days)
    evidence = (
        f"{percent(share)} of {rows.old.height:,} impressions of both retrains have another time",
        "days, hours, the division into training and test, and what was known of the past follow from the time",
    )
    return [
        Difference(kind="time", subject="clock of the impressions", form=form, sentence=what, share=share, since=since, evidence=evidence,
                   follows=(("spec", "time_zone"), ("spec", "source"), ("spec", "impression.time")))
    ]  # fmt: skip


def _arrival(rows: MatchedRows) -> list[Difference]:
    """Impressions that arrive later or earlier after they were shown."""
    if "ingest_ts" not in rows.old.columns or "ingest_ts" not in rows.new.columns:
        return []
    waits = [side["ingest_ts"] - side["ts"] for side in (rows.old, rows.new)]
    apart = waits[1] - waits[0]
    share = mean(apart != 0)
    if share < 10 * LEAST_SHARE:
        return []
    step = int(median(apart.filter(apart != 0)))
    return [
        Difference(
            kind="time", subject="arrival of the impressions", form="arrival", share=share,
            sentence=f"The impressions arrive {_duration(abs(step))} {'later' if step > 0 else 'earlier'} after they were shown (median)",
            evidence=("what had arrived when a day began decides what is known of the past, and which rows a retrain reads",),
            follows=(("time", "clock"), ("spec", "source"), ("spec", "impression")),
        )
    ]  # fmt: skip


def _duration(microseconds: int) -> str:
    hours = microseconds / HOUR_US
    if hours >= 1:
        return f"{hours:g} hours" if hours != 1 else "1 hour"
    return f"{microseconds / 6e7:g} minutes" if microseconds >= 6e7 else f"{microseconds / 1e6:g} seconds"


def _lost(old: RetrainState, lost: pl.DataFrame, before: pl.DataFrame) -> Difference:
    share = lost.height / before.height
    evidence = [f"{lost.height:,} of {before.height:,} impressions of common days are gone ({percent(share)})"]
    gone = old.rows.join(lost.select("impression_id"), on="impression_id", how="semi")
    kept = old.rows.filter(pl.col("day").is_in(before["day"].unique().implode())).join(
        lost.select("impression_id"), on="impression_id", how="anti"
    )
    form, sentence = "lost", f"{percent(share)} of the impressions are gone"
    if (hours := _missing_hours(lost, before)) is not None:
        form, sentence = "missing hours", f"The impressions of {hours} are gone"
    elif (filtered := _filtered_by(old, gone, kept)) is not None:
        form, sentence = "filtered", f"The impressions {filtered[0]} are gone ({percent(share)} of all)"
        evidence.append(filtered[1])
    elif (sampled := _sampled_by(old, gone, kept)) is not None:
        form, sentence = "sampled", f"{sampled} are gone"
        evidence.append("their base rate moved with them")
    return Difference(
        kind="rows", subject="impressions", form=form, sentence=sentence, share=share, since=begins(lost["day"], before["day"]), evidence=tuple(evidence), follows=_FOLLOWS
    )  # fmt: skip


def _missing_hours(lost: pl.DataFrame, before: pl.DataFrame) -> str | None:
    """The hours whose impressions are nearly all gone, where they explain nearly all that is gone."""
    hour = (pl.col("ts") // HOUR_US).alias("hour")
    counts = before.group_by(hour, "day").len("all").join(lost.group_by(hour).len("gone"), on="hour", how="left")
    empty = counts.filter(pl.col("gone").fill_null(0) >= MOSTLY * pl.col("all"))
    if empty["gone"].sum() < MOSTLY * lost.height or empty.height == counts.height:
        return None
    days = sorted(empty["day"].unique().to_list())
    named = ", ".join(map(str, days[:3])) + (" …" if len(days) > 3 else "")
    return f"{empty.height} hour{'s' if empty.height > 1 else ''} of {named}"


def _filtered_by(old: RetrainState, gone: pl.DataFrame, kept: pl.DataFrame) -> tuple[str, str] | None:
    """The value of a feature whose rows are nearly all gone while hardly any others are."""
    if gone.height < 10:
        return None
    best: tuple[float, str, str] | None = None
    candidates = [name for name in [*old.categories, "traffic", "position"] if name in gone.columns]
    for name in candidates:
        there = as_text(gone[name]).fill_null("missing").value_counts().rename({"count": "gone"})
        left = as_text(kept[name]).fill_null("missing").value_counts().rename({"count": "kept"})
        counts = there.join(left, on=name, how="full", coalesce=True).fill_null(0)
        if counts.height > 1000:
            continue
        lost_share = counts["gone"] / (counts["gone"] + counts["kept"])
        taken = counts.filter(lost_share >= MOSTLY)
        rest = counts.filter(lost_share < MOSTLY)
        covered = total(taken["gone"]) / gone.height
        others = total(rest["gone"]) / max(1, total(rest["gone"] + rest["kept"]))
        if not taken.height or covered < MOSTLY or others > HARDLY:
            continue
        values = ", ".join(f"‘{value}’" for value in taken.sort("gone", descending=True)[name].to_list()[:3])
        if best is None or covered - others > best[0]:
            more = f" and {taken.height - 3} more values" if taken.height > 3 else ""
            best = (
                covered - others,
                f"with {name} {values}{more}",
                f"{percent(covered)} of what is gone has that, {percent(others)} of the others is gone too",
            )
    for name in old.numbers:
        if name not in gone.columns or name in old.history:
            continue
        ours, theirs = gone[name].drop_nulls(), kept[name].drop_nulls()
        if not ours.len() or not theirs.len():
            continue
        own, rest_of = bounds(ours), bounds(theirs)
        if own is None or rest_of is None or best is not None or ours.len() < MOSTLY * gone.height:
            continue
        edges = ((rest_of[1], "above", own[0] >= rest_of[1]), (rest_of[0], "below", own[1] <= rest_of[0]))
        for edge, words, apart in edges:
            if apart:
                best = (
                    1.0,
                    f"with {name} {words} {number(edge)}",
                    f"all of what is gone lies {words} all of what is kept",
                )
    return None if best is None else best[1:]


def _sampled_by(old: RetrainState, gone: pl.DataFrame, kept: pl.DataFrame) -> str | None:
    """Whether rows without an outcome were left out and those with one were not, or the other way round."""
    for task in old.tasks:
        column = f"y_{task}"
        if column not in gone.columns:
            continue
        ours, theirs = gone[column].drop_nulls(), kept[column].drop_nulls()
        positives = total(ours) + total(theirs)
        if positives < 20 or not ours.len():
            continue
        lost_positive = total(ours) / positives
        lost_negative = (ours.len() - total(ours)) / max(1.0, ours.len() + theirs.len() - positives)
        error = math.sqrt(max(lost_positive * (1 - lost_positive), 1 / positives) / positives)
        if abs(lost_positive - lost_negative) < 4 * error or max(lost_positive, lost_negative) < 2 * min(
            lost_positive, lost_negative
        ):
            continue
        if lost_negative > lost_positive:
            return f"{percent(lost_negative)} of the impressions without a {task}, and {percent(lost_positive)} of those with one,"
        return (
            f"{percent(lost_positive)} of the impressions with a {task}, and {percent(lost_negative)} of those without,"
        )
    return None


def _added(new: RetrainState, added: pl.DataFrame, after: pl.DataFrame) -> Difference:
    share = added.height / after.height
    evidence = [f"{added.height:,} of {after.height:,} impressions of common days are new ({percent(share)})"]
    form, sentence = "added", f"{percent(share)} of the impressions were not there before"
    # Twice are rows whose values are all those of another row; ids are no values.
    plain = [name for name in ("ts", "position", *new.numbers) if name in new.rows.columns and name not in new.history]
    own = new.rows.join(added.select("impression_id"), on="impression_id", how="semi")
    others = new.rows.join(added.select("impression_id"), on="impression_id", how="anti")
    if own.height and others.height:
        again = own.join(others.select(plain).unique(), on=plain, how="semi", nulls_equal=True).height / own.height
        if again >= 0.5:
            form, sentence = "duplicates", f"{percent(share)} of the impressions are there twice, under another id"
            evidence.append(f"{percent(again)} of the new rows have all values of another row")
            evidence.append("counts and rates of the past, and the weight of these rows in the training, follow")
    return Difference(
        kind="rows", subject="impressions", form=form, sentence=sentence, share=share, since=begins(added["day"], after["day"]), evidence=tuple(evidence), follows=_FOLLOWS
    )  # fmt: skip


def _quarantined(old: RetrainState, new: RetrainState) -> list[Difference]:
    """Rows that were kept out for a reason that was rare before."""
    found = []
    total = max(new.keys.height, 1)
    for reason in sorted({*old.quarantined, *new.quarantined}):
        before, after = old.quarantined.get(reason, 0), new.quarantined.get(reason, 0)
        if abs(after - before) > max(0.002 * total, 5 * math.sqrt(max(before, 1)), 20):
            table, _, why = reason.partition(".")
            found.append(
                Difference(
                    kind="rows", subject=f"quarantine of {table}", form=why, share=min(1.0, abs(after - before) / total), follows=_FOLLOWS,
                    sentence=f"{after:,} rows of {table} were kept out for {why.replace('_', ' ')}; it was {before:,}",
                )
            )  # fmt: skip
    return found


def _unmatched(old: RetrainState, new: RetrainState) -> list[Difference]:
    """Rows by day, where no impression of one side can be found on the other."""
    counts = [dict(side.keys.group_by("day").len().iter_rows()) for side in (old, new)]
    typical = [sorted(c.values())[len(c) // 2] if c else 0 for c in counts]
    if not all(typical):
        return []
    ratio = typical[1] / typical[0]
    if 0.8 <= ratio <= 1.25:
        return []
    return [
        Difference(
            kind="rows", subject="impressions", form="more" if ratio > 1 else "fewer", paired=False, share=min(1.0, abs(ratio - 1)), follows=_FOLLOWS,
            sentence=f"A day has {typical[1]:,} impressions; it had {typical[0]:,}",
        )
    ]  # fmt: skip
