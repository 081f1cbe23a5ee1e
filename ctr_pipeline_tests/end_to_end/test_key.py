"""A rotated key: every day is read again, and nothing of the old hashes fits the new ones."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import yaml
from polars.testing import assert_frame_equal

from ctr_pipeline.lake import Lake
from ctr_pipeline_tests.end_to_end.fixtures import CTR, environment

Run = Callable[..., "subprocess.CompletedProcess[str]"]

OLD, NEW = "old-key-0123456789abcdef", "new-key-0123456789abcdef"
HASHED = ("impression_id", "user", "session", "user_id")


@pytest.fixture(scope="module")
def spec(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few small days, too few for a training."""
    content = yaml.safe_load((project / "specs" / "ads.yaml").read_text(encoding="utf-8"))
    content["source"]["simulator"].update(days=6, sessions_per_day=300, users=300, queries=200, advertisers=30, ads=200)
    path = tmp_path_factory.mktemp("spec") / "short.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(config_home: Path) -> Run:
    def run(key: str, *arguments: object, expect: int = 0) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [str(CTR), *(str(argument) for argument in arguments)],
            env=environment(config_home, {"CTR_PSEUDONYM_KEY": key, "COLUMNS": "180"}),
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == expect, done.stderr[-3000:]
        return done

    return run


@pytest.mark.nightly
def test_a_new_key_reads_all_days_again_and_forgotten_users_have_to_be_named_again(
    run: Run, spec: Path, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    first = run(OLD, "run", "--spec", spec, "--data-root", root, expect=2)
    assert "too short to split" in first.stderr
    # What was read is printed, although the run failed.
    assert "impressions: " in first.stdout
    assert " rows in, " in first.stdout
    assert "another one than" not in first.stderr
    before = Lake(root / "lake").scan("impressions").collect()
    raw = pl.read_parquet(tmp_path / "simulated_logs" / "*" / "impressions" / "*.parquet")["user_id"].mode()[0]
    run(OLD, "forget", "--data-root", root, "--user", raw)

    rotated = run(NEW, "run", "--spec", spec, "--data-root", root, expect=2)

    assert "The key of the hashes is another one than that of the tables" in rotated.stderr
    assert "1 users were forgotten under another key" in rotated.stderr
    after = Lake(root / "lake").scan("impressions").collect()
    # The same rows in the same order of time, but for the ids, of which none is as it was.
    order = ["ts", "position"]
    old, new = (frame.sort(*order, "price", "ad_id") for frame in (before, after))
    assert_frame_equal(new.drop(HASHED), old.drop(HASHED))
    for column in HASHED:
        pairs = pl.DataFrame({"old": old[column], "new": new[column]}).unique()
        assert pairs["old"].n_unique() == pairs["new"].n_unique() == pairs.height
        assert not set(pairs["old"].drop_nulls()) & set(pairs["new"].drop_nulls())
    again = run(NEW, "run", "--spec", spec, "--data-root", root, expect=2)
    assert "another one than" not in again.stderr
    assert "Reading impressions" not in again.stderr

    run(NEW, "forget", "--data-root", root, "--user", raw)
    left = Lake(root / "lake").scan("impressions").collect()
    most = after["user"].mode()[0]
    assert left.height == after.filter(pl.col("user") != most).height < after.height
    # Purged with the rest: no version that was read under the old key is left.
    files = [path for path in (root / "lake" / "impressions").rglob("*") if path.is_file()]
    written = {user for path in files if path.suffix == ".parquet" for user in users_in(path)}
    assert set(left["user"]) <= written
    assert not set(old["user"]) & written
    entries = "".join(path.read_text(encoding="utf-8") for path in files if path.suffix == ".json")
    assert not any(user in entries for user in old["user"].unique().drop_nulls())


def users_in(path: Path) -> list[str]:
    """Hashes of users in a data file, or in the statistics of a checkpoint."""
    frame = pl.read_parquet(path, hive_partitioning=False)
    return (
        frame["user"].drop_nulls().to_list()
        if "user" in frame.columns
        else re.findall("[0-9a-f]{32}", str(frame.rows()))
    )
