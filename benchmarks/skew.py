"""Which skews the skew report names, with which kind, after how many requests; and what it names on clean days.

Each request is a page of impressions of the lake with its history as of the request, and goes through the service's own
endpoint (`POST /score`) into its log; a skew changes the request, or the vocabulary of the service. Ids in the lake are hashed
already, so the service does not hash here. The model must be older than the days, as one that serves is: make it with
`ctr run --to DAY`, and read the later days with the job `daily_ingest`.

- ``named``: the features that the report names with impression ids in the requests, and without; ``after``: the smallest of
  50, 100, 200, 500, 1,000 and 2,000 requests after which the planted feature is named with the planted kind;
- ``clean``: features that are named on clean days, of which there must be none.

Run from the checkout::

    python benchmarks/skew.py --data-root data/ads [--requests 2000] [--days 20] [--features 3] [--json FILE] [--assert]
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.lake import Lake
from ctr_pipeline.online.feature_log import FeatureLog, LogLimits
from ctr_pipeline.online.log_records import segments
from ctr_pipeline.online.logged_rows import SERVING_LOG_ORDER, fetch_segments
from ctr_pipeline.online.recomputed_inputs import read_replay_tables, replay_rows, sampled_impressions
from ctr_pipeline.online.skew_findings import DayReport, LoggedModel, ReplaySources, report_day
from ctr_pipeline.orchestration.logged_models import logged_models
from ctr_pipeline.serving import Bundle
from ctr_pipeline.serving.category_rows import Vocabulary
from ctr_pipeline.serving.http import Limits, ServedModel, ServedModels, ServiceMetrics, build_service

SIZES = (50, 100, 200, 500, 1000, 2000)
RECENT_DAYS, RECENT_ROWS = 7, 5000

Columns = dict[str, list[Any]]


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A skew: what it is called, where it is, how the report must call it, and how it changes a request or the service."""

    name: str
    feature: str
    kind: str
    change: Callable[[Columns, Columns], Columns] | None = None
    """The columns of all requests, and the same from a snapshot of the day before."""
    renamed: bool = False
    """Whether the service has the feature's rows in another order."""


class World:
    """A data root with a model and later days."""

    def __init__(self, data_root: Path) -> None:
        self.deployment = Deployment.load(data_root.resolve())
        self.spec, self.lake = self.deployment.spec, Lake(self.deployment.paths.lake)
        folder = max(data_root.glob("training/*/bundle"))
        self.bundle = Bundle.open(folder)
        self.logged: dict[str, LoggedModel] = logged_models(self.deployment.paths, {self.bundle.sha256})
        self.trained = date.fromisoformat(folder.parent.name)

    def days(self) -> list[date]:
        """Days after the model."""
        return [day for day in sorted(self.lake.rows_by_day("impressions")) if day > self.trained]

    def columns(self, day: date, requests: int, stale_days: int = 0) -> tuple[Columns, list[slice]]:
        """The first pages of a day as columns of raw values, and the rows of each."""
        shown = self.lake.scan("impressions", first=day, last=day).head(40 * requests).collect()
        page = [name for name in ("session", "user", "ts") if name in shown.columns]
        number = shown.select(pl.struct(page).rle_id())[:, 0].to_numpy()
        shown = shown.filter(number < requests)
        starts = np.flatnonzero(np.diff(number[: shown.height], prepend=-1))
        tables = read_replay_tables(self.spec, self.lake, shown["impression_id"], [day])
        rows = replay_rows(
            self.spec, tables, shown["impression_id"], shown["ts"].to_numpy(), self.bundle.layout, stale_days
        )
        names = [name for name in self.bundle.inputs if name in rows.columns and name != "ts"]
        plain = rows.select("ts", "impression_id", *names).with_columns(pl.col(pl.Float32, pl.Float64).fill_nan(None))
        ends = [*starts[1:].tolist(), shown.height]
        return plain.to_dict(as_series=False), [slice(a, b) for a, b in zip(starts.tolist(), ends, strict=True)]

    def sources(self, day: date, ids: Sequence[str | None]) -> ReplaySources:
        """What a report of the day compares with."""
        before = [day - timedelta(days=n) for n in range(RECENT_DAYS, 0, -1)]
        return ReplaySources(
            spec=self.spec,
            models=self.logged,
            tables=read_replay_tables(self.spec, self.lake, pl.Series(ids, dtype=pl.String), [day]),
            recent=sampled_impressions(self.spec, self.lake, before, RECENT_ROWS),
        )

    def serve(self, columns: Columns, pages: Sequence[slice], day: date, renamed: str | None = None) -> pl.DataFrame:
        """The rows of the log after all requests were answered."""
        from fastapi.testclient import TestClient

        model = replace(ServedModel.of(self.bundle, str), hashed={})
        if renamed is not None:
            model = replace(model, encoder=self._other_vocabulary(renamed).request_encoder())
        with tempfile.TemporaryDirectory() as folder:
            log = FeatureLog(
                Path(folder), LogLimits(rate=1.0, queue_bytes=2**40), pseudonym=str, now=lambda: 0,
                clock=time.monotonic, count=lambda _: None,
            )  # fmt: skip
            service = build_service(
                ServedModels.of(model), limits=Limits(), token=None, clock=time.perf_counter, metrics=ServiceMetrics(),
                version="0", request_log=log,
            )  # fmt: skip
            with TestClient(service) as client:
                for page in pages:
                    answer = client.post("/score", json=_body(columns, page))
                    assert answer.status_code == 200, answer.text
            log.close()
            return fetch_segments(segments(Path(folder)), [day]).rows.sort(SERVING_LOG_ORDER)

    def _other_vocabulary(self, feature: str) -> Bundle:
        """The bundle with the values of a feature under the rows of others, as of another training."""
        rows = self.bundle.vocabulary[feature]
        order = sorted(rows, key=rows.__getitem__)
        turned = {key: rows[other] for key, other in zip(order, order[1:] + order[:1], strict=True)}
        return replace(self.bundle, vocabulary=Vocabulary({**self.bundle.vocabulary, feature: turned}))


