"""Why a model changed, as one HTML page that needs no other file: its first screen is for a person who does not know the pipeline."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from ctr_pipeline.evaluation.html_page import Html, document, folded, html, listed, table

SHOWN = 15
"""Features and blocks that a table shows."""

SAME_NE = 1e-6
"""Differences of NE that come of the order of sums alone."""

_STYLE = """
.badge { display: inline-block; border-radius: 3px; padding: .05rem .45rem; color: #fff; font-size: .85em; white-space: nowrap; }
.shown { background: #00684c; } .likely { background: #8a5200; } .possible { background: #666; }
.causes li { margin: .1rem 0; } .causes .how { color: #555; font-size: .92em; } tr.first td { border-top: 2px solid #0072b2; border-bottom: 2px solid #0072b2; }
"""

MEANING = {
    "shown": "an experiment undid the change, or nothing else differs",
    "likely": "the strongest explanation; others were not excluded",
    "possible": "differs, and may be a part of it",
}


def change_page(found: Mapping[str, Any]) -> str:
    """The page.

    Args:
        found: What `ctr explain --json` writes.
    """
    old, new = found["old"], found["new"]
    body = [
        f"<h1>{html(found['headline'])}</h1>",
        f"<p>Retrain of {html(new['day'])} beside that of {html(old['day'])}: {html(_compared(found))}</p>",
        _causes(found["causes"]),
        "<h2>How much worse or better</h2>",
        _entropies(found["ne"].values()),
        *_consequences(found),
        *_model(found["model"], found["task"]),
        "<h2>Both retrains</h2>",
        _sides(old, new),
        *(["<h2>What could not be compared</h2>", listed(found["notes"])] if found["notes"] else []),
        folded("What was compared", listed(found["compared"]["looked_at"])),
    ]
    return document(f"Why the model changed: {old['day']} to {new['day']}", body, _STYLE)


def _compared(found: Mapping[str, Any]) -> str:
    compared = found["compared"]
    if not compared["impressions"]:
        return "no impression is in both, so distributions were compared."
    return f"{compared['impressions']:,} impressions of both were compared value by value (matched by {compared['matched_by']})."


def _causes(causes: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for cause in causes:
        badge = Html(f'<span class="badge {html(cause["certainty"])}">{html(cause["certainty"])}</span>')
        reasons = [*(f"for: {text}" for text in cause["evidence"]), *(f"against: {text}" for text in cause["against"])]
        what = Html(
            f'<b>{html(cause["sentence"])}</b><div class="how">{html(cause["how"])}</div>{folded("Evidence", listed(reasons))}'
        )
        rows.append((badge, what, _share(cause["share"])))
    meaning = "; ".join(f"{word}: {text}" for word, text in MEANING.items())
    return f'<div class="causes">{table(("how sure", "cause", "share of the change"), rows, numbers=[2], caption=meaning)}</div>'


def _share(share: Mapping[str, float] | None) -> str:
    if share is None:
        return "not measured"
    if share["low"] == share["high"]:
        return f"{share['value']:.0%}"
    return f"{share['value']:.0%} [{_part(share['low'])}, {_part(share['high'])}]"


def _part(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _entropies(changes: Iterable[Mapping[str, Any]]) -> str:
    rows = []
    for change in changes:
        found = change["change"]
        word = "worse" if (found["low"] or 0) > 0 else "better" if (found["high"] or 0) < 0 else "within chance"
        kind = {"worse": "error", "better": "good"}.get(word, "")
        rows.append(
            (
                change["task"], f"{change['old']:.4f}", f"{change['new']:.4f}", _interval(found), Html(f'<span class="{kind}">{word}</span>'),
                f"{change['rows']:,}", "the same impressions" if change["paired"] else "each its own test",
            )
        )  # fmt: skip
    heads = ("task", "NE before", "NE now", "change [95 %]", "", "test rows", "measured on")
    caption = (
        "NE is the log loss beside that of the base rate alone: lower is better. The change is on the rows named last."
    )
    return table(heads, rows, numbers=[1, 2, 3, 5], caption=caption) or "<p>The tests could not be compared.</p>"


def _interval(found: Mapping[str, float | None] | None, digits: int = 4) -> str:
    if found is None or found["value"] is None:
        return "–"
    bounds = [
        ("–∞", "∞")[n] if found[name] is None else f"{found[name]:+.{digits}f}"
        for n, name in enumerate(("low", "high"))
    ]
    return f"{found['value']:+.{digits}f} [{bounds[0]}, {bounds[1]}]"


def _consequences(found: Mapping[str, Any]) -> list[str]:
    rows = [(one["sentence"], one["because"]) for one in found["consequences"]]
    minor = [one["sentence"] for one in found["minor"]]
    parts = []
    if rows:
        parts += ["<h2>What follows from it</h2>", table(("difference", "follows from"), rows)]
    if minor:
        parts += ["<h2>Differences that hardly change a model</h2>", listed(minor)]
    return parts


def _model(model: Mapping[str, Any] | None, task: str | None) -> list[str]:
    if model is None or task is None or task not in model["tasks"]:
        return []
    own = model["tasks"][task]
    parts = [f"<h2>Inside the model ({html(task)})</h2>"]
    if (shift := own["shift"]) is not None:
        rank = shift["rank_correlation"]
        parts.append(
            f"<p>On {own['rows']:,} impressions the mean probability went from {shift['probability_old']:.4f} to {shift['probability_new']:.4f}; "
            f"logits moved by {shift['mean']:+.3f} (deviation {shift['deviation']:.3f}); rank correlation {'–' if rank is None else f'{rank:.3f}'}.</p>"
        )
    pipelines, periods = own["pipelines"], own["periods"]
    if pipelines is not None:
        on = _sampled(model["matched"], model["of_matched"], "test rows of both")
        parts.append(_two_by_two("The same impressions, as each pipeline has them", on, pipelines))
    if periods is not None and not (pipelines is not None and _same_values(periods)):
        counts = [_sampled(model[f"{side}_rows"], model[f"of_{side}_rows"], "test rows") for side in ("old", "new")]
        on = counts[0] if counts[0] == counts[1] else f"{counts[0]} before, {counts[1]} now"
        parts.append(_two_by_two("Each one's own test", on, periods))
    few = (
        ""
        if model["examined"] >= (model["of_matched"] or model["of_new_rows"])
        else f" On a sample of {model['examined']:,} rows."
    )
    grafts = [
        (one["block"], _interval(one["change"]), one["reason"] or "")
        for one in sorted(own["grafts"], key=_by_change)[:SHOWN]
    ]
    parts.append(
        folded("Parts of the old model put into the new one", table(("part", "change in NE [95 %]", ""), grafts, numbers=[1], caption=f"Below 0 the old part was better.{few}"))
    )  # fmt: skip
    permuted = [
        (one["feature"], _interval(one["old"], 5), _interval(one["new"], 5), _interval(one["change"], 5)) for one in own["permutation"][:SHOWN]
    ]  # fmt: skip
    parts.append(
        folded("What each feature is worth to both models", table(("feature", "before", "now", "change [95 %]"), permuted, numbers=[1, 2, 3], caption=f"Rise of the log loss where its values are permuted among the rows.{few}"))
    )  # fmt: skip
    moved = [(one["name"], _interval(one["shift"]), _interval(one["change"])) for one in own["features"][:SHOWN]]
    caption = f"Integrated gradients; baseline: {model['baseline']}."
    parts.append(
        folded(
            "Which features moved the scores",
            table(
                ("feature", "moves the logit by [95 %]", "change of its size [95 %]"),
                moved,
                numbers=[1, 2],
                caption=caption,
            ),
        )
    )
    return parts


def _by_change(graft: Mapping[str, Any]) -> float:
    change = graft["change"]
    return float("inf") if change is None or change["value"] is None else float(change["value"])


def _sampled(rows: int, of: int, what: str) -> str:
    return f"on all {rows:,} {what} with a label" if rows >= of else f"on a sample of {rows:,} of {of:,} {what}"


def _same_values(two: Mapping[str, Any]) -> bool:
    """Whether each model computes the same on both data."""
    return all(
        two[f"{side}_on_old"] is not None
        and two[f"{side}_on_new"] is not None
        and abs(two[f"{side}_on_old"]["value"] - two[f"{side}_on_new"]["value"]) < SAME_NE
        for side in ("old", "new")
    ) and (two["rows_old"], two["positives_old"]) == (two["rows_new"], two["positives_new"])


def _two_by_two(title: str, on: str, two: Mapping[str, Any]) -> str:
    if _same_values(two):
        return (
            f"<p>Both pipelines have the same values, as far as the models read them: all of the change is the model's. Its NE went from {_value(two['old_on_new'])} to "
            f"{_value(two['new_on_new'])}, by {_interval(two['total'])}, {on}.</p>"
        )
    rows = [
        ("old data", _value(two["old_on_old"]), _value(two["new_on_old"])),
        ("new data", _value(two["old_on_new"]), _value(two["new_on_new"])),
    ]
    effects = (
        f"Of the change {_interval(two['total'])}: model {_interval(two['model'])}, data {_interval(two['data'])}."
    )
    heads = ("NE [95 %]", "old model", "new model")
    return table(heads, rows, numbers=[1, 2], caption=f"{title}, {on}. {effects}")


def _value(found: Mapping[str, float | None] | None) -> str:
    if found is None or found["value"] is None:
        return "–"
    if found["low"] is None or found["high"] is None:
        return f"{found['value']:.4f}"
    return f"{found['value']:.4f} [{found['low']:.4f}, {found['high']:.4f}]"


def _sides(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    rows = []
    names = (
        ("folder", "folder"), ("day", "day"), ("first_day", "first day read"), ("last_day", "last day of the test"),
        ("impressions", "impressions"), ("test_rows", "test rows"), ("spec_hash", "spec"), ("code", "code"), ("key_fingerprint", "key of the hashes"),
    )  # fmt: skip
    for name, title in names:
        both = [side[name] for side in (old, new)]
        shown = [f"{value:,}" if isinstance(value, int) else str(value) for value in both]
        if name == "folder":
            # The last parts say which it is; a whole path makes the table too wide for a phone.
            shown = ["/".join(PurePath(value).parts[-4:]) for value in both]
        rows.append((title, *shown, "" if both[0] == both[1] else "differs"))
    for name, title in (
        ("status", "training"),
        ("epochs", "epochs"),
        ("steps", "steps"),
        ("best_validation_ne", "best NE on validation"),
    ):
        both = [side["training"].get(name) for side in (old, new)]
        shown = [f"{value:.4f}" if isinstance(value, float) else str(value) for value in both]
        rows.append((title, *shown, "" if both[0] == both[1] else "differs"))
    return table(("", "before", "now", ""), rows)
