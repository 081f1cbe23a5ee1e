"""How much each feature moves a logit away from that of a reference row (Sundararajan, Taly & Yan, ICML 2017)."""

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctr_pipeline.attribution.encoded_rows import EncodedRows, feature_names
from ctr_pipeline.features.layout import Layout
from ctr_pipeline.ranker import Ranker
from ctr_pipeline.ranker.shapes import RankerInputs

POINTS = 8
"""Points of a Gauss-Legendre rule on each part of the path."""

DEEPEST = 14
"""How often a part of the path is halved at most in single precision: what then misses the tolerance is its rounding."""

DEEPEST_EXACT = 24
"""The same in double precision."""

TOLERANCE = 1e-3
"""Share of the difference in logit that all parts together may miss."""

_SMALLEST = 1e-2
"""Difference in logit below which the tolerance is of this one: single precision has an error of its own."""

_SMALLEST_EXACT = 1e-6
"""The same in double precision, in which rows are computed again that miss more than the tolerance."""

_KINKS = 64
"""Parts of one path that may use up the tolerance."""

_EACH = 4.0
"""How many times the tolerance the parts of one path may miss without regard to the sign: so each feature is that exact."""

_ROUNDED = 8
"""Halvings after which the logits at both ends of a part may differ by no more than their rounding: it adds up to none."""

_ROUNDING = 2.0
"""Units of the last place of a logit that its rounding is taken for."""

_TOGETHER = 65_536
"""Rows that are scored at once."""


@dataclass(frozen=True, slots=True)
class Attribution:
    """The logits of one task for B rows, by feature.

    Attributes:
        features: Names of F features.
        values: [B, F] how much each moves the logit away from the reference's; they add up to the difference.
        logits: [B] logits.
        reference: [B] logits of the reference, with each row's own events taken away.
    """

    features: tuple[str, ...]
    values: NDArray[np.float64]
    logits: NDArray[np.float64]
    reference: NDArray[np.float64]

    @property
    def missed(self) -> NDArray[np.float64]:
        """[B] what the features do not add up to."""
        found: NDArray[np.float64] = self.logits - self.reference - self.values.sum(axis=1)
        return found


def integrated_gradients(
    ranker: Ranker,
    layout: Layout,
    inputs: RankerInputs,
    reference: EncodedRows,
    task: int,
    tolerance: float = TOLERANCE,
) -> Attribution:
    """The integral of the gradient along the straight line from the reference to each row, behind transforms and tables.

    Along the line a network is smooth but for the kinks of its rectifiers. Parts of the path whose gradients do not add up to
    the difference of their ends are halved, until they do or all parts of the row do together. A pair of categories counts half for each of both.

    Args:
        ranker: In evaluation mode.
        layout: That it was built with.
        inputs: B rows, as the ranker has encoded them, each with its own events.
        reference: One row, such as :func:`~ctr_pipeline.attribution.encoded_rows.reference_of` of many.
        task: Index of the task.
        tolerance: Share of the difference in logit that the features of a row may miss together.
    """
    with torch.no_grad():
        encoded = EncodedRows.of(ranker, inputs)
    features, owners = _owners(feature_names(ranker, layout))
    path = _Path(
        ranker,
        inputs,
        encoded,
        encoded.with_parts([_spread(p, len(inputs.ids)) for p in reference.parts]),
        task,
        owners,
    )
    values, logits, of_reference = path.attributed(tolerance, _SMALLEST, DEEPEST)
    missed = (logits - of_reference - values.sum(dim=1)).abs()
    # Differences so small that the rounding of single precision is no small part of them.
    small = torch.nonzero(missed > tolerance * (logits - of_reference).abs()).squeeze(1)
    if len(small):
        exact = path.in_double_precision(small).attributed(tolerance, _SMALLEST_EXACT, DEEPEST_EXACT)
        for found, better in zip((values, logits, of_reference), exact, strict=True):
            found[small] = better
    return Attribution(features, values.numpy(), logits.numpy(), of_reference.numpy())


