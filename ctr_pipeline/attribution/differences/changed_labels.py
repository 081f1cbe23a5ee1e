"""Outcomes that differ between two retrains: for the same impressions, and on the days that one of them has alone."""

import math
from collections.abc import Iterable
from datetime import date

import polars as pl

from ctr_pipeline.attribution.differences.column_values import begins, bounds, mean, median
from ctr_pipeline.attribution.differences.difference import Difference, Source, percent
from ctr_pipeline.attribution.differences.matched_rows import BY_ID, MatchedRows
from ctr_pipeline.attribution.differences.retrain_state import RetrainState

OUTAGE, ELSEWHERE = 0.5, 0.2
"""Share of a day's outcomes that are lost in an outage, and on the other days at most of that share."""

MOST_EQUAL = 0.9
"""Share of the same events that have the same time, from which on their clock is the same."""

SURE = 1e-7
"""Probability below which so few outcomes are no chance."""

_FOLLOWS: tuple[Source, ...] = (
    ("time", ""),
    ("spec", "tasks"),
    ("spec", "source.events"),
    ("spec", "source.labels"),
    ("spec", "split.ingest_lag"),
)


def changed_labels(old: RetrainState, new: RetrainState, rows: MatchedRows) -> list[Difference]:
    """A difference for each task of which impressions have other labels; one that another brings about follows it."""
    tasks = [task for task in old.tasks if task in new.tasks]
    found = [difference for task in tasks for difference in _of_task(task, new, rows)]
    if rows.matched and found:
        found = _by_events(found, old, new, rows)
    found += _delivery(old, new, rows, {difference.subject for difference in found})
    changed = {difference.subject for difference in found}
    for task in tasks:
        if task not in changed and (gap := _outage_of_new_days(task, old, new, rows)) is not None:
            found.append(gap)
    return found


def _of_task(task: str, new: RetrainState, rows: MatchedRows) -> Iterable[Difference]:
    column = f"y_{task}"
    if not rows.matched or column not in rows.old.columns or column not in rows.new.columns:
        return
    both = pl.DataFrame({"day": rows.days, "ts": rows.old["ts"], "old": rows.old[column], "new": rows.new[column]})
    # At the end of both intervals a label may be open on one side for its age alone.
    settled = both.filter(pl.col("old").is_not_null() & pl.col("new").is_not_null())
    lost = settled.filter((pl.col("old") == 1) & (pl.col("new") == 0))
    gained = settled.filter((pl.col("old") == 0) & (pl.col("new") == 1))
    open_now = both.filter(pl.col("old").is_not_null() & pl.col("new").is_null()).height
    positives = settled.filter(pl.col("old") == 1).height
    if not lost.height and not gained.height and open_now < 0.02 * max(both.height, 1):
        return
    parents = {t.name: t.parent for t in new.spec.tasks}
    follows = (*_FOLLOWS, *((("labels", parent),) if (parent := parents.get(task)) else ()))
    changed = lost.height + gained.height
    evidence = [
        f"of {positives:,} impressions with a {task}, {lost.height:,} have none now ({percent(lost.height / max(positives, 1))}); "
        f"{gained.height:,} without one have one now"
    ]
    if open_now >= 0.02 * both.height:
        evidence.append(f"{open_now:,} labels that were settled are open")
    form, sentence, since = "other outcomes", f"{changed:,} impressions have another outcome of “{task}”", None
    if lost.height > 5 * gained.height and (days := _outage_days(settled, lost)):
        form, since = "outage", begins(pl.Series(days), rows.days)
        named = ", ".join(map(str, days[:4])) + (" …" if len(days) > 4 else "")
        sentence = f"Outcomes of “{task}” are missing on {named}: {lost.height:,} of {positives:,} are lost"
        evidence.append("the other days have theirs, so that their log or its delivery stopped on these")
    elif lost.height > 5 * gained.height:
        form, sentence = "lost", f"{percent(lost.height / max(positives, 1))} of the outcomes of “{task}” are lost"
    elif gained.height > 5 * lost.height:
        form, sentence = (
            "gained",
            f"{gained.height:,} more impressions have a {task}: {percent(gained.height / max(positives, 1))} more than there were",
        )
    elif not changed:
        form, sentence = "open", f"Labels of “{task}” that were settled are open"
    if lost.height + gained.height > 0.5 * settled.height:
        form, sentence = "turned", f"Outcomes of “{task}” are turned round: what was 1 is 0"
    yield Difference(
        kind="labels", subject=task, form=form, sentence=sentence, share=min(1.0, max(changed / max(positives, 1), open_now / max(both.height, 1))), since=since,
        evidence=tuple(evidence), follows=follows,
    )  # fmt: skip