def _body(columns: Columns, page: slice) -> dict[str, Any]:
    """The request of a page: what all its impressions have in common once."""
    own = {name: values[page] for name, values in columns.items()}
    same = [name for name, values in own.items() if name != "impression_id" and all(v == values[0] for v in values)]
    return {
        "shared": {name: own[name][0] for name in same},
        "candidates": {name: values for name, values in own.items() if name not in same},
    }


def planted(world: World, columns: Columns, most: int) -> list[Planted]:
    """Skews of every kind on up to ``most`` features each, those whose values let the kind be seen."""
    layout = world.bundle.layout
    numbers = [n.feature for n in layout.numeric if not n.is_element]
    varied = [f for f in numbers if len(set(columns[f])) > 20]
    missing = [f for f in numbers if 0.005 < _missing(columns[f]) < 0.95]
    history = [n.feature for n in layout.numeric if n.group == "history" and not n.is_element]
    ids = [c.name for c in layout.ids if c.pooled is None and len(set(columns[c.name])) > 1]
    hours = [c for c in ids if {str(v) for v in columns[c] if v is not None} <= {str(n) for n in range(24)}
             and "hour" in c]  # fmt: skip
    found = [
        Planted(name="unit ×100", feature=f, kind="unit", change=_each(f, lambda v: v * 100)) for f in varied[:most]
    ]
    found += [
        Planted(name="missing → 0", feature=f, kind="zero for missing", change=_filled(f)) for f in missing[:most]
    ]
    found += [
        Planted(name="log1p left out", feature=f, kind="transform left out", change=_each(f, _log1p))
        for f in varied[-most:]
    ]
    found += [
        Planted(name="stale snapshot", feature=f, kind="stale snapshot", change=_older(f)) for f in history[:most]
    ]
    found += [
        Planted(name="shifted hour", feature=f, kind="shifted hour", change=_each(f, lambda v: str((int(v) + 1) % 24)))
        for f in hours[:most]
    ]
    found += [Planted(name="other vocabulary", feature=f, kind="vocabulary", renamed=True) for f in ids[:most]]
    found += [
        Planted(name="constant", feature=f, kind="constant", change=_each(f, lambda _: 7.0)) for f in varied[:most]
    ]
    found += [
        Planted(name="left out", feature=f, kind="missing", change=_each(f, lambda _: None)) for f in varied[-most:]
    ]
    return found


def _missing(values: Sequence[Any]) -> float:
    return sum(value is None for value in values) / max(1, len(values))


def _each(feature: str, change: Callable[[Any], Any]) -> Callable[[Columns, Columns], Columns]:
    return lambda given, _: {**given, feature: [None if v is None else change(v) for v in given[feature]]}


