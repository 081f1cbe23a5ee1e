"""The oracle's report as a person reads it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ctr_pipeline.commands.oracle import CLICK

CEILINGS = {
    "bayes": "knows every probability",
    "position_unknown": "all but the position",
    "observables": "what the log shows",
}
CDF_LABELS = ("1 min", "1 h", "6 h", "1 d", "3 d", "7 d", "14 d")


def print_oracle(report: Mapping[str, Any], console: Console) -> None:
    """Prints the report for a person."""
    days = report["days"]
    console.print(
        f"\n[bold]Oracle[/]  {days['first']} to {days['last']}, {report['rows']:,} impressions", highlight=False
    )
    console.print(_ceilings(report))
    console.print(_positions(report["positions"]))
    console.print(_delays(report["delays"]))
    noise = report["noise"]
    console.print(
        f"  {noise['clicks']:,} clicked; of those, advertisers fired {noise['fired']:,} outcomes that did not happen, "
        f"and {noise['lost']:,} lost one that did",
        highlight=False,
    )
    for name, count in report["incidents"].items():
        console.print(f"  incident {name}: {count:,} impressions", highlight=False)
    found = report.get("scores")
    if found is None:
        console.print("  No scores to compare: run `ctr run` first, or give --scores.", highlight=False)
        return
    console.print(
        f"\nScores ({found['origin']}): {found['rows']:,} impressions, predicted rate {found['predicted_rate']:.3%}, "
        f"true rate {found['bayes']['rate']:.3%}",
        highlight=False,
    )
    console.print(_table(("", "AUC", "AP", "NE"), ((name, *_measures(found[name])) for name in ("model", "bayes"))))
    console.print(
        f"  excess NE {found['excess_ne']:.4f}; the model captures {found['captured']:.1%} of what can be known",
        highlight=False,
    )


def _ceilings(report: Mapping[str, Any]) -> Table:
    rows = [
        (
            CLICK,
            name.replace("_", " "),
            meaning,
            f"{report['ceilings'][name]['rate']:.3%}",
            *_measures(report["ceilings"][name]),
        )
        for name, meaning in CEILINGS.items()
    ]
    rows += [
        (step, "bayes", CEILINGS["bayes"], f"{found['rate']:.3%}", *_measures(found))
        for step, found in report["steps"].items()
    ]
    title = f"Best possible scores (observables: fitted on {report['ceilings']['observables']['rows']:,} rows)"
    return _table(("outcome", "ceiling", "of a model that", "rate", "AUC", "AP", "NE"), rows, title)


def _positions(rows: Sequence[Mapping[str, Any]]) -> Table:
    learnt = any("learnt" in row for row in rows)
    columns = (
        "position",
        "examination",
        *(["learnt"] if learnt else []),
        "observed",
        "IPS",
        "observed IPS",
        "random rows",
    )
    return _table(
        columns,
        (
            (
                str(row["position"]),
                _number(row["examination"]),
                *([_number(row.get("learnt"))] if learnt else []),
                _number(row["observed"]) + (f" ± {row['observed_error']:.3f}" if row["observed_error"] else ""),
                _number(row["ips"]),
                _number(row["observed_ips"]),
                f"{row['random_rows']:,}",
            )
            for row in rows
        ),
        "Position effects: true, and as random sessions show them",
    )


def _delays(report: Mapping[str, Any]) -> Table:
    rows = []
    for step, found in report.items():
        distribution = found.get("since_previous", found)
        cdf, quantiles = distribution["cdf"], distribution["quantiles"]
        late = found.get("out_of_window_share")
        rows.append(
            (
                step.replace("_", " "),
                f"{found['happened']:,}" if "happened" in found else "",
                "–" if quantiles is None else f"{quantiles['0.5']:,.0f} s",
                *(("–",) * len(CDF_LABELS) if cdf is None else (f"{share:.1%}" for share in cdf.values())),
                "" if late is None else f"{late:.1%}",
            )
        )
    columns = ("delay of", "happened", "median", *(f"≤ {label}" for label in CDF_LABELS), "out of window")
    return _table(columns, rows, "Delays since the step before")


def _measures(found: Mapping[str, float]) -> tuple[str, str, str]:
    return f"{found['auc']:.4f}", f"{found['ap']:.4f}", f"{found['ne']:.4f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]], title: str | None = None) -> Table:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    return table
