import io

import numpy as np
from PIL import Image

from ctr_pipeline.evaluation.drawing import BLUE, ORANGE, PURPLE
from ctr_pipeline.evaluation.funnel_plot import MOST_POINTS, funnel_plot
from ctr_pipeline.labels.population import RatePopulation

POPULATION = RatePopulation(alpha=400.0, beta=500.0, outlier_share=0.01)
TRIALS = np.geomspace(10, 2000, 200).astype(np.int64)
PLAUSIBLE = (0.44 * TRIALS).astype(np.int64)


def draw(trials: np.ndarray, positives: np.ndarray, population: RatePopulation | None = POPULATION) -> bytes:
    return funnel_plot(trials, positives, population, threshold=2.5, least=10, counted="click", title="t")


def dots(png: bytes, colour: str) -> int:
    with Image.open(io.BytesIO(png)) as image:
        picture = np.asarray(image.convert("RGB")).astype(int)
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(picture - wanted).max(axis=2) <= 12).sum())


def test_outliers_are_drawn_in_their_colours() -> None:
    plain = draw(TRIALS, PLAUSIBLE)
    high = draw(np.append(TRIALS, [300] * 3), np.append(PLAUSIBLE, [290, 295, 299]))
    low = draw(np.append(TRIALS, [300] * 3), np.append(PLAUSIBLE, [3, 9, 15]))
    assert dots(plain, BLUE) > 200
    # The legend shows each colour once.
    assert dots(high, ORANGE) > 1.5 * dots(plain, ORANGE) > 0
    assert dots(low, PURPLE) > 1.5 * dots(plain, PURPLE) > 0
    assert dots(low, ORANGE) == dots(plain, ORANGE)


def test_pictures_are_small_and_repeatable_whatever_the_number_of_keys() -> None:
    random = np.random.default_rng(1)
    trials = random.integers(1, 5000, 20 * MOST_POINTS)
    positives = random.binomial(trials, 0.44)
    png = draw(trials, positives)
    assert len(png) < 60_000
    assert png == draw(trials, positives)


def test_nobody_judged_is_said() -> None:
    for png in (draw(TRIALS, PLAUSIBLE, None), draw(np.array([9]), np.array([3])), draw(np.array([]), np.array([]))):
        assert dots(png, BLUE) == 0
        assert len(png) > 500


def test_one_key_is_enough() -> None:
    assert dots(draw(np.array([10]), np.array([4])), BLUE) > 0
