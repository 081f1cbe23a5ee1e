"""What was done to a batch between the dataset and the step is told with its column, its share and its form."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.triage.batch_rules import batch_clues

Change = Callable[[BatchView], BatchView]

SOME = torch.arange(200) % 4 == 0


def batch() -> BatchView:
    generator = torch.Generator().manual_seed(3)
    labels = (torch.rand(200, 2, generator=generator) < 0.3).to(torch.int8)
    labels[::10, 1] = -1
    return BatchView(
        numeric=torch.randn(200, 2, generator=generator) * torch.tensor([5.0, 1.0]),
        ids=torch.stack([torch.randint(2, 60, (200,), generator=generator), torch.randint(2, 9, (200,), generator=generator)], dim=1),
        labels=labels, weights=torch.ones(200, 2), rows=torch.arange(200), position=None,
    )  # fmt: skip


def price(change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    return lambda b: replace(b, numeric=torch.stack([change(b.numeric[:, 0]), b.numeric[:, 1]], dim=1))


def ad(change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    return lambda b: replace(b, ids=torch.stack([change(b.ids[:, 0]), b.ids[:, 1]], dim=1))


def cart(change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    return lambda b: replace(b, labels=torch.stack([b.labels[:, 0], change(b.labels[:, 1])], dim=1))


@pytest.mark.parametrize(
    ("change", "cause", "place", "words"),
    [
        (price(lambda v: v * 2), "unnormalised_feature", "price", "it is 2 times what is expected"),
        (price(lambda v: v + 3), "unnormalised_feature", "price", "constants of up to 3 are added"),
        (price(lambda v: v.bfloat16().float()), "batch_differs", "price", "it is rounded to bfloat16"),
        (price(lambda v: v.clamp(max=2.0)), "feature_drift", "price", "cut off at 2"),
        (price(lambda v: v * 0), "feature_missing", "price", "it has one value"),
        (price(lambda v: v.where(~SOME, torch.nan)), "feature_missing", "price", "missing in 25%"),
        (lambda b: replace(b, numeric=torch.where(SOME[:, None], b.numeric.flip(1), b.numeric)), "feature_permuted", "price",
         "the values of feature rating in 25%"),
        (ad(lambda v: v & 15), "hash_clip", "ad", "have become 16"),
        (ad(lambda v: v.where(~SOME, torch.tensor(7))), "hash_clip", "ad", "25% of them are 7"),
        (lambda b: replace(b, ids=torch.where(SOME[:, None], b.ids.flip(1), b.ids)), "ids_misplaced", "ad", "those of feature device"),
        (cart(lambda v: v.clamp(min=0)), "unknown_as_zero", "cart", "more labels"),
        (cart(lambda v: torch.where(v == 1, 0, v).to(torch.int8)), "label_noise", "cart", "of task cart alone: 0 have become 1"),
        (lambda b: replace(b, labels=b.labels[torch.randperm(200)]), "label_permute", "click", "as many are 1"),
        (lambda b: replace(b, weights=b.weights * 3), "weights_scaled", None, "all its values are 3; their mean is 3 times as large"),
    ],
)  # fmt: skip
def test_the_form_of_a_change_is_told(change: Change, cause: str, place: str | None, words: str) -> None:
    found = next(iter(batch_clues(change(batch()), batch(), ["price", "rating"], ["ad", "device"], ["click", "cart"])))
    assert (found.cause, found.location) == (cause, place)
    assert words in found.text


def test_of_a_batch_as_it_is_nothing_is_told() -> None:
    assert not list(batch_clues(batch(), batch(), ["price", "rating"], ["ad", "device"], ["click", "cart"]))
