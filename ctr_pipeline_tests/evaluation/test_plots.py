import io
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from scipy import special

from ctr_pipeline.evaluation import drawing, plots, reliability


def rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    z = rng.normal(-4, 1.5, 20_000)
    return z, (rng.random(len(z)) < special.expit(z)).astype(np.int8)


def steps(n: int) -> list[dict[str, float]]:
    rng = np.random.default_rng(1)
    return [{"step": i, "loss": 0.3 + 1 / (i + 1) + rng.normal(0, 0.02), "grad_norm": rng.gamma(2)} for i in range(n)]


Z, Y = rows()
NOTHING = np.full(5, -1, dtype=np.int8)
DRAWINGS: dict[str, Callable[[], bytes]] = {
    "reliability": lambda: plots.reliability_plot({"raw": reliability(Z - 1, Y), "now": reliability(Z, Y)}, title="t"),
    "precision_recall": lambda: plots.precision_recall_plot(Z, Y, title="t"),
    "scores": lambda: plots.score_histogram(Z, Y, title="t"),
    "loss": lambda: plots.loss_curve(steps(5000), [{"step": 4999, "loss": 0.31}], title="t"),
    "norms": lambda: plots.gradient_norm_plot(
        [*steps(5000), {"step": 5000, "grad_norm": float("nan")}], clip_norm=10.0, title="t"
    ),
    "propensity": lambda: plots.propensity_plot([1, 2, 3], [900, 800, 0], [40, 0, 0], response="click", title="t"),
}
EMPTY: dict[str, Callable[[], bytes]] = {
    "reliability": lambda: plots.reliability_plot({"now": ()}, title="t"),
    "precision_recall": lambda: plots.precision_recall_plot(np.zeros(5), NOTHING, title="t"),
    "scores": lambda: plots.score_histogram(np.zeros(5), NOTHING, title="t"),
    "loss": lambda: plots.loss_curve([{"step": 0, "loss": None}], title="t"),
    "norms": lambda: plots.gradient_norm_plot([], clip_norm=None, title="t"),
    "propensity": lambda: plots.propensity_plot([], [], [], response="click", title="t"),
}


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        assert image.info.keys() <= {"dpi"}
        return np.asarray(image.convert("RGB")).astype(int)


def has_colour(picture: np.ndarray, colour: str, least: int = 15) -> bool:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(picture - wanted).max(axis=2) <= 12).sum()) >= least


@pytest.mark.parametrize("name", DRAWINGS)
def test_pictures_are_small_repeatable_and_show_the_data(name: str) -> None:
    png = DRAWINGS[name]()
    assert len(png) < 60_000
    assert png == DRAWINGS[name]()
    assert has_colour(pixels(png), drawing.BLUE)
    empty = pixels(EMPTY[name]())
    assert not has_colour(empty, drawing.BLUE)
    assert has_colour(empty, drawing.GREY, least=3)


@pytest.mark.parametrize(
    ("name", "colour"),
    [("reliability", drawing.ORANGE), ("scores", drawing.ORANGE), ("loss", drawing.ORANGE), ("norms", drawing.RED)],
)
def test_second_series_is_visible(name: str, colour: str) -> None:
    assert has_colour(pixels(DRAWINGS[name]()), colour)


@pytest.mark.parametrize("count", [1, 2])
def test_one_row_and_one_step_are_enough(count: int) -> None:
    y = np.ones(count, dtype=np.int8)
    plots.precision_recall_plot(np.zeros(count), y, title="t")
    plots.score_histogram(np.zeros(count), y, title="t")
    plots.reliability_plot({"now": reliability(np.zeros(count), y)}, title="t")
    plots.loss_curve(steps(count), title="t")
    plots.gradient_norm_plot(steps(count), clip_norm=1.0, title="t")


def test_bytes_are_the_same_in_another_process() -> None:
    code = (
        "import sys; from ctr_pipeline.evaluation import plots\n"
        "png = plots.propensity_plot([1, 2], [90, 80], [4, 1], response='click', title='t')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "sys.stdout.buffer.write(png)"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert other == plots.propensity_plot([1, 2], [90, 80], [4, 1], response="click", title="t")
