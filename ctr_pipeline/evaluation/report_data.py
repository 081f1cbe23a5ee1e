"""Sections of a run's report about what the model was made of: data, position, checks, provenance."""

from collections.abc import Mapping
from html import escape
from typing import Any

from ctr_pipeline.evaluation.html_page import Html, breakable, figures, folded, link, listed, table
from ctr_pipeline.evaluation.report_cells import NONE, interval, shown
from ctr_pipeline.evaluation.report_figures import ReportFiles, delays_figure, propensity_figures

MOST_FLAGGED = 20
"""Keys with implausible labels that are listed."""
DIGITS = 16
"""Digits of a digest that are shown."""


def data_section(report: Mapping[str, Any], files: ReportFiles) -> str:
    """Rows, quarantine, labels and their delays, parts."""
    parts = [
        _read(report),
        _labels(report),
        figures([shown(delays_figure(files.delays), _starts(files))]) if files.delays else "",
        _split(report),
        _label_quality(report.get("label_quality", {})),
    ]
    return "\n".join(part for part in parts if part)


def _starts(files: ReportFiles) -> str:
    starts = ", ".join(f"{task} since the {of.start}" for task, of in files.delays.items())
    return f"Of impressions whose windows have closed: {starts}."


def _read(report: Mapping[str, Any]) -> str:
    counts = "in", "kept", "quarantined", "filtered", "ignored"
    rows = [(name, *(f"{of.get(count, 0):,}" for count in counts)) for name, of in report.get("rows", {}).items()]
    quarantined = [
        f"{name}: {count:,} rows in quarantine, {reason}"
        for name, of in report.get("rows", {}).items()
        for reason, count in of.get("reasons", {}).items()
    ]
    types = report.get("ignored_types") or {}
    ignored = ", ".join(f"{kind or 'other types'} {events:,}" for kind, events in types.items())
    notes = [*quarantined, *report.get("remarks", ()), *([f"Events that no task uses: {ignored}."] if ignored else [])]
    return table(("log", *counts), rows, numbers=range(1, 6), caption="Rows that were read") + listed(notes)


def _labels(report: Mapping[str, Any]) -> str:
    labels: Mapping[str, Mapping[str, int]] = report.get("labels", {})
    states = sorted({state for counts in labels.values() for state in counts})
    rows = [
        (task, *(f"{counts.get(state, 0):,}" for state in states), f"{_settled(counts):.1%}")
        for task, counts in labels.items()
    ]
    heads = ("task", *(state.lower().replace("_", " ") for state in states), "settled")
    return table(heads, rows, numbers=range(1, len(heads)), caption="Labels of all impressions, as of the last arrival")


def _settled(counts: Mapping[str, int]) -> float:
    return 1 - counts.get("CENSORED", 0) / max(sum(counts.values()), 1)


def _split(report: Mapping[str, Any]) -> str:
    rows = [
        (
            name, task, str(of["start"])[:16].replace("T", " "), str(of["end"])[:16].replace("T", " "), f"{of['rows']:,}",
            f"{of['settled']:,}", f"{of['settled'] / max(of['rows'], 1):.1%}", f"{of['positives']:,}",
        )
        for name, split in report.get("split", {}).items()
        for task, of in split.get("tasks", {}).items()
    ]  # fmt: skip
    heads = "part", "task", "from (UTC)", "before", "rows", "settled", "share", "outcomes"
    waiting = [
        f"{name}: {rows:,} negatives of {task} have no label, since a log that stopped may have missed their outcome."
        for name, split in report.get("split", {}).items()
        for task, rows in split.get("awaiting_data", {}).items()
        if rows
    ]
    return table(heads, rows, numbers=range(2, 8), caption="Parts of the data, by task") + listed(waiting)


def _label_quality(found: Mapping[str, Any]) -> str:
    rows = [
        (
            Html(f"<code>{escape(str(of['key']))}</code>"), of["task"], f"{of['trials']:,}", f"{of['positives']:,}",
            f"{of['rate']:.1%}", NONE if of["expected_rate"] is None else f"{of['expected_rate']:.1%}",
            NONE if of["z"] is None else f"{of['z']:+.1f}", of["status"], f"{of['weight']:.2f}",
        )
        for of in found.get("flagged", ())[:MOST_FLAGGED]
    ]  # fmt: skip
    heads = str(found.get("key")), "task", "trials", "outcomes", "rate", "expected", "z", "status", "weight"
    return folded(
        f"Keys with implausible outcome rates: {len(found.get('flagged', ()))}",
        table(heads, rows, numbers=(2, 3, 4, 5, 6, 8)),
    ) if rows else ""  # fmt: skip


