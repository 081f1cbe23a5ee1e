"""A model of several tasks beside a control: paired intervals and what follows from them."""

import numpy as np
import pytest

from ctr_pipeline.evaluation.metrics import normalised_entropy, roc_auc
from ctr_pipeline.evaluation.task_comparison import compare_by_value, compare_with_controls

RANDOM = np.random.default_rng(5)
USERS = RANDOM.integers(0, 400, 4000)
TRUTH = RANDOM.normal(size=4000) - 2
LABELS = (RANDOM.random(4000) < 1 / (1 + np.exp(-TRUTH))).astype(np.int8)
LABELS[:100] = -1


def noisy(size: float, seed: int) -> np.ndarray:
    return TRUTH + size * np.random.default_rng(seed).normal(size=4000)


def test_figures_are_means_over_seeds_and_differences_are_paired() -> None:
    sides = {"multi-task": [noisy(0.5, 1), noisy(0.5, 2)]}
    control = [noisy(0.1, 3), noisy(0.1, 4)]
    (found,) = compare_with_controls("cart", sides, control, LABELS, USERS)
    auc = [roc_auc(logits, LABELS) for logits in [*sides["multi-task"], *control]]
    ne = [normalised_entropy(logits, LABELS) for logits in [*sides["multi-task"], *control]]
    assert found.auc == pytest.approx((auc[0] + auc[1]) / 2)
    assert found.control_ne == pytest.approx((ne[2] + ne[3]) / 2)
    assert found.auc_difference.value == pytest.approx((auc[0] + auc[1] - auc[2] - auc[3]) / 2)
    assert found.ne_by_seed == pytest.approx((ne[0] - ne[2], ne[1] - ne[3]))
    assert found.positives == int((LABELS == 1).sum())
    assert found.verdict == "worse"
    assert found.to_json()["ne_difference"]["low"] > 0


def test_better_even_and_one_seed_that_says_otherwise() -> None:
    def verdict(sizes: tuple[float, ...], of_control: tuple[float, ...]) -> str:
        sides = {"multi-task": [noisy(size, n) for n, size in enumerate(sizes)]}
        control = [noisy(size, 10 + n) for n, size in enumerate(of_control)]
        return compare_with_controls("cart", sides, control, LABELS, USERS)[0].verdict

    assert verdict((0.1,), (0.6,)) == "better"
    assert verdict((0.3,), (0.3,)) == "even"
    # On average worse, and surely for these rows; another seed is better.
    assert verdict((1.5, 0.1), (0.1, 0.5)) == "even"


def test_rows_of_one_class_tell_nothing() -> None:
    logits = [noisy(0.1, 1)]
    (found,) = compare_with_controls("cart", {"multi-task": logits}, logits, np.zeros(4000, dtype=np.int8), USERS)
    content = found.to_json()
    assert (content["verdict"], content["auc"], content["ne_difference"]) == ("not measured", None, None)


def test_few_positives_have_figures_and_no_verdict() -> None:
    labels = np.zeros(4000, dtype=np.int8)
    labels[:4] = 1
    (found,) = compare_with_controls("cart", {"multi-task": [noisy(2, 1)]}, [noisy(0.1, 2)], labels, USERS)
    content = found.to_json()
    assert content["ne_difference"]["low"] is None
    assert content["verdict"] == "even"


def test_tasks_are_added_by_the_value_of_their_outcomes() -> None:
    rare = np.where(RANDOM.random(4000) < 0.3, LABELS, np.minimum(LABELS, 0)).astype(np.int8)
    sides, control = {"multi-task": [noisy(0.6, 1)]}, [noisy(0.1, 3)]
    found = [
        *compare_with_controls("click", sides, control, LABELS, USERS),
        *compare_with_controls("sale", {"multi-task": control}, sides["multi-task"], rare, USERS),
    ]
    (click,), (sale,) = ([one for one in found if one.task == task] for task in ("click", "sale"))
    assert (click.verdict, sale.verdict) == ("worse", "better")

    def by_value(**values: float) -> tuple[float, str]:
        (own,) = compare_by_value(found, values)
        assert own.to_json()["values"] == values
        return own.ne_difference.value, own.verdict

    rates = [np.mean(labels[labels >= 0] == 1) for labels in (LABELS, rare)]
    entropies = [-(p * np.log(p) + (1 - p) * np.log(1 - p)) for p in rates]
    losses = [one.ne_difference.value * h for one, h in zip((click, sale), entropies, strict=True)]
    expected = (losses[0] + 20 * losses[1]) / (entropies[0] + 20 * entropies[1])
    assert by_value(click=1.0, sale=20.0)[0] == pytest.approx(expected)
    assert by_value(click=1.0, sale=0.01)[1] == "worse"
    assert by_value(click=0.01, sale=1.0)[1] == "better"
    assert compare_by_value(found, {"other": 1.0}) == []
    assert compare_by_value(found, {}) == []
