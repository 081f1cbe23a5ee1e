"""In which form a tensor differs from the one that is expected: a factor, a permutation of the rows, a limit, noise, …"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

FIT = 1e-3
"""Largest deviation from a form, relative to the largest expected value."""

SHIFTS = (-3, -2, -1, 1, 2, 3)


@dataclass(frozen=True, slots=True)
class Form:
    """A form of difference.

    Attributes:
        name: Stable name, in snake case.
        text: What it is, a clause with its numbers.
        number: The factor, limit or share that it has; NaN where it has none.
    """

    name: str
    text: str
    number: float = math.nan


def is_apart(found: Tensor, expected: Tensor, limit: float) -> bool:
    """Whether two tensors differ by more than ``limit``, relative to the largest expected value.

    Values that are not finite are equal to themselves.
    """
    if found.shape != expected.shape:
        return True
    if not found.numel() or torch.equal(found, expected):
        return False
    own, wanted = found.detach().double(), expected.detach().double()
    if not torch.equal(torch.isfinite(own), torch.isfinite(wanted)):
        return True
    own, wanted = own.nan_to_num(0, 0, 0), wanted.nan_to_num(0, 0, 0)
    return float((own - wanted).abs().max()) > limit * max(float(wanted.abs().max()), 1e-12)


def form_of(found: Tensor, expected: Tensor) -> Form:
    """The form in which ``found`` differs from ``expected``, which it does; both have samples, rows or units first.

    The forms are tried from the most to the least special; ``other`` is what fits none.
    """
    if found.shape != expected.shape:
        return Form("shape", f"it has the shape {list(found.shape)} and not {list(expected.shape)}")
    own, wanted = found.detach().double(), expected.detach().double()
    bad = ~torch.isfinite(own) & torch.isfinite(wanted)
    if bool(bad.any()):
        share = float(bad.double().mean())
        return Form("not_finite", f"{share:.1%} of its values are not finite", share)
    usable = torch.isfinite(own) & torch.isfinite(wanted)
    own, wanted = torch.where(usable, own, 0.0), torch.where(usable, wanted, 0.0)
    for shape in (_constant, _rounded, _factor, _of_parts, _of_rows, _squashed, _masked, _of_some):
        if (form := shape(own, wanted)) is not None:
            return form
    size = float((own - wanted).norm() / wanted.norm().clamp_min(1e-300))
    return Form("other", f"it is {size:.3g} of its size away from what is expected", size)


def _same(own: Tensor, wanted: Tensor) -> bool:
    return float((own - wanted).abs().max()) <= FIT * max(float(wanted.abs().max()), 1e-300)


def _constant(own: Tensor, wanted: Tensor) -> Form | None:
    if not bool(own.any()):
        return Form("zero", "it is 0", 0.0)
    if own.numel() > 1 and bool((own == own.flatten()[0]).all()):
        return Form("constant", f"all its values are {float(own.flatten()[0]):.4g}", float(own.flatten()[0]))
    if len(own) > 1 and own.ndim > 1 and bool((own == own[:1]).all()) and not bool((wanted == wanted[:1]).all()):
        return Form("constant", "it is the same in all rows")
    return None


def _factor(own: Tensor, wanted: Tensor) -> Form | None:
    size = float((wanted * wanted).sum())
    factor = float((own * wanted).sum()) / size if size else math.nan
    if factor and abs(factor - 1) > FIT and _same(own, factor * wanted):
        if abs(factor + 1) <= FIT:
            return Form("sign", "it has the wrong sign", factor)
        return Form("factor", f"it is {factor:.4g} times what is expected", factor)
    return None


def _of_parts(own: Tensor, wanted: Tensor) -> Form | None:
    """What has been done to the features of [B, F, d], or to the units of [B, d]: some are 0, or exchanged."""
    if own.ndim < 2 or own.shape[1] < 2:
        return None
    limit = FIT * max(float(wanted.abs().max()), 1e-300)
    one, other = (values.transpose(0, 1).reshape(values.shape[1], -1) for values in (own, wanted))
    wrong = ((one - other).abs().amax(dim=1) > limit).nonzero()[:, 0].tolist()
    if not wrong or len(wrong) == len(one) > 64 or len(wrong) > 64:
        return None
    what = "columns" if own.ndim == 2 else "features"
    if len(wrong) < len(one) and not bool(one[wrong].any()):
        return Form(
            "columns_zero", f"{len(wrong)} of its {len(one)} {what} are 0, number {wrong[0]} first", float(wrong[0])
        )
    if len(wrong) > 1 and all(any(_same(one[c], other[d]) for d in wrong if d != c) for c in wrong):
        return Form("columns_exchanged", f"its {what} {wrong[:6]} have the values of others", float(len(wrong)))
    return None


def _of_rows(own: Tensor, wanted: Tensor) -> Form | None:
    """What has been done to the rows together: they are shifted, permuted, or made relative to each other."""
    if len(own) < 3:
        return None
    flat, there = own.reshape(len(own), -1), wanted.reshape(len(own), -1)
    for by in SHIFTS:
        if _same(flat, there.roll(by, 0)):
            return Form("rows_shifted", f"its rows are shifted by {by}", float(by))
    # A projection on fixed random numbers tells rows apart.
    direction = torch.randn(flat.shape[1], generator=torch.Generator().manual_seed(5), dtype=flat.dtype)
    if _same((flat @ direction).sort().values, (there @ direction).sort().values):
        return Form("rows_permuted", "its rows stand in another order")
    offset = (flat - there).mean(dim=0)
    if _same(flat, there + offset) and not _same(flat, there):
        if _same(offset, -there.mean(dim=0)) or _same(offset, there.mean(dim=0)):
            return Form("centred", "the mean over the rows of the batch is taken from it, or added to it")
        return Form("offset", f"constants of up to {float(offset.abs().max()):.4g} are added to it")
    spread, spread_there = flat.std(dim=0), there.std(dim=0)
    moving = spread_there > 1e-9 * spread_there.max()
    if bool(moving.any()) and len(own) > 4:
        scaled = (there - there.mean(dim=0)) * (spread / spread_there.clamp_min(1e-300)) + flat.mean(dim=0)
        if _same(flat[:, moving], scaled[:, moving]):
            return Form("rescaled", "each of its columns has a factor and an offset of its own")
    return None


def _rounded(own: Tensor, wanted: Tensor) -> Form | None:
    for kind in (torch.bfloat16, torch.float16):
        held, there = (values.to(kind).double() for values in (own, wanted))
        near = (own - wanted).abs() <= torch.finfo(kind).eps * wanted.abs() + torch.finfo(kind).tiny
        if bool((own == held).all()) and not bool((wanted == there).all()) and bool(near.double().mean() > 0.99):
            return Form("rounded", f"it is rounded to {str(kind).removeprefix('torch.')}")
    return None


def _squashed(own: Tensor, wanted: Tensor) -> Form | None:
    if _same(own, torch.sigmoid(wanted)):
        return Form("sigmoid", "a sigmoid is applied to it")
    if _same(own, torch.tanh(wanted)):
        return Form("limited", "a hyperbolic tangent is applied to it", 1.0)
    low, high = float(own.min()), float(own.max())
    if (
        own.numel() > 4
        and _same(own, wanted.clamp(low, high))
        and (float(wanted.max()) > high or float(wanted.min()) < low)
    ):
        # An end that is that of the expected values is none.
        ends = [low] * (float(wanted.min()) < low) + [high] * (float(wanted.max()) > high)
        where = " and ".join(f"{end:.4g}" for end in ends)
        return Form("limited", f"its values are cut off at {where}", max(abs(end) for end in ends))
    return None


def _masked(own: Tensor, wanted: Tensor) -> Form | None:
    """Values that are 0 here and there, the others multiplied by one number, as dropout leaves them."""
    gone = (own == 0) & (wanted != 0)
    if not bool(gone.any()) or bool(gone.all()) or float(gone.double().mean()) < 0.02:
        return None
    left, there = own[~gone], wanted[~gone]
    size = float((there * there).sum())
    factor = float((left * there).sum()) / size if size else math.nan
    if _same(left, factor * there):
        share = float(gone.sum()) / max(int((wanted != 0).sum()), 1)
        return Form(
            "dropped", f"{share:.0%} of its values are 0 and the others {factor:.4g} times what is expected", share
        )
    return None


def _of_some(own: Tensor, wanted: Tensor) -> Form | None:
    limit = FIT * max(float(wanted.abs().max()), 1e-300)
    apart = (own - wanted).abs() > limit
    if own.ndim > 1 and own.shape[-1] > 1:
        columns = apart.reshape(-1, own.shape[-1]).any(dim=0)
        if bool(columns.any()) and int(columns.sum()) <= 0.5 * len(columns):
            at = columns.nonzero()[:, 0].tolist()
            return Form(
                "some_columns", f"{len(at)} of its {len(columns)} columns differ, column {at[0]} first", float(at[0])
            )
    rows = apart.reshape(len(own), -1).any(dim=1)
    share = float(rows.double().mean())
    if 0 < share <= 0.9 and len(own) > 4:
        return Form("some_rows", f"{share:.1%} of its rows differ", share)
    return None
