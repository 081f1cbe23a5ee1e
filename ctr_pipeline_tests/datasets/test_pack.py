import hashlib
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from ctr_pipeline.datasets import (
    SPLITS,
    DatasetError,
    PackedDataset,
    Tables,
    build_examples,
    fit_propensity,
    fit_vocabulary,
    pack_dataset,
    split_watermarks,
)
from ctr_pipeline.labels import label_impressions
from ctr_pipeline_tests.datasets.logs import DAY, FIRST, HOUR, SPEC, START, Log, a_log, a_spec, pack

TASKS = ("click", "buy")


def expected_rows(log: Log, packed: PackedDataset, name: str) -> pl.DataFrame:
    """The split's impressions with labels made from scratch as of its own instant; -1 outside the task's own part."""
    spec, bounds = a_spec(), log.bounds(a_spec())
    as_of = bounds.label_as_of(name)
    within = {task: pl.col("ts").is_between(*bounds.interval(name, task), closed="left") for task in TASKS}
    if name in ("train", "refit"):
        ends = {task: bounds.interval(name, task)[1] for task in TASKS}
        held = [pl.col("ts").is_between(ends[t], of.settled_end, closed="left") for t, of in bounds.tasks.items()]
        within = {task: own & ~pl.any_horizontal(held) for task, own in within.items()}
    rows = log.impressions.filter(pl.any_horizontal(within.values()), pl.col("ingest_ts") <= as_of)
    frames = log.impressions.lazy(), log.events.lazy()
    labels = label_impressions(*frames, spec.tasks, as_of, spec.split.ingest_lag).collect()
    value = pl.when(pl.col("state").str.contains("POSITIVE")).then(1)
    value = value.when(pl.col("state") == "CENSORED").then(-1).otherwise(0)
    wide = labels.with_columns(y=value).pivot("task", index="impression_id", values="y")
    joined = rows.join(wide, on="impression_id", how="left").sort("ts", "impression_id")
    return joined.with_columns(pl.when(own).then(task).otherwise(-1).alias(task) for task, own in within.items())


@pytest.mark.parametrize("name", [*SPLITS, "refit"])
def test_arrays_hold_what_the_tables_say(log: Log, packed: PackedDataset, name: str) -> None:
    split, expected = packed.splits[name], expected_rows(log, packed, name)
    order = np.argsort(split.ts, kind="stable")
    np.testing.assert_array_equal(split.ts[order], expected["ts"].to_numpy())
    np.testing.assert_array_equal(split.labels[order], expected.select(TASKS).to_numpy())
    np.testing.assert_array_equal(split.numeric[order, 0], expected["price"].cast(pl.Float32).to_numpy())
    np.testing.assert_array_equal(split.position[order], expected["position"].fill_null(0).to_numpy())
    np.testing.assert_array_equal(split.random[order], (expected["traffic"] == "random").fill_null(False).to_numpy())
    assert ((split.ids[order, 0] == 0) == expected["ad"].is_null().to_numpy()).all()
    assert len(split) < log.impressions.height * 0.6


def test_late_clicks_make_the_label_of_the_split_differ_from_the_final_one(log: Log, packed: PackedDataset) -> None:
    """Otherwise the test above could not tell labels as of the test's start from labels as of today."""
    train = expected_rows(log, packed, "train")
    frames = log.impressions.lazy(), log.events.lazy()
    final = label_impressions(*frames, a_spec().tasks, log.end, a_spec().split.ingest_lag).collect()
    states = final.filter(pl.col("task") == "click").select("impression_id", "state")
    joined = train.join(states, on="impression_id")
    assert (joined["state"] == "LATE_POSITIVE").any()


def test_a_pair_of_a_row_and_a_task_lies_in_one_part(log: Log, packed: PackedDataset) -> None:
    shown = log.impressions.height
    for column in range(len(TASKS)):
        parts = [packed.splits[name] for name in SPLITS]
        times = [split.ts[split.labels[:, column] >= 0] for split in parts]
        assert len(np.unique(np.concatenate(times))) == sum(map(len, times)) < shown
    # What validates or calibrates the purchase, days before the click does, does not teach the click.
    held = [packed.splits[name].ts for name in ("validation", "calibration")]
    assert len(np.intersect1d(packed.splits["train"].ts, np.concatenate(held))) == 0