@dataclass(frozen=True, slots=True)
class _Parts:
    """Parts of the paths of some rows: K of them.

    Attributes:
        rows: [K] the row.
        start: [K] where the part begins, 0 being the reference and 1 the row.
        end: [K] where it ends.
        first: [K] the logit at its beginning.
        last: [K] the logit at its end.
    """

    rows: Tensor
    start: Tensor
    end: Tensor
    first: Tensor
    last: Tensor

    def where(self, chosen: Tensor) -> "_Parts":
        """Some of them."""
        return _Parts(*(values[chosen] for values in (self.rows, self.start, self.end, self.first, self.last)))


@dataclass(frozen=True, slots=True)
class _Path:
    """The straight lines from a reference to B rows."""

    ranker: Ranker
    inputs: RankerInputs
    own: EncodedRows
    reference: EncodedRows
    task: int
    owners: Tensor
    """[columns, F] which share of a column counts for each feature."""

    def logits(self, rows: Tensor, places: Tensor) -> Tensor:
        """[K] the logits at places [K] of the paths of rows [K]."""
        with torch.no_grad():
            at = [start + _like(places, start) * move for start, move in self._moves(rows)]
            found: Tensor = self.own.with_parts(at).logits(self.ranker, _some(self.inputs, rows))
        return found[:, self.task].double()

    def attributed(self, tolerance: float, smallest: float, deepest: int) -> tuple[Tensor, Tensor, Tensor]:
        """[B, F] what each feature does along each path, and [B] the logits at its end and at its beginning.

        Args:
            tolerance: Share of the difference in logit that the features of a row may miss together.
            smallest: Difference below which the tolerance is of this one.
            deepest: How often a part is halved at most.
        """
        precision = self.reference.numbers.dtype
        rows = torch.arange(len(self.inputs.ids))
        start, end = torch.zeros(len(rows), dtype=precision), torch.ones(len(rows), dtype=precision)
        of_reference, logits = self.logits(rows, start), self.logits(rows, end)
        whole = tolerance * (logits - of_reference).abs().clamp(min=smallest)
        values = torch.zeros((len(rows), self.owners.shape[1]), dtype=torch.float64)
        # Of the parts that are done by themselves: what they miss with its sign, and without.
        done = torch.zeros((len(rows), 2), dtype=torch.float64)
        parts = _Parts(rows, start, end, of_reference, logits)
        for depth in range(deepest + 1):
            found = self.integral(parts)
            missed = parts.last - parts.first - found.sum(dim=1)
            both = torch.stack([missed, missed.abs()], dim=1)
            total = done.index_add(0, parts.rows, both)
            # What the kinks of a row miss has either sign: together they may be fine before each of them is.
            complete = (total[:, 0].abs() <= whole / 2) & (total[:, 1] <= _EACH * whole)
            least = whole[parts.rows] / _KINKS
            if depth >= _ROUNDED:
                least = torch.maximum(least, _ROUNDING * torch.finfo(precision).eps * parts.last.abs())
            fine = complete[parts.rows] | (missed.abs() <= least) | (depth == deepest)
            values.index_add_(0, parts.rows[fine], found[fine])
            done.index_add_(0, parts.rows[fine], both[fine])
            if fine.all():
                break
            parts = self.halved(parts.where(~fine))
        return values, logits, of_reference

    def in_double_precision(self, rows: Tensor) -> "_Path":
        """The paths of some rows, by the same weights in double precision."""
        wide = self.ranker.wide
        # What is behind the tables is all that is read; they may be large.
        tables = [self.ranker.embeddings, *(() if wide is None else (wide.rows, wide.pairs))]
        ranker = copy.deepcopy(self.ranker, {id(table): None for table in tables if table is not None}).double()
        own, reference = (
            encoded.with_parts([part[rows].double() for part in encoded.parts])
            for encoded in (self.own, self.reference)
        )
        some = _some(self.inputs, rows)
        inputs = replace(
            some,
            numbers=some.numbers.double(),
            fields=tuple(group.double() for group in some.fields),
            embedded=some.embedded.double(),
            wide=some.wide.double() if isinstance(some.wide, Tensor) else some.wide,
            events=tuple(replace(e, items=e.items.double(), ages=e.ages.double()) for e in some.events),
        )
        return _Path(ranker, inputs, own, reference, self.task, self.owners)

    def halved(self, parts: _Parts) -> _Parts:
        """Both halves of each part."""
        middle = (parts.start + parts.end) / 2
        logits = self.logits(parts.rows, middle)
        return _Parts(
            parts.rows.repeat(2),
            torch.cat([parts.start, middle]),
            torch.cat([middle, parts.end]),
            torch.cat([parts.first, logits]),
            torch.cat([logits, parts.last]),
        )

    def integral(self, parts: _Parts) -> Tensor:
        """[K, F] what each feature does along each part."""
        most = max(1, _TOGETHER // POINTS)
        found = [self._of_some(parts.where(chosen)) for chosen in torch.split(torch.arange(len(parts.rows)), most)]
        return torch.cat(found)

    def _of_some(self, parts: _Parts) -> Tensor:
        points, weights = (torch.from_numpy(values) for values in np.polynomial.legendre.leggauss(POINTS))
        length = parts.end - parts.start
        places = (parts.start + length * ((points.unsqueeze(1) + 1) / 2).to(length.dtype)).flatten()
        rows = parts.rows.repeat(POINTS)
        moves = self._moves(rows)
        at = [(start + _like(places, start) * move).requires_grad_() for start, move in moves]
        logits = self.own.with_parts(at).logits(self.ranker, _some(self.inputs, rows))
        slopes = torch.autograd.grad(logits[:, self.task].sum(), at, allow_unused=True)
        of_moves = [
            torch.zeros_like(move) if slope is None else slope * move
            for slope, (_, move) in zip(slopes, moves, strict=True)
        ]
        numbers, *others = of_moves
        first = len(others) - len(self.own.events)
        # Of each column or field, what all of its numbers do together; of events, what all of them do.
        of_fields = [values.sum(dim=2) for values in others[:first]]
        of_events = [values.sum(dim=(1, 2)).unsqueeze(1) for values in others[first:]]
        columns = torch.cat([numbers, *of_fields, *of_events], dim=1).double()
        weighted = (columns @ self.owners).reshape(POINTS, len(parts.rows), -1) * weights.reshape(-1, 1, 1) / 2
        return weighted.sum(dim=0) * length.double().unsqueeze(1)

    def _moves(self, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Beginning and direction of each part of the encoded rows."""
        ends = zip(self.own.parts, self.reference.parts, strict=True)
        return [(start[rows], end[rows] - start[rows]) for end, start in ends]


def _like(places: Tensor, part: Tensor) -> Tensor:
    return places.to(part.dtype).reshape(-1, *[1] * (part.dim() - 1))


def _owners(names: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], Tensor]:
    """Names of the features, and [columns, F] which share of each column counts for each of them."""
    columns = [name.split(" × ") for part in names for name in part]
    features = tuple(dict.fromkeys(name for owners in columns for name in owners))
    shares = torch.zeros((len(columns), len(features)), dtype=torch.float64)
    for column, owners in enumerate(columns):
        for owner in owners:
            shares[column, features.index(owner)] += 1 / len(owners)
    return features, shares


def _spread(part: Tensor, rows: int) -> Tensor:
    return part.expand(rows, *part.shape[1:])


def _some(inputs: RankerInputs, rows: Tensor) -> RankerInputs:
    """Some rows of inputs whose rows have their own events."""
    return replace(
        inputs,
        numbers=inputs.numbers[rows],
        fields=tuple(group[rows] for group in inputs.fields),
        embedded=inputs.embedded[rows],
        wide=inputs.wide[rows] if isinstance(inputs.wide, Tensor) else inputs.wide,
        ids=inputs.ids[rows],
        position=None if inputs.position is None else inputs.position[rows],
        events=tuple(
            replace(
                own,
                items=own.items[rows],
                kinds=None if own.kinds is None else own.kinds[rows],
                ages=own.ages[rows],
                there=own.there[rows],
            )
            for own in inputs.events
        ),
    )
