"""The causes that may have broken a training, as one HTML page that needs no other file."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from ctr_pipeline.commands.why_text import headline
from ctr_pipeline.evaluation.html_page import Html, document, image, listed, plots, table
from ctr_pipeline.gradients.triage.left_behind import evidence_of

_STYLE = """
body { max-width: 60rem; }
.cause { border: 1px solid #ddd; border-radius: 6px; padding: .6rem 1rem; margin: .8rem 0; }
.cause.first { border: 2px solid #0072b2; }
.score { display: inline-block; width: 8rem; height: .6rem; background: #eee; vertical-align: middle; }
.score i { display: block; height: 100%; background: #0072b2; }
.verdict { white-space: nowrap; border-radius: 3px; padding: .05rem .4rem; color: #fff; font-size: .85em; }
.cures { background: #00785a; } .masks { background: #b35900; } .none { background: #666; }
@media print { .cause { max-width: none; } }
"""


def why_page(found: Mapping[str, Any]) -> str:
    """The page.

    Args:
        found: What `ctr why --json` prints.
    """
    triage, run = found["triage"], found["run"]
    stop = found["stop"].get("message")
    parts = [
        f"<h1>{escape(headline(triage))}</h1>",
        f"<p><code>{escape(run['folder'])}</code> {escape(run['day'])}</p>",
        f"<p>{escape('Stopped: ' + stop if stop else 'No stop is recorded.')}</p>",
        plots(image(drawn, name) for name, drawn in _plots(Path(run["folder"]))),
        "<h2>Causes, the most likely one first</h2>" if triage["hypotheses"] else "",
        *(_cause(hypothesis, place) for place, hypothesis in enumerate(triage["hypotheses"])),
        _remedies(triage["remedies"]),
        _list("Beside the last good training", triage["compared"]),
        _list("Findings of the training", [f"{f['severity']} {f['name']}: {f['message']}" for f in found["findings"]]),
        _list("Looked at", triage["looked_at"]),
        _list("Notes", found["notes"]),
        _list("Next", found["next"]),
    ]
    return document(f"Why: {run['folder']}", parts, _STYLE)


def _cause(hypothesis: Mapping[str, Any], place: int) -> str:
    where = f" at <code>{escape(hypothesis['location'])}</code>" if hypothesis["location"] else ""
    share = round(100 * float(hypothesis["score"]))
    lists = "".join(
        f"<li><b>{word}:</b> {escape(text)}</li>"
        for word, texts in (("for", hypothesis["evidence"]), ("against", hypothesis["against"]))
        for text in texts
    )
    return (
        f'<div class="cause{" first" if not place else ""}"><b>{escape(hypothesis["cause"])}</b>{where} '
        f'<span class="score"><i style="width:{share}%"></i></span> score {hypothesis["score"]:.2f} {_verdict(hypothesis["verdict"])}'
        f"<br>{escape(hypothesis['meaning'])}<ul>{lists}</ul><b>Fix:</b> {escape(hypothesis['fix'])}</div>"
    )


def _verdict(verdict: str) -> str:
    if verdict == "not replayed":
        return ""
    return f'<span class="verdict {verdict if verdict in ("cures", "masks") else "none"}">the fix: {escape(verdict)}</span>'


def _remedies(remedies: Sequence[Mapping[str, Any]]) -> str:
    if not remedies:
        return ""
    heads = "remedy", "", "what happened"
    rows = [(tried["name"], Html(_verdict(tried["verdict"])), tried["found"]) for tried in remedies]
    return f"<h2>Replays, one remedy at a time</h2>{table(heads, rows)}"


def _list(title: str, texts: Sequence[str]) -> str:
    return f"<h2>{escape(title)}</h2>{listed(texts)}" if texts else ""


def _plots(folder: Path) -> list[tuple[str, bytes]]:
    """Loss and gradient norm by step, where steps are recorded."""
    from ctr_pipeline.evaluation.plots import gradient_norm_plot, loss_curve

    evidence = evidence_of(folder)
    if not evidence.steps:
        return []
    clip = evidence.settings.get("clip_norm")
    # Losses of the last steps before a stop may be 10¹⁵ times the others, which would be a flat line beside them.
    known = [step["loss"] for step in evidence.steps if isinstance(step.get("loss"), int | float)]
    highest = 20 * median(known) if known else 0.0
    shown = [s for s in evidence.steps if isinstance(s.get("loss"), int | float) and abs(s["loss"]) <= abs(highest)]
    return [
        ("Training loss by step", loss_curve(shown, title="Training loss")),
        ("Gradient norm by step", gradient_norm_plot(evidence.steps, clip_norm=clip, title="Gradient norm")),
    ]
