"""A million rows, and whole runs of the command line, on each engine: the stored tables are the same to the bit."""

import subprocess
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.engines.base import Engine, EngineName
from ctr_pipeline.features import HISTORY_ORDER, history_for_days
from ctr_pipeline.labels import TABLE_ORDER, facts_in, label_table, labels_of
from ctr_pipeline.lake import Lake
from ctr_pipeline.simulator import write_days
from ctr_pipeline.sources import Pseudonymiser, read_events, read_impressions
from ctr_pipeline.spec import Spec, parse_spec
from ctr_pipeline.spec.fields import DAY_US
from ctr_pipeline_tests.end_to_end.fixtures import Finished
from ctr_pipeline_tests.engine_sessions import Session, bits, collected

Ctr = Callable[..., "subprocess.CompletedProcess[str]"]

SIZE = 1_000_000
HOUR = DAY_US // 24
FIRST = date(2026, 1, 1)
DAYS = [FIRST + timedelta(days=n) for n in range(10)]


def microseconds(day: date) -> int:
    return (day - date(1970, 1, 1)).days * DAY_US


@pytest.fixture(scope="module")
def spec(project: Path) -> Spec:
    """The default marketplace with windows that close within the ten days, and every kind of history."""
    text = (project / "specs" / "ads.yaml").read_text(encoding="utf-8").replace("window: 14d", "window: 3d")
    more = [
        "  history:",
        "    - {name: seen_3d, kind: count, key: user, days: 3}",
        "    - {name: age, kind: first_seen, key: ad_id, days: 9}",
        "    - {name: carts_5d, kind: count, key: category_id, task: add_to_cart, days: 5}\n",
    ]
    return parse_spec(text.replace("  history:\n", "\n".join(more)), "ads.yaml")


