"""What was read is what is recorded, and no stored day is lost when files come and go."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
import yaml

from ctr_pipeline.deployment import raw_logs
from ctr_pipeline.deployment.binding import bind
from ctr_pipeline.lake import Lake
from ctr_pipeline.orchestration.build import build_definitions
from ctr_pipeline.orchestration.fingerprints import TAG, FingerprintInputs
from ctr_pipeline.orchestration.in_process import PipelineError, run_days
from ctr_pipeline.orchestration.records import REMARKS, newest_metadata, newest_tags
from ctr_pipeline.orchestration.stages import stage
from ctr_pipeline.spec import load_spec

INGESTED = ("impressions", "outcome_events")
START = datetime(2026, 1, 1, tzinfo=UTC)
PER_DAY = 20


def rows(day: int, start: int = 0, stop: int = PER_DAY, **columns: Any) -> pl.DataFrame:
    """Impressions ``start`` to ``stop`` of a day of January; every fourth is clicked."""
    number = range(start, stop)
    made = {
        "id": [f"{day}-{n}" for n in number],
        "time": [START + timedelta(days=day - 1, minutes=30 * n) for n in number],
        "price": [float(n) for n in number],
        "clicked": [int(n % 4 == 0) for n in number],
    }
    return pl.DataFrame(made | columns)


@dataclass
class Shop:
    """A log with a file a day, and the data root that is made of it."""

    folder: Path
    instance: dg.DagsterInstance
    spec: dict[str, Any] = field(default_factory=dict)

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def write(self, name: str, *frames: pl.DataFrame) -> Path:
        path = self.logs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pl.concat(frames).write_parquet(path)
        return path

    def run(self, meanwhile: Callable[[], object] = lambda: None) -> list[str]:
        """Reads what `ctr run` would read, and gives the remarks; ``meanwhile`` happens once the files are known."""
        (self.folder / "spec.yaml").write_text(yaml.safe_dump(self.spec), encoding="utf-8")
        spec = load_spec(self.folder / "spec.yaml")
        deployment, last = bind(spec, self.folder / "spec.yaml", [], self.folder / "data")
        deployment.save()
        meanwhile()
        inputs = FingerprintInputs(deployment=deployment, instance=self.instance, last=last)
        wanted = [deployment.first_day + timedelta(days=n) for n in range((last - deployment.first_day).days + 1)]
        stale = {
            day
            for asset in INGESTED
            for day in wanted
            if newest_tags(self.instance, asset, TAG).get(day) != stage(asset).fingerprint(inputs)
        }
        if stale:
            run_days(build_definitions(deployment), self.instance, "daily_ingest", INGESTED, sorted(stale))
        found = newest_metadata(self.instance, "impressions")
        return list(dict.fromkeys(remark for day in wanted for remark in found[day].get(REMARKS, [])))

    def stored(self, table: str = "impressions") -> dict[int, int]:
        """Rows of each day of January."""
        counts = Lake(self.folder / "data" / "lake").scan(table).group_by("day").len().collect()
        return {day.day: count for day, count in sorted(counts.iter_rows())}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setenv("CTR_PSEUDONYM_KEY", "0123456789abcdef")
    spec = {
        "version": 1,
        "name": "shop",
        "source": {"impressions": {"paths": ["logs"]}},
        "impression": {"id": "id", "time": "time"},
        "features": {"dense": [{"name": "price"}]},
        "tasks": [{"name": "click", "window": "1d", "label": {"column": "clicked"}}],
    }
    with dg.DagsterInstance.ephemeral() as instance:
        made = Shop(tmp_path, instance, spec)
        for day in range(1, 5):
            made.write(f"{day:02}.parquet", rows(day))
        yield made


WHOLE = dict.fromkeys(range(1, 5), PER_DAY)


def test_a_file_that_lands_during_a_run_is_read_by_the_next(shop: Shop) -> None:
    shop.run(meanwhile=lambda: shop.write("b.parquet", rows(4, 20, 30), rows(2, 20, 25)))
    assert shop.stored() == WHOLE
    shop.run()
    assert shop.stored() == {1: 20, 2: 25, 3: 20, 4: 30}
    assert shop.stored("outcome_events") == {1: 5, 2: 7, 3: 5, 4: 8}


def test_a_file_that_lands_between_two_steps_of_a_page_is_read_by_neither(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page's processes have no listing of a command: that of the first step holds for the whole run."""
    read = raw_logs.read_log
    shop.run()
    shop.write("b.parquet", rows(3, 20, 30))

    def landing(deployment: Any, logs: Any, table: str, *rest: Any) -> Any:
        result = read(deployment, logs, table, *rest)
        shop.write("c.parquet", rows(3, 30, 40))
        return result

    monkeypatch.setattr("ctr_pipeline.orchestration.assets.ingest.read_log", landing)
    from ctr_pipeline.deployment.deployment import Deployment

    page = Deployment.load(shop.folder / "data")
    assert page.logs is None
    run_days(build_definitions(page), shop.instance, "daily_ingest", INGESTED, [date(2026, 1, 3)])
    assert (shop.stored()[3], shop.stored("outcome_events")[3]) == (30, 8)
    monkeypatch.undo()
    monkeypatch.setenv("CTR_PSEUDONYM_KEY", "0123456789abcdef")
    shop.run()
    assert (shop.stored()[3], shop.stored("outcome_events")[3]) == (40, 10)


