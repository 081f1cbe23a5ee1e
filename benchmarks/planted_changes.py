"""Does `ctr explain` find what changed? Planted changes, two runs of `ctr run` each, and the first cause beside the truth.

A small simulated marketplace is written as logs. The first run reads them as they are; each further one reads logs, or a
spec, with one planted change. `ctr explain` compares the two and is right where its first cause is what was planted.

Run from the checkout (about 50 s of one core a change)::

    python benchmarks/planted_changes.py [--folder FOLDER] [--only "unit of one feature" ...] [--required] [--assert]

``--folder`` keeps the runs, and makes those alone that it does not hold. ``--assert`` exits with 1 where fewer than ten
of the twelve required changes come first, fewer than nine of ten of all, or where a cause is called shown that is another.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from _planted_logs import CHANGES, DAYS, FIRST, FURTHER, Change, Spec, changed_spec, day, with_past_rate

CTR = Path(sys.executable).with_name("ctr")
KEY = "0123456789abcdef0123"
NEVER_WRONG = "shown"
LEAST_OF_REQUIRED, LEAST_SHARE = 10, 0.9


def base_spec() -> Spec:
    """The bundled marketplace, smaller, with windows of a day, without a simulator: its logs are read as anybody's."""
    spec: Spec = yaml.safe_load((Path(__file__).parents[1] / "specs" / "ads.yaml").read_text(encoding="utf-8"))
    spec["tasks"] = spec["tasks"][:2]
    spec["tasks"][1]["window"] = "1d"
    spec["features"]["history"] = [f for f in spec["features"]["history"] if f["task"] == "click"]
    spec["features"]["dense"].append({"name": "ad_rate_yesterday"})
    spec["split"] = {"test": {"days": 3}, "calibration": {"days": 2}, "validation": {"days": 1}}
    spec["training"] = {"epochs": 2, "batch_size": 512, "learning_rate": 0.003}
    spec["serving"] = {}
    del spec["label_quality"]
    del spec["evaluation"]
    return spec


