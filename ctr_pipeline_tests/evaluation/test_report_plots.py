import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ctr_pipeline.evaluation import drawing
from ctr_pipeline.evaluation.delay_plot import delay_plot
from ctr_pipeline.evaluation.interval_plots import (
    Estimates,
    days_plot,
    forest_plot,
    position_curves,
)
from ctr_pipeline.evaluation.ranking_plots import gain_curve, gain_plot, lift_plot
from ctr_pipeline.labels.outcome_delays import OutcomeDelays
from ctr_pipeline_tests.evaluation.test_plots import Y, Z, has_colour, pixels

DAYS = ["2026-02-27", "2026-02-28", "2026-03-01"]
THREE = Estimates([0.9, 1.0, 1.2], [0.8, None, 1.1], [1.0, 1.3, 1.3])
UNKNOWN = Estimates([None], [None], [None])
DELAYS = OutcomeDelays(start="impression", window=3600.0, counts=(5, 0, 3, *[0] * 30, 9), outside=1)
NOBODY = OutcomeDelays(start="impression", window=3600.0, counts=(), outside=0)
NO_OUTCOME = np.zeros(5), np.zeros(5, dtype=np.int8)


def days(of: Estimates) -> bytes:
    series = {"click": of, "order": of}
    return days_plot(DAYS[: len(of.values)], series, reference=1.0, meaning="observed / expected", title="t")


def slices(of: Estimates, names: list[str]) -> bytes:
    marked = [name == "b" for name in names]
    return forest_plot(names, of, marked, meaning="observed / expected", marked_as="stands out", title="t")


DRAWINGS: dict[str, Callable[[], bytes]] = {
    "gain": lambda: gain_plot({"click": (Z, Y), "order": (-Z, Y)}, title="t"),
    "lift": lambda: lift_plot({"click": (Z, Y), "order": (-Z, Y)}, title="t"),
    "days": lambda: days(THREE),
    "positions": lambda: position_curves([1, 2, 3], {"a": THREE, "b": THREE}, title="t"),
    "slices": lambda: slices(THREE, ["a", "b", "c"]),
    "delays": lambda: delay_plot({"click": DELAYS, "order": DELAYS}, title="t"),
}
EMPTY: dict[str, Callable[[], bytes]] = {
    "gain": lambda: gain_plot({"click": NO_OUTCOME}, title="t"),
    "lift": lambda: lift_plot({"click": NO_OUTCOME}, title="t"),
    "days": lambda: days(UNKNOWN),
    "positions": lambda: position_curves([1], {"a": UNKNOWN}, title="t"),
    "slices": lambda: slices(UNKNOWN, ["a"]),
    "delays": lambda: delay_plot({"click": NOBODY}, title="t"),
}
ONE: dict[str, Callable[[], bytes]] = {
    "gain": lambda: gain_plot({"click": (np.zeros(1), np.ones(1, dtype=np.int8))}, title="t"),
    "lift": lambda: lift_plot({"click": (np.zeros(1), np.ones(1, dtype=np.int8))}, title="t"),
    "days": lambda: days(Estimates([1.0], [float("nan")], [None])),
    "positions": lambda: position_curves([1], {"a": Estimates([1.0], [1.0], [1.0])}, title="t"),
    "slices": lambda: slices(Estimates([0.0], [0.0], [30.0]), ["a"]),
    "delays": lambda: delay_plot(
        {"click": OutcomeDelays(start="click", window=60.0, counts=(1,), outside=0)}, title="t"
    ),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_pictures_are_small_sharp_repeatable_and_show_two_series(name: str) -> None:
    png = DRAWINGS[name]()
    assert len(png) < 60_000
    assert png == DRAWINGS[name]()
    picture = pixels(png)
    assert picture.shape[1] == round(drawing.NARROW[0] * drawing.SHARP)
    assert has_colour(picture, drawing.BLUE)
    assert has_colour(picture, drawing.ORANGE)


@pytest.mark.parametrize("name", EMPTY)
def test_without_data_there_is_a_sentence(name: str) -> None:
    empty = pixels(EMPTY[name]())
    assert not has_colour(empty, drawing.BLUE)
    assert has_colour(empty, drawing.GREY, least=3)


@pytest.mark.parametrize("name", ONE)
def test_one_value_is_enough(name: str) -> None:
    assert has_colour(pixels(ONE[name]()), drawing.BLUE)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["$5-$10", "$x_{", "日本", "a_b^c", "€ 5 🚲"])
def test_names_are_drawn_as_they_are(name: str) -> None:
    slices(THREE, [name, "b", "c"])
    days_plot(DAYS, {name: THREE}, reference=1.0, meaning=name, title=name)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.sampled_from([-1, 0, 1])), min_size=1, max_size=30))
def test_a_gain_is_the_mean_over_all_orders_of_equal_scores(rows: list[tuple[int, int]]) -> None:
    logits, labels = np.array([z for z, _ in rows], dtype=np.float64), np.array([y for _, y in rows], dtype=np.int8)
    curve = gain_curve(logits, labels)
    known = labels >= 0
    logits, labels = logits[known], labels[known]
    if not labels.sum():
        assert curve is None
        return
    assert curve is not None
    looked, found = curve
    for count in range(len(labels) + 1):
        # A row has its place among those of its score in equal shares, so that each counts by its chance to be looked at.
        expected = 0.0
        for z in np.unique(logits):
            above, same = int((logits > z).sum()), int((logits == z).sum())
            expected += labels[logits == z].sum() * min(max(count - above, 0), same) / same
        at = np.interp(count / len(labels), looked, found)
        assert at == pytest.approx(expected / labels.sum(), abs=1e-12)


@pytest.mark.parametrize("name", ["order", "a_task_whose_name_is_as_long_as_names_of_tasks_may_be_at_the_most"])
def test_title_and_legend_are_not_cut_off(name: str) -> None:
    """The last columns of the picture are white."""
    title = f"Slices of {name}"
    cut = forest_plot(
        ["v" * 90], Estimates([1.1], [0.9], [1.3]), [True], meaning="m", marked_as="stands out", title=title
    )
    for png in (cut, gain_plot({name: (Z, Y), f"{name}_2": (Z, Y)}, title=title)):
        assert (pixels(png)[:, -4:] == 255).all()
        assert (pixels(png)[:, :4] == 255).all()


def test_a_long_name_keeps_its_end() -> None:
    cut = drawing.shortened("missing time since the last purchase: present", 30)
    assert len(cut) == 30
    assert cut.startswith("missing time")
    assert cut.endswith(": present")
    assert drawing.shortened("position: 4", 30) == "position: 4"


def test_pictures_are_png_files() -> None:
    with Image.open(io.BytesIO(DRAWINGS["slices"]())) as image:
        assert image.format == "PNG"