def test_a_file_that_changes_while_it_is_read_is_refused(shop: Shop) -> None:
    with pytest.raises(PipelineError, match=r"02\.parquet: was written to while its log was being read"):
        shop.run(meanwhile=lambda: shop.write("02.parquet", rows(2, 0, 10)))
    assert not Lake(shop.folder / "data" / "lake").exists("impressions")
    shop.run()
    assert shop.stored() == {1: 20, 2: 10, 3: 20, 4: 20}


def rotate(shop: Shop) -> None:
    for day in (1, 2):
        (shop.logs / f"{day:02}.parquet").unlink()


def pack_into_one(shop: Shop) -> None:
    for day in (1, 2, 3):
        (shop.logs / f"{day:02}.parquet").unlink()
    shop.write("packed/01-03.parquet", *(rows(day) for day in (1, 2, 3)))


def move(shop: Shop) -> None:
    shutil.move(shop.logs, shop.folder / "elsewhere")
    (shop.folder / "logs").mkdir()
    shutil.move(shop.folder / "elsewhere", shop.logs / "archive")


def take_from_the_middle(shop: Shop) -> None:
    (shop.logs / "03.parquet").unlink()


def take_the_last(shop: Shop) -> None:
    (shop.logs / "04.parquet").unlink()


def add_and_rotate(shop: Shop) -> None:
    rotate(shop)
    shop.write("05.parquet", rows(5), rows(4, 20, 22))


KEPT = {
    "rotate": (rotate, WHOLE, "2 days from 2026-01-01 to 2026-01-02 stay as read before"),
    "add_and_rotate": (add_and_rotate, WHOLE | {4: 22, 5: 20}, "2 days from 2026-01-01 to 2026-01-02 stay"),
    "take_from_the_middle": (take_from_the_middle, WHOLE, "2026-01-03 stays as read before"),
    "take_the_last": (take_the_last, WHOLE, "2026-01-04 stays as read before"),
    "pack_into_one": (pack_into_one, WHOLE, None),
    "move": (move, WHOLE, None),
}


@pytest.mark.parametrize(
    ("name", "ids"), [*((name, True) for name in KEPT), ("rotate", False), ("pack_into_one", False)]
)
def test_stored_days_stay_when_files_go(shop: Shop, name: str, ids: bool) -> None:
    change, expected, remark = KEPT[name]
    if not ids:
        shop.spec["impression"]["id"] = None
    shop.run()
    change(shop)
    for _ in range(2):  # Once more, when nothing has changed since.
        remarks = shop.run()
        assert shop.stored() == expected
        assert [remark in text for text in remarks] == ([True] if remark else [])
        stored = Lake(shop.folder / "data" / "lake").scan("impressions").collect()
        assert stored["impression_id"].n_unique() == stored.height
    # What comes later finds the earlier days as they are.
    shop.write("06.parquet", rows(6))
    shop.run()
    assert shop.stored() == expected | {6: 20}


def test_a_day_of_which_a_part_is_left_stays_whole(shop: Shop) -> None:
    shop.write("03.parquet", rows(3), rows(2, 10, 20))
    shop.write("02.parquet", rows(2, 0, 10))
    # A row that belongs to no day counts to the first day that is read.
    shop.write("04.parquet", rows(4), rows(9, 0, 1, time=[None]).cast({"time": pl.Datetime("us", "UTC")}))
    shop.run()
    rotate(shop)
    [remark] = shop.run()
    assert shop.stored() == WHOLE
    assert "2 days from 2026-01-01 to 2026-01-02 stay" in remark
    assert shop.stored("impressions_quarantine") == {1: 1, 3: 1}


def test_an_id_of_a_day_whose_file_is_gone_is_still_known(shop: Shop) -> None:
    shop.write("04.parquet", rows(4), rows(4, 20, 21, id=["1-3"]))
    shop.run()
    rotate(shop)
    shop.run()
    assert shop.stored() == WHOLE


def new_rows_of_a_gone_day(shop: Shop) -> None:
    rotate(shop)
    shop.write("05.parquet", rows(5), rows(2, 20, 21))


