"""Why an impression has its score, as a person reads it in a terminal."""

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

MOST_FEATURES = 15
"""Features of a task that are printed; the JSON has all."""

MOST_LETTERS = 40
"""Letters of a value that are printed."""


def print_impression_score(found: Mapping[str, Any], console: Console) -> None:
    """Prints what `ctr explain --impression` found."""

    def line(text: str, style: str = "") -> None:
        console.print(text, style=style or None, markup=False, highlight=False, soft_wrap=True)

    shown, run = found["impression"], found["run"]
    place = f", position {shown['position']}" if shown["position"] else ""
    named = f"impression {shown['hash']}" if shown["hash"] else "impression"
    line(f"\n{named} of {shown['at']}{place}", "bold")
    line(
        f"model of {run['day']}, sha256 {str(run['model_sha256'])[:12]}, MLflow run {run['mlflow_run_id'] or 'unknown'}"
    )
    line(f"baseline: {found['baseline']}")
    for task, scored in found["tasks"].items():
        line(
            f"\n{task}: {_percent(scored['calibrated_probability'])}",
            "bold",
        )
        line(f"  {_calibration(scored)}")
        line(
            f"  an average impression scores {_percent(scored['baseline_probability'])} before calibration; in logits:"
        )
        groups = ", ".join(f"{name} {value:+.3f}" for name, value in scored["groups"].items())
        line(f"  baseline {scored['baseline_logit']:.3f}, {groups}, total {scored['logit']:.3f}")
        table = Table("feature", "value", "adds to the logit", "odds", "group")
        for own in scored["features"][:MOST_FEATURES]:
            table.add_row(
                own["feature"], _value(own), f"{own['adds']:+.4f}", f"× {math.exp(own['adds']):.3f}", own["group"]
            )
        console.print(table)
        if rest := scored["features"][MOST_FEATURES:]:
            line(f"  {len(rest)} further features add {sum(own['adds'] for own in rest):+.4f}")


def _calibration(scored: Mapping[str, Any]) -> str:
    fitted = scored["calibrator"]
    how = f"calibrated by {fitted['kind']} on {fitted['rows']:,} rows with {fitted['positives']:,} outcomes"
    text = f"score {_percent(scored['probability'])}, {how}: {_percent(scored['calibrated_probability'])}"
    if scored["oe"]:
        low, high = (scored["oe"][bound] for bound in ("low", "high"))
        interval = f", 95 % interval {low:.2f} to {high:.2f}" if None not in (low, high) else ""
        text += f"; on the test outcomes are {scored['oe']['value']:.2f} times those expected{interval}"
    return text


def _value(own: Mapping[str, Any]) -> str:
    value = own["value"]
    if value is None or value == []:
        text = "missing" if value is None else "empty"
    elif isinstance(value, float):
        text = f"{value:g}"
    elif isinstance(value, list):
        text = ", ".join(
            "missing" if one is None else f"{one:g}" if isinstance(one, float) else str(one) for one in value
        )
    else:
        text = str(value)
    short = text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 1]}…"
    notes = [
        note
        for note, there in (("hashed", own["hashed"] and value is not None), ("unknown", not own["known"]))
        if there
    ]
    return f"{short} ({', '.join(notes)})" if notes else short


def _percent(chance: float) -> str:
    return f"{100 * chance:.3g} %"
