"""Lookups of other rows than meant are told by feature and form."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ctr_pipeline.gradients.triage.lookup_rules import OwnedRows, lookup_differences

OWNERS = (OwnedRows("ad", 0, 60), OwnedRows("query", 60, 100))


def rows() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.stack(
        [torch.randint(2, 50, (200,), generator=generator), 60 + torch.randint(2, 30, (200,), generator=generator)],
        dim=1,
    )


def of_ad(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda own: torch.stack([change(own[:, 0]), own[:, 1]], dim=1)


def some(own: Tensor) -> Tensor:
    drawn = torch.randint(2, 60, own.shape, generator=torch.Generator().manual_seed(2))
    return torch.where(torch.arange(len(own)) % 3 == 0, drawn, own)


@pytest.mark.parametrize(
    ("change", "cause", "feature", "words"),
    [
        (of_ad(lambda own: own & 15), "hash_clip", "ad", "48 different ones have become 16"),
        (of_ad(lambda own: own.clamp(max=20)), "hash_clip", "ad", "have become 19"),
        (of_ad(lambda own: own + 1), "ids_misplaced", "ad", "each is +1 rows away"),
        (of_ad(lambda own: 51 - own), "ids_misplaced", "ad", "each id has another one's row"),
        (of_ad(lambda own: own.roll(1)), "feature_permuted", "ad", "other rows of the batch"),
        (of_ad(lambda own: own + 60), "wrong_offsets", "ad", "of other features"),
        (of_ad(some), "ids_misplaced", "ad", "different ones are read"),
        (lambda own: torch.stack([own[:, 0] & 15, own[:, 1] - 60], dim=1), "wrong_offsets", "query", "100% are of other features"),
        (lambda own: own[:100], "wrong_offsets", "table", "of the shape"),
    ],
)  # fmt: skip
def test_the_feature_and_the_form_are_told(
    change: Callable[[Tensor], Tensor], cause: str, feature: str, words: str
) -> None:
    (found,) = lookup_differences("table", change(rows()), rows(), OWNERS)
    assert (found.cause, found.location) == (cause, feature)
    assert words in found.text


def test_what_is_of_no_feature_names_the_table() -> None:
    (found,) = lookup_differences("table", rows() + 1, rows())
    assert (found.cause, found.location, found.separating) == ("wrong_offsets", "table", False)