def other_contract(shop: Shop) -> None:
    rotate(shop)
    shop.spec["features"] = {"dense": [{"name": "price", "minimum": 0}]}


def part_of_a_new_file(shop: Shop) -> None:
    """A day that was stored at noon; then its file goes, and the afternoon comes in another."""
    (shop.logs / "04.parquet").unlink()
    shop.write("04-b.parquet", rows(4, 15, 48))


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (new_rows_of_a_gone_day, ["2026-01-02", "02.parquet", "05.parquet has rows of it that are new"]),
        (other_contract, ["2026-01-01", "01.parquet", "the spec, or the key", "`days.first`"]),
        (part_of_a_new_file, ["2026-01-04", "04.parquet", "04-b.parquet has rows of it that are new"]),
    ],
)
def test_a_day_that_can_neither_stay_nor_be_read_is_refused(
    shop: Shop, change: Callable[[Shop], None], parts: list[str]
) -> None:
    shop.run()
    change(shop)
    with pytest.raises(PipelineError) as caught:
        shop.run()
    assert [part for part in parts if part not in str(caught.value)] == []
    assert shop.stored() == WHOLE


def test_a_file_that_was_emptied_leaves_its_days(shop: Shop) -> None:
    shop.spec["source"]["impressions"]["paths"] = ["logs/current.parquet"]
    shop.write("current.parquet", rows(1), rows(2))
    shop.run()
    shop.write("current.parquet", rows(3))
    [remark] = shop.run()
    assert shop.stored() == {1: 20, 2: 20, 3: 20}
    assert "2 days from 2026-01-01 to 2026-01-02 stay" in remark
    shop.write("current.parquet", rows(3), rows(4))
    shop.run()
    assert shop.stored() == WHOLE


def test_without_ids_an_emptied_file_is_refused(shop: Shop) -> None:
    """Its rows would have the names of those that it held before."""
    shop.spec["impression"]["id"] = None
    shop.spec["source"]["impressions"]["paths"] = ["logs/current.parquet"]
    shop.write("current.parquet", rows(1), rows(2))
    shop.run()
    shop.write("current.parquet", rows(3))
    with pytest.raises(PipelineError, match="Rotate files by giving them new names"):
        shop.run()
    assert shop.stored() == {1: 20, 2: 20}


def test_a_corrected_file_is_read_as_it_is(shop: Shop) -> None:
    shop.run()
    shop.write("03.parquet", rows(3, 0, 12))
    assert shop.run() == []
    assert shop.stored() == WHOLE | {3: 12}


def test_days_first_leaves_out_days_whose_files_are_gone(shop: Shop) -> None:
    shop.run()
    rotate(shop)
    shop.spec["days"] = {"first": date(2026, 1, 3)}
    assert shop.run() == []


def test_a_corrected_spec_moves_the_days_of_files_that_are_all_there(shop: Shop) -> None:
    """With a wrong unit the log lies in other days; these are not taken for days whose files are gone."""
    for day in range(1, 5):
        frame = rows(day)
        shop.write(f"{day:02}.parquet", frame.with_columns(pl.col("time").dt.epoch("us")))
    shop.spec["impression"]["time_unit"] = "ns"
    with pytest.raises(Exception, match="usable"):
        shop.run()
    shop.spec["impression"]["time_unit"] = "us"
    shop.spec["time_zone"] = "UTC"
    shop.run()
    assert shop.stored() == WHOLE


def test_events_whose_files_are_gone_stay(shop: Shop) -> None:
    """The impressions of these days are still there: their outcomes must not become negatives."""
    shop.spec["source"]["events"] = [{"name": "clicks", "paths": ["clicks"]}]
    shop.spec["tasks"] = [{"name": "click", "window": "1d", "label": {"event": "click"}}]
    (shop.folder / "clicks").mkdir()
    for day in range(1, 5):
        clicked = rows(day).filter(pl.col("clicked") == 1)
        clicked.select(
            impression_id="id", event_type=pl.lit("click"), event_ts=pl.col("time") + timedelta(minutes=1)
        ).write_csv(shop.folder / "clicks" / f"{day}.csv", datetime_format="%Y-%m-%dT%H:%M:%SZ")
    shop.run()
    assert shop.stored("outcome_events") == dict.fromkeys(range(1, 5), 5)
    (shop.folder / "clicks" / "1.csv").unlink()
    (shop.folder / "clicks" / "3.csv").unlink()
    shop.run()
    assert shop.stored("outcome_events") == dict.fromkeys(range(1, 5), 5)
    assert shop.stored() == WHOLE
    found = newest_metadata(shop.instance, "outcome_events")[date(2026, 1, 3)]
    assert "2 days from 2026-01-01 to 2026-01-03 stay" in found[REMARKS][0]
