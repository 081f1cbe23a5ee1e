"""Labels that are words, codes or counts, and positions from 0: read as declared, refused with the setting otherwise."""

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from ctr_pipeline.sources import ReadResult, SourceError
from ctr_pipeline.sources.rows import RAW
from ctr_pipeline.sources.values import label
from ctr_pipeline.spec.tasks import Label

Maker = Callable[..., Any]
Reader = Callable[..., ReadResult]

YES_NO = Label(column="clicked", positive=["Yes"], negative=["No"])
YES = Label(column="clicked", positive=["Yes", 3, True])
COUNTS = Label(column="clicked", counts="positive")
PLAIN = Label(column="clicked")

LABELS: list[tuple[Label, list[Any], list[int | None], list[bool]]] = [
    (YES_NO, ["Yes", " No", None, "", "yes"], [1, 0, None, None, None], [False, False, False, False, True]),
    (YES, ["Yes", "3.0", "TRUE", "Canceled", "4", "", None], [1, 1, 1, 0, 0, None, None], [False] * 7),
    (YES, [3.0, 4.0, float("nan"), None], [1, 0, None, None], [False] * 4),
    (
        Label(column="clicked", positive=[2], negative=[1]),
        [1, 2, 3, 0, None],
        [0, 1, None, None, None],
        [False, False, True, True, False],
    ),
    (Label(column="clicked", positive=[False]), [True, False, None], [0, 1, None], [False] * 3),
    (COUNTS, [0, 1, 2, 70, -1, None], [0, 1, 1, 1, None, None], [False, False, False, False, True, False]),
    (COUNTS, ["0", "2.0", "0.5", "inf", "x"], [0, 1, 1, None, None], [False, False, False, True, True]),
    (PLAIN, ["0", "1.0", "true", "2", "1.5", "-1", "Yes"], [0, 1, 1, None, None, None, None], [False] * 3 + [True] * 4),
]


@pytest.mark.parametrize(("declared", "values", "expected", "bad"), LABELS)
def test_labels(declared: Label, values: list[Any], expected: list[int | None], bad: list[bool]) -> None:
    column = pl.Series(RAW + "clicked", values)
    parsed, checks = label(declared, column.dtype, "here")
    broken = pl.any_horizontal([pl.lit(False), *(check.broken.fill_null(False) for check in checks)])
    found = column.to_frame().with_columns(parsed.alias("label"), broken.alias("bad"))
    assert found["label"].to_list() == expected
    assert found["bad"].to_list() == bad


@pytest.mark.parametrize("name", ["log.parquet", "log.csv", "log.ndjson"])
@pytest.mark.parametrize("counts", [10, 12])
def test_counts_are_not_dropped_without_a_word(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, name: str, counts: int
) -> None:
    log = write(make_log(rows=40, clicked=[2] * counts + [0, 1] * ((40 - counts) // 2)), name)
    with pytest.raises(SourceError, match=rf"{counts} values of column `clicked`.*such as '2'.*`counts: positive`"):
        read(make_spec(), log)
    task = {"name": "click", "window": "0s", "label": {"column": "clicked", "counts": "positive"}}
    assert read(make_spec(tasks=[task]), log).kept.height == 40


def test_few_counts_are_set_aside(make_spec: Maker, make_log: Maker, write: Maker, read: Reader) -> None:
    result = read(make_spec(), write(make_log(rows=40, clicked=[2] * 9 + [0] * 31)))
    assert result.quarantined["reason"].to_list() == ["bad_label"] * 9
    assert "set `counts: positive`" in result.quarantined["rule"][0]


def test_a_share_of_counts_that_changes_little_is_set_aside(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader
) -> None:
    clicked = [2] * 10 + [1] * 990
    at = [1_767_571_200_000_000 + n for n in range(1000)]
    assert read(make_spec(), write(make_log(rows=1000, at=at, clicked=clicked))).quarantined.height == 10
    with pytest.raises(SourceError, match="counts: positive"):
        read(make_spec(), write(make_log(rows=1000, at=at, clicked=[2, *clicked[1:-1], 2])))


@pytest.mark.parametrize(("yes", "no"), [("Yes", "No"), ("click", "skip"), ("Y", "N")])
def test_a_label_of_words_names_the_value_and_the_remedy(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, yes: str, no: str
) -> None:
    with pytest.raises(SourceError, match=rf"such as '{yes}'.*mean yes in `label\.positive`"):
        read(make_spec(), write(make_log(clicked=[yes, no] * 12)))


EXPOSED = {"id": "id", "time": "at", "user": "who", "position": "slot"}


@pytest.mark.parametrize("name", ["log.parquet", "log.csv", "log.ndjson"])
@pytest.mark.parametrize("kind", [pl.Int64, pl.Float64])
def test_positions_from_zero(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, name: str, kind: Any
) -> None:
    log = write(make_log(slot=pl.Series([0, 1] * 12, dtype=kind)), name)
    with pytest.raises(SourceError, match="positions seem to start at 0: set `first_position: 0`"):
        read(make_spec(impression=EXPOSED), log)
    assert read(make_spec(impression=EXPOSED | {"first_position": 0}), log).kept["position"].to_list() == [1, 2] * 12


@pytest.mark.parametrize(
    ("first", "slots", "stored"),
    [
        (0, ["0", "-1", "1", None], [1, 2, None]),
        (1, ["0", "-1", "1", None], [1, None]),
        (2, ["1", "2", "3", "1.5"], [1, 2]),
    ],
)
def test_single_bad_positions_are_set_aside(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, first: int, slots: list[Any], stored: list[Any]
) -> None:
    result = read(make_spec(impression=EXPOSED | {"first_position": first}), write(make_log(rows=4, slot=slots)))
    assert result.kept["position"].to_list() == stored
    assert set(result.quarantined["reason"]) == {"bad_position"}