def test_maturity_longest_gives_all_tasks_the_parts_of_the_slowest(
    log: Log, packed: PackedDataset, tmp_path: Path
) -> None:
    spec = a_spec(SPEC.replace("split:\n", "split:\n  maturity: longest\n"))
    bounds, by_task = log.bounds(spec), log.bounds(a_spec())
    assert bounds.tasks["click"] == bounds.tasks["buy"] == by_task.tasks["buy"] != by_task.tasks["click"]
    longest = pack(tmp_path / "d", log, spec)
    for name, split in longest.splits.items():
        assert ((split.labels[:, 0] >= 0) | (split.labels[:, 1] < 0)).all()
        own = packed.splits[name]
        assert sorted(split.ts[split.labels[:, 1] >= 0]) == sorted(own.ts[own.labels[:, 1] >= 0])


def test_early_outcomes_of_rows_that_are_not_settled_count_nowhere(log: Log, tmp_path: Path) -> None:
    """Rows of which only the positives are known would teach a rate that is far too high."""
    spec, bounds = a_spec(), log.bounds(a_spec())
    open_at_test = pl.col("ts").is_between(bounds.tasks["buy"].settled_end, bounds.test_start, closed="left")
    known = log.events.filter(pl.col("event") == "buy", pl.col("ingest_ts") <= bounds.test_start)
    early = known.join(log.impressions.filter(open_at_test), on="impression_id", how="semi")
    assert early.height > 5
    without = replace(log, events=log.events.join(early, on=["impression_id", "event"], how="anti"))
    both = [pack(tmp_path / name, made, spec) for name, made in (("with", log), ("without", without))]
    for name in ("train", "validation", "calibration", "refit"):
        one, other = (dataset.splits[name] for dataset in both)
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.weights, other.weights)