def simulate(folder: Path) -> None:
    """Writes the logs of the marketplace into ``folder``."""
    spec: Spec = yaml.safe_load((Path(__file__).parents[1] / "specs" / "ads.yaml").read_text(encoding="utf-8"))
    spec["source"]["simulator"].update(
        first_day=FIRST.date(), days=DAYS + FURTHER, sessions_per_day=1500, users=2000, queries=500, advertisers=50, ads=400
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "simulator.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    call("simulate", "--spec", folder / "simulator.yaml", "--out", folder / "simulated")


def call(*arguments: object, key: str = KEY, may_refuse: bool = False) -> None:
    """Runs the command line as a user does.

    Raises:
        RuntimeError: it failed; a refused model is no failure where ``may_refuse``.
    """
    environment = {**os.environ, "CTR_PSEUDONYM_KEY": key, "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(
        [str(CTR), *map(str, arguments)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode not in ((0, 3) if may_refuse else (0,)):
        raise RuntimeError(f"ctr {arguments[0]}: exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def logs_of(folder: Path, change: Change) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The simulated logs with the change."""
    shown = pl.read_parquet(folder / "simulated" / "**" / "impressions" / "*.parquet")
    events = pl.read_parquet(folder / "simulated" / "**" / "events" / "*.parquet")
    end = day(change.days)
    shown = shown.filter(pl.col("ts") < end)
    events = events.join(shown.select("impression_id"), on="impression_id", how="semi")
    return change.logs(with_past_rate(shown, events), events)


def make(folder: Path, place: Path, change: Change) -> Path:
    """The folder of the retrain with ``change``, made unless it is there."""
    if found := sorted(place.glob("data/training/*/evaluation.json")):
        return found[-1].parent
    shutil.rmtree(place, ignore_errors=True)
    shown, events = logs_of(folder, change)
    for name, rows in (("impressions", shown), ("events", events)):
        (place / name).mkdir(parents=True)
        rows.write_parquet(place / name / "log.parquet")
    spec = changed_spec(base_spec(), change)
    spec["source"] = {
        "impressions": {"paths": ["impressions"], **spec["source"].get("impressions", {})},
        "events": [{"paths": ["events"], "ingest_time": "ingest_ts"}],
    }
    (place / "spec.yaml").write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")
    run = ("run", "--spec", place / "spec.yaml", "--data-root", place / "data")
    call(*run, key=change.key or KEY, may_refuse=True)
    if change.old_vocabulary:
        _with_old_vocabulary(place, run)
    return sorted(place.glob("data/training/*/evaluation.json"))[-1].parent


def _with_old_vocabulary(place: Path, run: Sequence[object]) -> None:
    """The ids as they were fitted on the first days of the log, and everything after them made again."""
    [dataset] = (place / "data" / "datasets").iterdir()
    path = dataset / "fitted" / "vocabulary.parquet"
    fitted = pl.read_parquet(path)
    # Of the rows that later days brought, nobody knew.
    known = fitted.with_columns(age=pl.col("first_day").rank("ordinal").over("feature") / pl.len().over("feature"))
    known = known.filter(pl.col("age") <= 0.5).drop("age").sort("feature", "row", maintain_order=True)
    order = pl.int_range(pl.len()).over("feature") + 2
    kept = known.with_columns(row=order.cast(fitted.schema["row"]), last_day=pl.col("first_day"))
    kept.write_parquet(path)
    layout = json.loads((dataset / "fitted" / "layout.json").read_text(encoding="utf-8"))
    counts = dict(kept.group_by("feature").len().iter_rows())
    for own in layout["ids"]:
        own["rows"] = counts.get(own["name"], 0) + 2
    (dataset / "fitted" / "layout.json").write_text(json.dumps(layout, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(dataset / "packed")
    shutil.rmtree(place / "data" / "training")
    call(*run, may_refuse=True)


def measure(folder: Path, changes: Sequence[Change]) -> list[dict[str, Any]]:
    """A row for each change: what was planted, the first cause, and whether it is right."""
    if not (folder / "simulated").is_dir():
        simulate(folder)
    before = make(folder, folder / "before", Change(name="before", expected={}))
    found = []
    for change in changes:
        place = folder / change.name.replace(" ", "_")
        try:
            after = make(folder, place, change)
            call("explain", before, after, "--json", place / "explain.json", "--html", place / "explain.html")
            causes = json.loads((place / "explain.json").read_text(encoding="utf-8"))["causes"]
        except RuntimeError as error:
            causes = [{"kind": "failed", "subject": "", "certainty": "", "sentence": str(error)[-300:]}]
        row = scored(change, causes)
        found.append(row)
        print(
            f"{row['planted']:26} {'required' if row['required'] else '':9} {'right' if row['right'] else 'WRONG':6}"
            f" {row['certainty']:9} {row['kind']}: {row['sentence']}",
            flush=True,
        )
    return found


def scored(change: Change, causes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The first cause beside what was planted."""
    first: Mapping[str, Any] = causes[0] if causes else {"kind": "none", "subject": "", "certainty": "", "sentence": ""}
    subjects = change.expected.get(first["kind"])
    right = subjects is not None and (not subjects or any(first["subject"].startswith(one) for one in subjects))
    # What is called shown must be what was planted, in whatever place.
    wrong_shown = [
        cause["sentence"]
        for cause in causes
        if cause["certainty"] == NEVER_WRONG
        and not any(
            cause["kind"] == kind and (not of or any(cause["subject"].startswith(one) for one in of))
            for kind, of in change.expected.items()
        )
    ]
    return {
        "planted": change.name,
        "required": change.required,
        "right": right,
        "wrong_shown": wrong_shown,
        **{name: first[name] for name in ("kind", "subject", "certainty", "sentence")},
    }


def main() -> None:
    """Runs the changes and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--required", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--assert", action="store_true", dest="strict")
    options = parser.parse_args()
    chosen = [
        c for c in CHANGES if (not options.only or c.name in options.only) and (c.required or not options.required)
    ]
    with tempfile.TemporaryDirectory() as temporary:
        found = measure((options.folder or Path(temporary)).resolve(), chosen)
    required = [row for row in found if row["required"]]
    right, wrong = sum(row["right"] for row in required), [row for row in found if row["wrong_shown"]]
    print(
        f"right: {right} of {len(required)} required, {sum(row['right'] for row in found)} of {len(found)} in all; "
        f"wrong and called shown: {len(wrong)}"
    )
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    all_right = sum(row["right"] for row in found)
    if options.strict and (
        right < min(LEAST_OF_REQUIRED, len(required)) or wrong or all_right < LEAST_SHARE * len(found)
    ):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