def _filled(feature: str) -> Callable[[Columns, Columns], Columns]:
    return lambda given, _: {**given, feature: [0.0 if v is None else v for v in given[feature]]}


def _older(feature: str) -> Callable[[Columns, Columns], Columns]:
    return lambda given, then: {**given, feature: then[feature]}


def _log1p(value: float) -> float:
    return float(np.sign(value) * np.log1p(abs(value)))


def first_requests(rows: pl.DataFrame, count: int) -> pl.DataFrame:
    """The rows of the first requests."""
    return rows.filter(pl.struct("segment", "record").rle_id() < count)


def without_ids(rows: pl.DataFrame) -> pl.DataFrame:
    """The same log where no request named its impressions."""
    return rows.with_columns(impression_id=pl.lit(None, pl.String))


def measured(world: World, day: date, requests: int, most: int) -> Iterator[dict[str, Any]]:
    """A row for each skew."""
    columns, pages = world.columns(day, requests)
    then, _ = world.columns(day, requests, stale_days=1)
    sources = world.sources(day, columns["impression_id"])
    for skew in planted(world, columns, most):
        changed = columns if skew.change is None else skew.change(columns, then)
        rows = world.serve(changed, pages, day, skew.feature if skew.renamed else None)
        sizes = [size for size in SIZES if size < len(pages)] + [len(pages)]
        reports = {size: report_day(day, first_requests(rows, size), sources) for size in sizes}
        last = reports[sizes[-1]]
        alone = report_day(day, without_ids(rows), sources)
        yield {
            "skew": skew.name,
            "feature": skew.feature,
            "named": _named(last),
            "after": next((size for size in sizes if _names(reports[size], skew)), None),
            "false": sorted(set(_named(last)) - {skew.feature}),
            "without_ids": _named(alone).get(skew.feature, "–"),
            "false_without_ids": sorted(set(_named(alone)) - {skew.feature}),
        }


def _named(report: DayReport) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in report.findings:
        found.setdefault(one.feature, f"{one.kind} {one.detail}".strip())
    return found


def _names(report: DayReport, skew: Planted) -> bool:
    return any(one.feature == skew.feature and one.kind == skew.kind for one in report.findings)


def clean(world: World, day: date, requests: int) -> dict[str, Any]:
    """What is named on a day as it is, with impression ids and without."""
    columns, pages = world.columns(day, requests)
    rows, sources = world.serve(columns, pages, day), world.sources(day, columns["impression_id"])
    with_ids, alone = report_day(day, rows, sources), report_day(day, without_ids(rows), sources)
    return {
        "day": str(day),
        "requests": with_ids.requests,
        "recomputed": with_ids.replayed_features,
        "largest_score_difference": with_ids.largest_score_difference,
        "named": _named(with_ids),
        "named_without_ids": _named(alone),
    }


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("data/ads"))
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--days", type=int, default=20)
    parser.add_argument("--features", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--assert", action="store_true", dest="must")
    options = parser.parse_args()
    world = World(options.data_root)
    days = world.days()
    if not days:
        sys.exit(f"{options.data_root}: no days after {world.trained}, of which the model is")
    skews, wrong = [], 0
    print(f"{'skew':18}{'feature':26}{'named as':44}{'after':>6}  without impression ids")
    for row in measured(world, days[len(days) // 2], options.requests, options.features):
        skews.append(row)
        wrong += row["after"] is None or bool(row["false"]) or bool(row["false_without_ids"])
        print(f"{row['skew']:18}{row['feature']:26}{row['named'].get(row['feature'], '–'):44}"
              f"{row['after'] or '–':>6}  {row['without_ids']}"
              + (f"  FALSE: {row['false']} {row['false_without_ids']}" if row["false"] or row["false_without_ids"] else ""),
              flush=True)  # fmt: skip
    clear = []
    for day in days[: options.days]:
        row = clean(world, day, options.requests)
        clear.append(row)
        wrong += bool(row["named"]) or bool(row["named_without_ids"])
        print(f"clean {row['day']}: {row['requests']} requests, {row['recomputed']} rows computed again, scores differ by up to "
              f"{row['largest_score_difference']:.1e}, named {row['named']} {row['named_without_ids']}", flush=True)  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps({"skews": skews, "clean": clear}, indent=1) + "\n", encoding="utf-8")
    if options.must and wrong:
        sys.exit(f"{wrong} lines are not as they must be")


if __name__ == "__main__":
    main()
