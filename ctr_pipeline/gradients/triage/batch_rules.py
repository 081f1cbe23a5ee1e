"""What a batch says of causes, beside the rows of the dataset that it was read from."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.triage.evidence import Clue
from ctr_pipeline.gradients.triage.forms import form_of
from ctr_pipeline.gradients.triage.lookup_rules import SURE, form_of_ids


def batch_clues(
    own: BatchView, stored: BatchView, numbers: Sequence[str], ids: Sequence[str], tasks: Sequence[str] = ()
) -> Iterator[Clue]:
    """Clues from what was changed between the dataset and the step.

    Args:
        own: The batch as it reaches the step.
        stored: Its rows as the dataset has them.
        numbers: [D] names of the columns of numbers.
        ids: [F] names of the columns of ids.
        tasks: [T] names of the tasks.
    """
    if own.labels.shape != stored.labels.shape:
        text = f"a batch has labels of shape {list(own.labels.shape)}, and its rows {list(stored.labels.shape)}"
        yield Clue(cause="batch_differs", weight=0.76, text=text, location="labels")
        return
    yield from _label_clues(own.labels.cpu(), stored.labels, tasks)
    for at, name in enumerate(numbers):
        mine, theirs = own.numeric[:, at].cpu(), stored.numeric[:, at]
        if (other := _other_column(mine, theirs, stored.numeric)) is not None:
            text = f"feature {name} of a batch has the values of feature {numbers[other]}"
            yield Clue(cause="feature_permuted", weight=0.93, text=text, location=name, separating=True)
            continue
        if (part := _part_of_column(mine, theirs, stored.numeric, at)) is not None:
            text = f"feature {name} has the values of feature {numbers[part[0]]} in {part[1]:.0%} of a batch"
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
        cause, weight, form = form_of_ids(mine, theirs)
        if cause == "ids_misplaced" and (part := _part_of_column(mine, theirs, stored.ids, at)) is not None:
            weight, form = 0.93, f"{part[1]:.0%} of them are those of feature {ids[part[0]]}"
        text = f"{text}: {form}"
        yield Clue(cause=cause, weight=weight, text=text, location=name, separating=weight > SURE)
    yield from _further_clues(own, stored)
    if not torch.allclose(own.weights.cpu(), stored.weights):
        factor = float(own.weights.mean() / stored.weights.mean().clamp_min(1e-12))
        form = form_of(own.weights.cpu(), stored.weights).text
        text = f"weights of a batch are not those of its rows: {form}; their mean is {factor:.3g} times as large"
        yield Clue(cause="weights_scaled" if not 0.67 < factor < 1.5 else "weights_misapplied", weight=0.85, text=text)


def _part_of_column(own: Tensor, stored: Tensor, columns: Tensor, at: int) -> tuple[int, float] | None:
    """The column that differing values of ``own`` are of, and their share; None where they are of none."""
    wrong = ~torch.isclose(own.double(), stored.double(), equal_nan=True)
    if int(wrong.sum()) < 3:
        return None
    for other in range(columns.shape[1]):
        if other != at and torch.equal(own[wrong].nan_to_num(), columns[wrong, other].nan_to_num()):
            return other, float(wrong.double().mean())
    return None


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


def _label_clues(own: Tensor, stored: Tensor, tasks: Sequence[str]) -> Iterator[Clue]:
    if torch.equal(own, stored):
        return
    known = (own >= 0) & (stored >= 0)
    wrong = [at for at in range(own.shape[1]) if not torch.equal(own[:, at], stored[:, at])]
    changed = float((own != stored)[known].float().mean()) if bool(known.any()) else 0.0
    where = tasks[wrong[0]] if len(tasks) == own.shape[1] else None
    text = f"{changed:.0%} of the known labels of a batch are not those of its rows"
    if where is not None and len(wrong) < own.shape[1]:
        text += f", those of task {where} alone"

    def clue(cause: str, weight: float, words: str, *, sure: bool = True) -> Clue:
        return Clue(cause=cause, weight=weight, text=words, location=where, separating=sure)

    shift = next((by for by in (-3, -2, -1, 1, 2, 3) if torch.equal(own, stored.roll(by, 0))), None)
    columns = range(own.shape[1])
    if own.shape[1] > 1 and all(_other_column(own[:, at], stored[:, at], stored) is not None for at in columns):
        yield clue("mask_inverted", 0.93, f"the labels of a batch are those of other tasks: {text}")
    elif shift is not None:
        yield clue("row_shift", 0.95, f"{text}: they are shifted by {shift} rows")
    elif bool(known.any()) and changed > 0.99:
        yield clue("label_flip", 0.95, text)
    elif torch.equal(own.sort(dim=0).values, stored.sort(dim=0).values):
        yield clue("label_permute", 0.93, f"{text}, and as many are 1")
    elif bool(((own >= 0) != (stored >= 0)).any()):
        more = int((own >= 0).sum()) > int((stored >= 0).sum())
        what = f"{'more' if more else 'fewer'} labels of a batch are known than of its rows"
        yield clue("unknown_as_zero" if more else "mask_drops_labels", 0.9, what)
    else:
        risen, fallen = (int(((own == y) & (stored == 1 - y)).sum()) for y in (1, 0))
        yield clue("label_noise", 0.85, f"{text}: {risen} have become 1 and {fallen} 0", sure=False)


def _number_clues(name: str, own: Tensor, stored: Tensor) -> Iterator[Clue]:
    if torch.allclose(own.double(), stored.double(), equal_nan=True):
        return
    lost = torch.isnan(own) & ~torch.isnan(stored)
    text = f"feature {name} of a batch is not that of its rows"
    if bool(lost.any()):
        share = float(lost.float().mean())
        yield _number("feature_missing", 0.93, name, f"{text}: it is missing in {share:.0%} of them, and they have it")
        return
    if bool(torch.isinf(own).any()):
        yield _number("infinite_feature", 0.93, name, f"{text}: it is infinite")
        return
    mine, theirs = own.nan_to_num(0.0).double(), stored.nan_to_num(0.0).double()
    filled = torch.isnan(stored) & ~torch.isnan(own)
    if bool(filled.any()) and torch.allclose(mine[~filled], theirs[~filled]):
        found = f"{text}: where it is missing it has values, as {float(mine[filled][0]):.4g}"
        yield Clue(cause="batch_differs", weight=0.8, text=found, location=name)
        return
    if float(mine.std()) < 1e-9 < float(theirs.std()):
        yield _number("feature_missing", 0.93, name, f"{text}: it has one value")
        return
    if torch.allclose(mine.sort().values, theirs.sort().values):
        yield _number("feature_permuted", 0.93, name, f"{text}, but that of others")
        return
    form = form_of(mine, theirs)
    text = f"{text}: {form.text}"
    if form.name in ("factor", "sign", "offset", "rescaled"):
        yield _number("unnormalised_feature", 0.93, name, text)
    elif form.name == "limited":
        yield _number("feature_drift", 0.93, name, text)
    else:
        factor = float(mine.std() / theirs.std().clamp_min(1e-12))
        moved = float((mine.median() - theirs.median()).abs() / theirs.std().clamp_min(1e-12))
        scaled = not 0.2 < factor < 5 or moved > 5
        cause = "unnormalised_feature" if scaled else "batch_differs" if form.name == "rounded" else "feature_drift"
        text = f"{text}; it spreads {factor:.3g} times as widely"
        yield Clue(cause=cause, weight=0.85, text=text, location=name)


def _number(cause: str, weight: float, name: str, text: str) -> Clue:
    return Clue(cause=cause, weight=weight, text=text, location=name, separating=True)