@pytest.fixture(scope="module")
def lake(spec: Spec, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A million simulated impressions, and rows at every edge between them."""
    root = tmp_path_factory.mktemp("million")
    simulator = spec.source.simulator
    assert simulator is not None
    simulator = simulator.model_copy(update={"first_day": FIRST, "days": 10, "sessions_per_day": SIZE // 50})
    write_days(simulator, spec.seed, DAYS, root)
    shown_files = sorted((root / "impressions").glob("*.parquet"))
    event_files = {"outcome_events": sorted((root / "events").glob("*.parquet"))}
    key = Pseudonymiser(b"a key for these tests")
    shown = read_impressions(spec, shown_files, DAYS[0], DAYS[-1], key, FIRST).kept
    events = read_events(spec, shown_files, event_files, DAYS[0], DAYS[-1], key, FIRST).kept
    assert shown.height == SIZE
    events = events.select("day", "impression_id", "event", "kind", "event_ts", "ingest_ts")
    shown, events = with_edges(shown, events)
    lake = Lake(root / "lake")
    lake.replace_days("impressions", shown.sort("day", "ts", "impression_id"), DAYS)
    lake.replace_days("outcome_events", events.sort("day", "ingest_ts"), events["day"].unique().to_list())
    return lake


def with_edges(shown: pl.DataFrame, events: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Numbers at their limits, odd keys and ids, and events at, before and after each edge of their windows."""
    rows = shown.gather_every(997)

    def in_turn(values: Sequence[object], name: str) -> pl.Series:
        return pl.Series(name, [values[n % len(values)] for n in range(rows.height)], shown.schema[name])

    limits = [float("nan"), float("inf"), -float("inf"), -0.0, None, -1.5, 5e-324]
    odd = ["", " ", "é", "日本", "\U0001f600", "'\"\\\n", None]
    rows = rows.with_columns(
        *(in_turn(limits, name) for name in ("price", "rating")),
        *(in_turn(odd, name) for name in ("user", "ad_id", "query_id", "category_id")),
    )
    midnight = pl.col("ts") - pl.col("ts") % DAY_US
    rows = pl.concat(
        named(part, name)
        for name, part in (
            ("edge", rows),
            ("midnight", rows.head(100).with_columns(ts=midnight, ingest_ts=midnight)),
            ("late", rows.head(100).with_columns(ingest_ts=pl.col("ts") + 40 * HOUR)),
        )
    )
    made = []
    for task, delays in (
        ("click", [-1, 0, 1, DAY_US - 1, DAY_US, DAY_US + 1, 2 * DAY_US]),
        ("add_to_cart", [0, HOUR, 3 * DAY_US - 1, 3 * DAY_US, 3 * DAY_US + 1, 4 * DAY_US]),
        ("checkout", [-1, 2 * HOUR, 3 * DAY_US, 3 * DAY_US + 1]),
    ):
        for turn, delay in enumerate(delays):
            for offset, (kind, lag) in enumerate(
                (("outcome", 0), ("outcome", 30 * HOUR), ("closed", 9), ("unknown", 5))
            ):
                at = pl.col("ts") + delay
                known = pl.max_horizontal(at, "ingest_ts") + lag
                some = rows.gather_every(11, (3 * turn + offset) % 11)
                made.append(
                    some.select("impression_id", event=pl.lit(task), kind=pl.lit(kind), event_ts=at, ingest_ts=known)
                )
    more = pl.concat(made)
    more = pl.concat([more, more.gather_every(5), named(more.head(500), "nobody")])
    more = more.with_columns(day=pl.from_epoch("ingest_ts", "us").dt.date()).select(events.columns)
    return pl.concat([shown, rows.select(shown.columns)]), pl.concat([events, more])


def named(rows: pl.DataFrame, name: str) -> pl.DataFrame:
    """``rows`` with ids of their own."""
    return rows.with_columns(impression_id=pl.format("{} {}", pl.lit(name), pl.int_range(pl.len())))


def computed(engine: Engine, lake: Lake, spec: Spec) -> dict[str, pl.DataFrame]:
    """Labels, dense labels of an earlier instant and history, through the engine's own reading and writing."""
    as_of, lag = microseconds(DAYS[-1]) + DAY_US - 1, spec.split.ingest_lag
    shown, events = engine.scan(lake, "impressions"), engine.scan(lake, "outcome_events", last=DAYS[-1])
    labels, history = f"labels_{engine.name}", f"history_{engine.name}"
    engine.replace_days(lake, labels, label_table(shown, events, spec.tasks, as_of, lag), DAYS, TABLE_ORDER)
    engine.replace_days(lake, history, history_for_days(spec, shown, events, DAYS[5:]), DAYS[5:], HISTORY_ORDER)
    dense = labels_of(shown, facts_in(engine.scan(lake, labels)), spec.tasks, as_of - 12 * HOUR, lag)
    engine.replace_days(lake, f"dense_{engine.name}", dense, DAYS, ("impression_id", "task"))
    return {name: bits(lake.scan(f"{name}_{engine.name}").collect()) for name in ("labels", "history", "dense")}


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["duckdb", "spark"])
def test_a_million_rows_and_their_edges(lake: Lake, spec: Spec, sessions: Session, name: EngineName) -> None:
    expected = computed(sessions("polars"), lake, spec)
    assert expected["dense"].height > 2.7 * SIZE
    assert expected["dense"]["state"].n_unique() == 5
    assert set(expected["history"]["feature"]) == {feature.name for feature in spec.features.history}
    found = computed(sessions(name), lake, spec)
    for table, frame in found.items():
        assert frame.schema == expected[table].schema
        assert_frame_equal(frame, expected[table])
    read = collected(sessions(name).scan(lake, "impressions")).sort("impression_id")
    assert_frame_equal(bits(read), bits(lake.scan("impressions").collect().sort("impression_id")))


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["polars", "spark"])
def test_a_whole_run_gives_the_same_tables(
    finished: Finished, ctr: Ctr, tmp_path: Path, name: EngineName, sessions: Session
) -> None:
    sessions(name)  # Skips without Spark.
    root = tmp_path / "data"
    ctr("run", "--spec", finished.spec, "--data-root", root, "--engine", name)
    assert Deployment.load(root).engine == name
    ours, theirs = Lake(root / "lake"), Lake(finished.data_root / "lake")
    for table in ("labels", "history"):
        found, expected = ours.scan(table).collect(), theirs.scan(table).collect()
        assert expected.height > 1000
        assert found.schema == expected.schema
        assert_frame_equal(bits(found), bits(expected))
    # A second run with another engine finds everything made.
    done = ctr("run", "--spec", finished.spec, "--data-root", root)
    assert ours.version("labels") == Lake(root / "lake").version("labels")
    assert "Labelled" not in done.stdout + done.stderr
