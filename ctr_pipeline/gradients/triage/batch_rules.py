"""What a batch says of causes, beside the rows of the dataset that it was read from."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.triage.evidence import Clue


def batch_clues(own: BatchView, stored: BatchView, numbers: Sequence[str], ids: Sequence[str]) -> Iterator[Clue]:
    """Clues from what was changed between the dataset and the step.

    Args:
        own: The batch as it reaches the step.
        stored: Its rows as the dataset has them.
        numbers: [D] names of the columns of numbers.
        ids: [F] names of the columns of ids.
    """
    if own.labels.shape != stored.labels.shape:
        text = f"a batch has labels of shape {list(own.labels.shape)}, and its rows {list(stored.labels.shape)}"
        yield Clue(cause="batch_differs", weight=0.76, text=text, location="labels")
        return
    yield from _label_clues(own.labels.cpu(), stored.labels)
    for at, name in enumerate(numbers):
        mine, theirs = own.numeric[:, at].cpu(), stored.numeric[:, at]
        if (other := _other_column(mine, theirs, stored.numeric)) is not None:
            text = f"feature {name} of a batch has the values of feature {numbers[other]}"
            yield Clue(cause="feature_permuted", weight=0.93, text=text, location=name, separating=True)
            continue
        yield from _number_clues(name, mine, theirs)
    for at, name in enumerate(ids):
        mine, theirs = own.ids[:, at].cpu(), stored.ids[:, at]
        if torch.equal(mine, theirs):
            continue
        text = f"ids of feature {name} in a batch are not those of its rows"
        if (other := _other_column(mine, theirs, stored.ids)) is not None:
            text += f", but those of feature {ids[other]}"
            yield Clue(cause="ids_misplaced", weight=0.93, text=text, location=name, separating=True)
            continue
        if torch.equal(mine.sort().values, theirs.sort().values):
            yield Clue(
                cause="feature_permuted",
                weight=0.9,
                text=f"{text}, but those of others",
                location=name,
                separating=True,
            )
        elif len(torch.unique(mine)) < 0.6 * len(torch.unique(theirs)):
            yield Clue(cause="hash_clip", weight=0.85, text=f"{text}: fewer of them occur", location=name)
        else:
            yield Clue(cause="ids_misplaced", weight=0.85, text=text, location=name)
    yield from _further_clues(own, stored)
    if not torch.allclose(own.weights.cpu(), stored.weights):
        factor = float(own.weights.mean() / stored.weights.mean().clamp_min(1e-12))
        text = f"weights of a batch are not those of its rows; their mean is {factor:.3g} times as large"
        yield Clue(cause="weights_scaled" if not 0.67 < factor < 1.5 else "weights_misapplied", weight=0.85, text=text)


def _other_column(own: Tensor, stored: Tensor, columns: Tensor) -> int | None:
    """The column of ``columns`` that ``own`` is, where it is not the one that it should be."""
    if len(own) < 3 or torch.equal(own.nan_to_num(), stored.nan_to_num()):
        return None
    return next(
        (at for at in range(columns.shape[1]) if torch.equal(own.nan_to_num(), columns[:, at].nan_to_num())), None
    )


def _further_clues(own: BatchView, stored: BatchView) -> Iterator[Clue]:
    """Of positions and ages of labels."""
    for name in ("position", "elapsed", "delay"):
        mine, theirs = getattr(own, name), getattr(stored, name)
        if mine is None or theirs is None:
            if mine is not theirs:
                text = f"a batch has {'no' if mine is None else 'a'} column {name}, and its rows {'no' if theirs is None else 'a'}"
                yield Clue(cause="batch_differs", weight=0.76, text=text, location=name)
            continue
        if mine.shape != theirs.shape or not torch.allclose(mine.cpu().double(), theirs.double(), equal_nan=True):
            text = f"{name} of a batch is not that of its rows"
            yield Clue(cause="batch_differs", weight=0.76, text=text, location=name)


def order_clues(rows: NDArray[np.int64], declared: NDArray[np.int64]) -> Iterator[Clue]:
    """Clues from which rows a batch has.

    Args:
        rows: Its rows of the dataset.
        declared: Those that the order of its epoch gives to its place.
    """
    if np.array_equal(rows, declared):
        return
    if np.array_equal(np.sort(rows), np.sort(declared)):
        text = "the rows of a batch stand in another order than the epoch's permutation gives"
        yield Clue(cause="batch_differs", weight=0.76, text=text, location="rows")
        return
    shared = float(np.isin(rows, declared).mean()) if len(rows) else 0.0
    text = f"a batch has {len(rows)} rows, {shared:.0%} of them those that the epoch's permutation gives to it ({len(declared)} rows)"
    if len(rows) > 16 and bool((np.diff(np.sort(rows)) == 1).all()):
        text += "; they stand side by side in the dataset"
        yield Clue(cause="rows_not_shuffled", weight=0.93, text=text, location="rows", separating=True)
    elif len(np.unique(rows)) < 0.9 * len(rows):
        text += f"; {len(np.unique(rows))} of them are different ones"
        yield Clue(cause="stale_batch", weight=0.93, text=text, location="rows", separating=True)
    else:
        yield Clue(cause="batch_differs", weight=0.76, text=text, location="rows")


def _label_clues(own: Tensor, stored: Tensor) -> Iterator[Clue]:
    if torch.equal(own, stored):
        return
    known = (own >= 0) & (stored >= 0)
    changed = float((own != stored)[known].float().mean()) if bool(known.any()) else 0.0
    text = f"{changed:.0%} of the known labels of a batch are not those of its rows"
    shift = next((by for by in (-3, -2, -1, 1, 2, 3) if torch.equal(own, stored.roll(by, 0))), None)
    columns = range(own.shape[1])
    if own.shape[1] > 1 and all(_other_column(own[:, at], stored[:, at], stored) is not None for at in columns):
        text = f"the labels of a batch are those of other tasks: {text}"
        yield Clue(cause="mask_inverted", weight=0.93, text=text, separating=True)
    elif shift is not None:
        yield Clue(cause="row_shift", weight=0.95, text=f"{text}: they are shifted by {shift} rows", separating=True)
    elif bool(known.any()) and changed > 0.99:
        yield Clue(cause="label_flip", weight=0.95, text=text, separating=True)
    elif torch.equal(own.sum(dim=0), stored.sum(dim=0)) and changed > 0:
        yield Clue(cause="label_permute", weight=0.93, text=f"{text}, and as many are 1", separating=True)
    elif bool(((own >= 0) != (stored >= 0)).any()):
        more = int((own >= 0).sum()) > int((stored >= 0).sum())
        cause = "unknown_as_zero" if more else "mask_drops_labels"
        what = "more" if more else "fewer"
        yield Clue(
            cause=cause, weight=0.9, text=f"{what} labels of a batch are known than of its rows", separating=True
        )
    else:
        yield Clue(cause="label_noise", weight=0.85, text=text)


def _number_clues(name: str, own: Tensor, stored: Tensor) -> Iterator[Clue]:
    if torch.allclose(own.double(), stored.double(), equal_nan=True):
        return
    lost = torch.isnan(own) & ~torch.isnan(stored)
    if bool(lost.any()):
        text = f"feature {name} is missing in {float(lost.float().mean()):.0%} of a batch, and its rows have it"
        yield Clue(cause="feature_missing", weight=0.93, text=text, location=name, separating=True)
        return
    text = f"feature {name} of a batch is not that of its rows"
    if bool(torch.isinf(own).any()):
        yield Clue(
            cause="infinite_feature", weight=0.93, text=f"{text}: it is infinite", location=name, separating=True
        )
        return
    mine, theirs = own.nan_to_num(0.0).double(), stored.nan_to_num(0.0).double()
    if float(mine.std()) < 1e-9 < float(theirs.std()):
        yield Clue(
            cause="feature_missing", weight=0.9, text=f"{text}: it has one value", location=name, separating=True
        )
    elif torch.allclose(mine.sort().values, theirs.sort().values):
        yield Clue(
            cause="feature_permuted", weight=0.93, text=f"{text}, but that of others", location=name, separating=True
        )
    else:
        factor = float(mine.std() / theirs.std().clamp_min(1e-12))
        moved = float((mine.median() - theirs.median()).abs() / theirs.std().clamp_min(1e-12))
        cause = "unnormalised_feature" if not 0.2 < factor < 5 or moved > 5 else "feature_drift"
        text = f"{text}: it spreads {factor:.3g} times as widely"
        yield Clue(cause=cause, weight=0.85, text=text, location=name)