def _outage_days(settled: pl.DataFrame, lost: pl.DataFrame) -> list[date]:
    """Days that lost most of their outcomes, where the others lost hardly any."""
    had = settled.filter(pl.col("old") == 1).group_by("day").len("had")
    counts = had.join(lost.group_by("day").len("lost"), on="day", how="left").fill_null(0).sort("day")
    hit = counts.filter(pl.col("lost") >= OUTAGE * pl.col("had"))
    others = counts.filter(pl.col("lost") < OUTAGE * pl.col("had"))
    if not hit.height or not others.height:
        return []
    rest = float(others["lost"].sum()) / max(1.0, float(others["had"].sum()))
    return hit["day"].to_list() if rest <= ELSEWHERE else []


def _both_events(old: RetrainState, new: RetrainState, rows: MatchedRows) -> pl.DataFrame:
    """Events of both sides; none where ids were hashed otherwise."""
    if rows.how != BY_ID:
        return old.events.clear()
    return old.events.join(new.events, on=["impression_id", "event"], how="inner", suffix="_new")


def _apart(both: pl.DataFrame) -> list[tuple[str, float]]:
    """In words what happened to the times of the same events, and by how many hours in the median."""
    found = []
    for column, words in (("event_ts", "happened"), ("ingest_ts", "were delivered")):
        apart = (both[f"{column}_new"] - both[column]).drop_nulls()
        if apart.len() and mean(apart == 0) <= MOST_EQUAL:
            hours = median(apart) / 3.6e9
            found.append(
                (
                    f"the same events {words} {abs(hours):.3g} hours {'later' if hours > 0 else 'earlier'} (median)",
                    hours,
                )
            )
    return found


def _delivery(old: RetrainState, new: RetrainState, rows: MatchedRows, known: set[str]) -> list[Difference]:
    """Tasks whose labels are the same and whose events have other times: what is known of the past changes with them."""
    both = _both_events(old, new, rows)
    if not both.height:
        return []
    found = []
    for task in [task for task in new.tasks if task not in known]:
        for words, _ in _apart(both.filter(pl.col("event") == task))[:1]:
            found.append(
                Difference(
                    kind="labels", subject=task, form="other times", sentence=f"Outcomes of “{task}” have other times: {words}", follows=_FOLLOWS,
                    evidence=("their labels are the same; what was known of the past when a day began is not",),
                )
            )  # fmt: skip
    return found


def _by_events(found: list[Difference], old: RetrainState, new: RetrainState, rows: MatchedRows) -> list[Difference]:
    """With what the events themselves say: other times, or a later delivery."""
    both = _both_events(old, new, rows)
    if not both.height:
        return found
    notes = [words for words, _ in _apart(both)]
    return [
        Difference(
            kind=d.kind, subject=d.subject, form="later" if notes and d.form in ("lost", "other outcomes") else d.form,
            sentence=d.sentence + (f"; {notes[0]}" if notes else ""), share=d.share, since=d.since, evidence=(*d.evidence, *notes), follows=d.follows,
        )
        for d in found
    ]  # fmt: skip


def _outage_of_new_days(task: str, old: RetrainState, new: RetrainState, rows: MatchedRows) -> Difference | None:
    """Days of the new side alone (or all, without matched rows) with far fewer outcomes than the old side's days lead one to expect."""
    column = f"y_{task}"
    if column not in old.rows.columns or column not in new.rows.columns:
        return None
    usual = old.rows.filter(pl.col(column).is_not_null())
    own = new.rows.filter(pl.col(column).is_not_null())
    if rows.matched:
        own = own.filter(~pl.col("day").is_in(list(rows.common)))
    daily = (
        own.group_by("day").agg(pl.len().alias("rows"), pl.col(column).sum().cast(pl.Int64).alias("hits")).sort("day")
    )
    rate = mean(usual[column])
    by_day = usual.group_by("day").agg(pl.col(column).mean())[column]
    lowest = (bounds(by_day) or (0.0, 0.0))[0]
    hit = []
    for day, count, hits in daily.iter_rows():
        expected = 0.5 * min(rate, max(lowest, 0.5 * rate)) * count
        if expected > 0 and hits < expected and _poisson_below(hits, expected) < SURE:
            hit.append((day, hits, rate * count))
    if not hit or not usual.height:
        return None
    named = ", ".join(str(day) for day, _, _ in hit[:4])
    counted = "; ".join(f"{day}: {hits:,} of about {usual_hits:,.0f}" for day, hits, usual_hits in hit[:4])
    return Difference(
        kind="labels", subject=task, form="outage", since=hit[0][0], paired=False, share=len(hit) / max(daily.height, 1),
        sentence=f"Outcomes of “{task}” are missing on {named}", evidence=(counted,), follows=_FOLLOWS,
    )  # fmt: skip


def _poisson_below(count: int, expected: float) -> float:
    """Probability of ``count`` or fewer events where ``expected`` are."""
    logs = [k * math.log(expected) - expected - math.lgamma(k + 1) for k in range(count + 1)]
    top = max(logs)
    return min(1.0, math.exp(top) * sum(math.exp(one - top) for one in logs))