def test_train_is_shuffled_within_days_and_the_rest_is_in_order(log: Log, packed: PackedDataset) -> None:
    for name, split in packed.splits.items():
        in_order = bool((np.diff(split.ts) >= 0).all())
        assert in_order == (name not in ("train", "refit"))
        assert (np.diff(split.ts // DAY) >= 0).all()


def test_another_seed_shuffles_otherwise(log: Log, packed: PackedDataset, tmp_path: Path) -> None:
    other = pack(tmp_path / "d", log, a_spec(SPEC + "seed: 8\n"))
    mine, theirs = packed.splits["train"], other.splits["train"]
    assert mine.ts.tolist() != theirs.ts.tolist()
    assert sorted(mine.ts.tolist()) == sorted(theirs.ts.tolist())


def test_codes_group_the_rows_of_a_user(log: Log, packed: PackedDataset) -> None:
    split, expected = packed.splits["test"], expected_rows(log, packed, "test")
    who = pl.coalesce("user", "session").alias("who")
    found = expected.with_columns(who, code=split.user)
    named = found.drop_nulls("who")
    assert named["who"].n_unique() == named["code"].n_unique() == named.unique(["who", "code"]).height > 5
    assert (named["code"] >= 0).all()
    assert (found.filter(pl.col("who").is_null())["code"] == -1).all()


def test_weights_are_those_of_the_table_with_mean_1_over_train(log: Log, packed: PackedDataset) -> None:
    spec, tables = a_spec(), log.tables(a_spec())
    table = fit_propensity(spec, log.bounds(spec), tables.impressions, tables.labels)
    by_position = {entry.position: entry.weight for entry in table.positions}
    assert set(by_position) == {1, 2, 3}
    scale = None
    for name, split in packed.splits.items():
        expected = expected_rows(log, packed, name)
        weights = [
            by_position.get(position, 1.0) if traffic == "production" else 1.0
            for position, traffic in expected.select("position", "traffic").rows()
        ]
        order = np.argsort(split.ts, kind="stable")
        scale = scale or np.mean(weights)
        np.testing.assert_allclose(split.weights[order, 0], np.array(weights) / scale, rtol=1e-6)
        assert (split.weights[:, 1] == 1).all()
    assert packed.splits["train"].weights[:, 0].mean(dtype=np.float64) == pytest.approx(1, abs=1e-6)
    assert packed.splits["train"].weights[:, 0].std() > 0.01


def test_weighting_none_ignores_the_table(log: Log, tmp_path: Path) -> None:
    plain = pack(tmp_path / "d", log, a_spec(SPEC.replace("weighting: ips, ", "")))
    assert all((split.weights == 1).all() for split in plain.splits.values())


WEIGHTED = SPEC.replace("  position: p\n", "  position: p\n  weight: w\n")


def weighted(log: Log) -> Log:
    """The log with a weight a row: 0 for every fifth, else up to 30."""
    weights = [0.0 if n % 5 == 0 else (n * 7919 % 61) / 2 for n in range(log.impressions.height)]
    return replace(log, impressions=log.impressions.with_columns(weight=pl.Series(weights)))


@pytest.mark.parametrize("section", ["weighting: ips, ", ""])
def test_weights_of_rows_multiply_the_others(log: Log, packed: PackedDataset, tmp_path: Path, section: str) -> None:
    rows = weighted(log)
    theirs = pack(tmp_path / "w", rows, a_spec(WEIGHTED.replace("weighting: ips, ", section)))
    scales = None
    for name, split in theirs.splits.items():
        expected = expected_rows(rows, theirs, name)
        order = np.argsort(split.ts, kind="stable")
        others = packed.splits[name].weights if section else np.ones_like(split.weights)
        assert (split.ts == packed.splits[name].ts).all()
        raw = others[order].astype(np.float64) * expected["weight"].to_numpy()[:, None]
        if scales is None:
            settled = split.labels[order] >= 0
            scales = (raw * settled).sum(axis=0) / settled.sum(axis=0)
        np.testing.assert_allclose(split.weights[order], raw / scales, rtol=1e-5)
    train = theirs.splits["train"]
    for task in range(2):
        assert train.weights[train.labels[:, task] >= 0, task].mean(dtype=np.float64) == pytest.approx(1, abs=1e-6)
    assert theirs.manifest()["row_weighting"] == "w"
    # Weights change the loss, and nothing else that is packed.
    for array in ("numeric", "ids", "labels"):
        np.testing.assert_array_equal(getattr(train, array), getattr(packed.splits["train"], array))


def test_equal_weights_of_rows_are_none(log: Log, packed: PackedDataset, tmp_path: Path) -> None:
    rows = replace(log, impressions=log.impressions.with_columns(weight=pl.lit(12.5)))
    theirs = pack(tmp_path / "w", rows, a_spec(WEIGHTED))
    for name, split in theirs.splits.items():
        np.testing.assert_allclose(split.weights, packed.splits[name].weights, rtol=1e-6)


def test_rows_that_all_weigh_nothing_are_refused(log: Log, tmp_path: Path) -> None:
    rows = replace(log, impressions=log.impressions.with_columns(weight=pl.lit(0.0)))
    with pytest.raises(DatasetError, match=r"all rows with a label of click, buy have weight 0.*`impression.weight`"):
        pack(tmp_path / "w", rows, a_spec(WEIGHTED))


def test_manifest_says_what_was_packed(log: Log, packed: PackedDataset) -> None:
    manifest = packed.manifest()
    assert manifest["versions"] == {"impressions": 3}
    assert manifest["bounds"]["as_of"] == "2026-03-15T00:00:00Z"
    for name, split in packed.splits.items():
        summary = manifest["splits"][name]
        assert (summary["rows"], summary["mature_share"]) == (len(split), 1.0)
        for column, task in enumerate(TASKS):
            states = summary["states"][task]
            positives = states["POSITIVE"] + states["LATE_POSITIVE"]
            assert positives == int((split.labels[:, column] == 1).sum()) > 0
            counts = summary["tasks"][task]
            start, end = manifest["bounds"]["tasks"][task]["train_start"], manifest["bounds"]["test_end"]
            assert start <= counts["start"] < counts["end"] <= end
            assert counts["positives"] == positives
            assert counts["settled"] == int((split.labels[:, column] >= 0).sum())
            assert counts["rows"] == sum(states.values()) == counts["settled"] + counts["censored"]
    for file, digest in manifest["sha256"].items():
        assert hashlib.sha256((packed.directory / file).read_bytes()).hexdigest() == digest
    assert len(manifest["sha256"]) == 5 * 8


def test_the_same_tables_make_the_same_bytes(log: Log, packed: PackedDataset, tmp_path: Path) -> None:
    tables = log.tables(a_spec())
    turned = Tables(
        impressions=tables.impressions.reverse(), labels=tables.labels.reverse(), history=tables.history.reverse()
    )
    again = pack(tmp_path / "d", log, a_spec(), turned)
    files = sorted(path.relative_to(packed.directory) for path in packed.directory.rglob("*") if path.is_file())
    assert len(files) == 5 * 8 + 3
    for file in files:
        assert (packed.directory / file).read_bytes() == (again.directory / file).read_bytes(), file


def test_nothing_after_the_test_began_reaches_training(log: Log, packed: PackedDataset, tmp_path: Path) -> None:
    """Every other outcome, and every later impression, may change: layout, vocabulary and train stay as they are."""
    t0 = log.bounds(a_spec()).test_start
    late = pl.col("ingest_ts") > t0
    other = Log(
        log.impressions.with_columns(
            price=pl.when(late).then(pl.col("price") * 100).otherwise("price"),
            ad=pl.when(late).then(pl.lit("new")).otherwise("ad"),
        ),
        log.events.filter(~late),
    )
    changed = pack(tmp_path / "d", other, a_spec())
    assert changed.layout == packed.layout
    for name in ("train", "validation", "calibration", "refit"):
        for array, values in packed.splits[name].arrays().items():
            np.testing.assert_array_equal(values, changed.splits[name].arrays()[array], err_msg=f"{name} {array}")
    assert not np.array_equal(packed.splits["test"].labels, changed.splits["test"].labels)


def test_examples_are_the_same_on_duckdb(log: Log) -> None:
    spec, tables = a_spec(), log.tables(a_spec())
    connection = duckdb.connect()
    relations = [
        connection.from_arrow(frame.collect().to_arrow())
        for frame in (tables.impressions, tables.labels, tables.history)
    ]
    mine = build_examples(spec, tables.impressions, tables.labels, tables.history, log.end).collect()
    theirs = build_examples(spec, relations[0], relations[1], relations[2], log.end).pl()
    assert {"ad_rate", "y_click", "y_buy"} <= set(mine.columns)
    assert mine["y_buy"].null_count() > 0
    assert_frame_equal(mine.sort("impression_id"), theirs.sort("impression_id"))


def refused(tmp_path: Path, log: Log, tables: Tables, match: str) -> None:
    spec, good = a_spec(), log.tables(a_spec())
    layout, vocabulary = fit_vocabulary(spec, log.bounds(spec), good.impressions, good.history)
    with pytest.raises(DatasetError, match=match):
        pack_dataset(tmp_path / "d", spec, log.bounds(spec), tables, layout, vocabulary, None, {})


def test_labels_made_before_they_matured_are_refused(log: Log, tmp_path: Path) -> None:
    refused(tmp_path, log, log.tables(a_spec(), START + 3 * DAY + HOUR), "before they matured.*Materialise")


def test_absent_labels_are_refused(log: Log, tmp_path: Path) -> None:
    tables = log.tables(a_spec())
    gone = FIRST + timedelta(days=2)
    refused(tmp_path, log, replace(tables, labels=tables.labels.filter(pl.col("day") != gone)), f"{gone} are absent")


def test_labels_of_other_impressions_are_refused(log: Log, tmp_path: Path) -> None:
    tables = log.tables(a_spec())
    fewer = tables.impressions.filter(pl.col("impression_id") != log.impressions["impression_id"][100])
    refused(tmp_path, log, replace(tables, impressions=fewer), "read again since")


def test_absent_impressions_are_refused(log: Log, tmp_path: Path) -> None:
    tables = log.tables(a_spec())
    start, end = log.bounds(a_spec()).intervals["validation"]
    absent = replace(tables, impressions=tables.impressions.filter(~pl.col("ts").is_between(start, end)))
    refused(tmp_path, log, absent, "split validation: no impressions")


def test_repeated_impressions_are_refused(log: Log, tmp_path: Path) -> None:
    tables = log.tables(a_spec())
    twice = replace(tables, history=pl.concat([tables.history, tables.history]))
    refused(tmp_path, log, twice, "not unique")


def test_a_used_folder_is_refused(log: Log, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "file").touch()
    refused(tmp_path, log, log.tables(a_spec()), "not empty")


def test_manifest_is_json_without_paths_of_this_machine(packed: PackedDataset) -> None:
    text = (packed.directory / "manifest.json").read_text()
    assert json.loads(text)
    assert str(packed.directory) not in text


@pytest.mark.parametrize(
    ("features", "shape"),
    [
        ("dense: [{name: price}]", (1, 0)),
        ("categorical: [{name: ad}]", (0, 1)),
        ("categorical: [{name: ad}]\n  history: [{name: seen, kind: count, key: user, days: 2}]", (1, 1)),
    ],
)
def test_a_log_may_have_inputs_of_one_kind_only(tmp_path: Path, features: str, shape: tuple[int, int]) -> None:
    head, _, tail = SPEC.partition("features:\n")
    spec = a_spec(f"{head}features:\n  {features}\n{tail[tail.index('tasks:') :]}")
    packed = pack(tmp_path / "packed", a_log(), spec)
    assert (packed.splits["train"].numeric.shape[1], packed.splits["train"].ids.shape[1]) == shape


def test_negatives_that_a_stopped_log_may_have_missed_are_no_labels(log: Log, tmp_path: Path) -> None:
    """The shop's log stops for the last days before the test; the site's goes on."""
    spec, bounds = a_spec(), log.bounds(a_spec())
    stop = bounds.test_start - 3 * DAY
    in_shop = pl.col("event") == "buy"
    events = log.events.with_columns(source_log=pl.when(in_shop).then(pl.lit("shop")).otherwise(pl.lit("site")))
    events = events.filter(~in_shop | (pl.col("ingest_ts") < stop) | (pl.col("ingest_ts") >= bounds.test_start))
    stopped = replace(log, events=events)
    watermarks = split_watermarks(spec, bounds, events.lazy())
    assert set(watermarks) == {*SPLITS, "refit"}
    assert watermarks["test"] == {"click": bounds.as_of, "buy": bounds.as_of}
    # Up to a usual silence after its last arrival.
    assert watermarks["train"]["click"] == bounds.test_start
    assert stop - DAY < watermarks["train"]["buy"] < stop + DAY

    tables = stopped.tables(spec)
    blind = pack(tmp_path / "blind", stopped, spec, tables)
    packed = pack(tmp_path / "packed", stopped, spec, tables, watermarks)
    missed = 0
    for name in watermarks:
        beyond = packed.splits[name].ts + 36 * HOUR > watermarks[name]["buy"]
        before, after = blind.splits[name].labels, packed.splits[name].labels
        np.testing.assert_array_equal(before[:, 0], after[:, 0])
        np.testing.assert_array_equal(np.where(beyond & (before[:, 1] == 0), -1, before[:, 1]), after[:, 1])
        awaiting = packed.manifest()["splits"][name]["awaiting_data"]
        assert awaiting == {"click": 0, "buy": int((before[:, 1] != after[:, 1]).sum())}
        missed += awaiting["buy"]
    assert missed > 50


def test_keys_of_the_metrics_are_packed_as_codes(log: Log, tmp_path: Path) -> None:
    keyed = Log(
        log.impressions.with_columns(
            cluster_key=pl.col("user"), group_key=pl.when(pl.col("ad") != "ad3").then(pl.col("session"))
        ),
        log.events,
    )
    spec = a_spec(SPEC + "evaluation: {group_by: request, cluster_by: household}\n")
    found = pack(tmp_path / "keyed", keyed, spec)
    for name, split in found.splits.items():
        rows = expected_rows(keyed, found, name)
        order = np.argsort(split.ts, kind="stable")
        assert split.group is not None
        for codes, column in ((split.group[order], "group_key"), (split.user[order], "cluster_key")):
            np.testing.assert_array_equal(codes == -1, rows[column].is_null().to_numpy())
            # Equal codes where, and only where, the keys are.
            pairs = set(zip(codes.tolist(), rows[column].to_list(), strict=True))
            assert len(pairs) == len(set(codes.tolist())) == rows[column].n_unique() > 2
    assert "test/group.npy" in found.manifest()["sha256"]


def test_rows_without_a_group_have_no_array_of_codes(packed: PackedDataset) -> None:
    assert packed.splits["test"].group is None
    assert "test/group.npy" not in packed.manifest()["sha256"]