def propensity_section(report: Mapping[str, Any]) -> str:
    """What the position does."""
    found: Mapping[str, Any] = report.get("propensity", {})
    effect: Mapping[str, Any] = report.get("position_effect") or {}
    learnt = [
        f"The model learnt of {task} at positions 1 to {len(of)}, relative to the first: {', '.join(f'{value:.2f}' for value in of)}."
        for task, of in effect.get("relative", {}).items()
    ]
    rows = [
        (
            of["response"], of["position"], f"{of['random_rows']:,}", f"{of['random_positives']:,}",
            _bounds(of, "examination", "examination"), _bounds(of, "exposure_ratio", "exposure"), f"{of['weight']:.3f}",
        )
        for of in found.get("positions", ())
    ]  # fmt: skip
    if not rows and not learnt:
        return ""
    heads = "response", "position", "random rows", "outcomes", "examination", "exposure ratio", "weight"
    used = [
        f"{of['response']}: effective sample size {of['ess_rows']:.1%} of the rows, {of['ess_positives']:.1%} of the outcomes."
        if of["usable"]
        else f"{of['response']}: not used, {of['reason']}"
        for of in found.get("responses", ())
    ]
    return (
        listed([*used, *learnt])
        + figures(map(shown, propensity_figures(found)))
        + folded("The positions in numbers", table(heads, rows, numbers=range(1, 7)))
    )


def _bounds(row: Mapping[str, Any], value: str, name: str) -> str:
    return interval({"value": row.get(value), "low": row.get(f"{name}_low"), "high": row.get(f"{name}_high")})


def checks_section(report: Mapping[str, Any]) -> str:
    """Checks that failed; the others on a click."""
    checks = report.get("checks", [])
    if not checks:
        return ""
    failed = [check for check in checks if not check["passed"]]
    rows = [
        (
            Html(f'<span class="{"error" if check["severity"] == "ERROR" else "warning"}">{escape(check["severity"])}</span>'),
            Html(f'<span id="check-{escape(name(check))}">{breakable(name(check))}</span>'),
            check["description"] or "failed",
        )
        for check in failed
    ]  # fmt: skip
    passed = [f"{name(check)}: {check['description'] or 'passed'}" for check in checks if check["passed"]]
    return (
        f"<p>{len(checks) - len(failed)} of {len(checks)} checks passed.</p>"
        + table(("severity", "check", "what was found"), rows)
        + folded("Checks that passed", listed(passed))
    )


def name(check: Mapping[str, Any]) -> str:
    """Asset and name of a check."""
    return f"{check['asset']}.{check['check']}"


def provenance_section(report: Mapping[str, Any], files: ReportFiles) -> str:
    """From what, by what and where the model was made."""
    model, spec, mlflow = (report.get(key) or {} for key in ("model", "spec", "mlflow"))
    environment = files.provenance.get("environment", {})
    training = model.get("training") or {}
    facts: list[tuple[str, object]] = [
        ("spec", f"{spec.get('name')}, hash {spec.get('hash', NONE)}"),
        ("labels as of", str(report.get("as_of", NONE))),
        ("model (SHA-256)", Html(f"<code>{escape(str(model.get('sha256') or NONE))}</code>")),
        ("bundle (SHA-256)", Html(f"<code>{escape(str(files.release.get('bundle_sha256') or NONE))}</code>")),
        ("version in the registry", model.get("version") or NONE),
        ("folder", Html(f"<code>{escape(str(model.get('folder') or NONE))}</code>")),
        (
            "training",
            f"{training['status']}, {training['steps'] or 0:,} steps in {training['seconds'] or 0:.0f} s on {training['device']}"
            if training.get("status")
            else NONE,
        ),
        ("MLflow run", _mlflow(mlflow)),
        ("seed", files.provenance.get("seed", NONE)),
        ("fingerprint of the key", files.provenance.get("key_fingerprint", NONE)),
    ]
    versions = [(table_name, of["version"]) for table_name, of in report.get("tables", {}).items()]
    took = sorted((report.get("seconds") or {}).items(), key=lambda item: -item[1])
    arrays = [
        (path, Html(f"<code>{escape(str(sha)[:DIGITS])}</code>"))
        for path, sha in files.provenance.get("arrays", {}).items()
    ]
    return (
        table(("what", "value"), facts)
        + folded("Versions of the tables", table(("table", "Delta version"), versions, numbers=[1]))
        + folded("Code, libraries and machine", table(("what", "version"), environment.items()))
        + folded("Packed arrays (SHA-256)", table(("array", "digest"), arrays))
        + folded(
            "Seconds that the steps took", table(("step", "seconds"), [(at, f"{s:.1f}") for at, s in took], numbers=[1])
        )
    )


def _mlflow(run: Mapping[str, Any]) -> object:
    if not run.get("run_id"):
        return NONE
    return link(str(run["url"]), str(run["run_id"])) if run.get("url") else str(run["run_id"])
