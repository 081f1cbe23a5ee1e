"""What the position of an impression does to its logit: learnt from the log, left out when scoring."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctr_pipeline.features.layout import Layout
from ctr_pipeline.ranker.errors import RankerError
from ctr_pipeline.ranker.heads.chain import product_logits
from ctr_pipeline.spec.position import AdditivePosition, Examination

MOST_CONTEXT_ROWS = 1000
"""Largest vocabulary of a context: an effect of each position is learnt for each of its values."""

_STEP = 10.0
"""Effects are ten times the parameters. An effect is of the size of 1, and Adam moves a parameter by about the learning
rate a step, whatever the gradient: without this, short trainings would end before it is learnt."""

_CERTAIN = 30.0
"""Logit of an examination that is taken to be certain."""


class PositionEffect(nn.Module, ABC):
    """A number for each position and task, which differs by the values of the context.

    Deeper positions than the layout has share the number of its last.

    Args:
        layout: The packed layout; it has the positions of the training rows.
        section: The spec's section.
        tasks: Columns of the tasks that have an effect.

    Raises:
        RankerError: the layout has no positions, or a context is no feature of one value with a small vocabulary.
    """

    shares: Tensor

    def __init__(self, layout: Layout, section: AdditivePosition | Examination, tasks: Sequence[int]) -> None:
        super().__init__()
        self.kind = section.kind
        if not layout.positions:
            raise RankerError(
                f"`model.position` is {section.kind}, and no training row has a position: name the column in "
                "`impression.position`, or set `position: none`"
            )
        self.tasks = tuple(tasks)
        places, effects = len(layout.positions), len(self.tasks)
        self.register_buffer("shares", torch.tensor(layout.positions, dtype=torch.float32))
        self.own = nn.Parameter(torch.zeros(places, effects))
        self.context = nn.ParameterList()
        self._columns: list[int] = []
        names = [column.name for column in layout.ids]
        for name in section.context:
            index = names.index(name) if name in names else None
            if index is None or layout.ids[index].pooled is not None or layout.ids[index].rows > MOST_CONTEXT_ROWS:
                raise RankerError(
                    f"`model.position.context` names {name!r}: a categorical feature of one value, with a vocabulary of at "
                    f"most {MOST_CONTEXT_ROWS:,} values, is expected"
                )
            self._columns.append(layout.id_places[index].start)
            self.context.append(nn.Parameter(torch.zeros(layout.ids[index].rows, places, effects)))

    def by_position(self, ids: Tensor) -> Tensor:
        """[B, P, A] numbers of each row at each position, or [1, P, A] without a context."""
        total = self.own.unsqueeze(0)
        for column, table in zip(self._columns, self.context, strict=True):
            total = total + torch.index_select(table, 0, ids[:, column].long())
        return _STEP * total

    def at(self, numbers: Tensor, position: Tensor, unknown: Tensor) -> Tensor:
        """[B, A] of ``numbers`` [B or 1, P, A] at ``position`` [B], ``unknown`` [B or 1, A] where that is 0."""
        rows, (places, effects) = position.shape[0], numbers.shape[1:]
        place = torch.clamp(position.long(), 1, places) - 1
        wanted = place.reshape(rows, 1, 1).expand(rows, 1, effects)
        found = torch.gather(numbers.expand(rows, places, effects), 1, wanted).squeeze(1)
        return torch.where((position > 0).unsqueeze(1), found, unknown)

    @abstractmethod
    def forward(self, conditional: Tensor, ids: Tensor, position: Tensor | None) -> Tensor:
        """Logits [B, T] with the effect, from ``conditional`` [B, T]; ``position`` [B] may be unknown."""

    @abstractmethod
    def relative(self, ids: Tensor) -> Tensor:
        """[P, A] mean over the rows of ``ids`` of how likely an outcome is at each position, position 1 being 1."""


class AdditiveEffect(PositionEffect):
    """Adds to the logit. The effect is centred: over the positions of the training rows the mean of the odds that it
    multiplies with is 1, and an unknown position changes nothing. So the probabilities of rare outcomes keep their mean.
    """

    def forward(self, conditional: Tensor, ids: Tensor, position: Tensor | None) -> Tensor:
        """Logits [B, T] with the effect, from ``conditional`` [B, T]; as they are where ``position`` [B] is unknown."""
        if position is None:
            return conditional
        numbers = self._centred(ids)
        effect = self.at(numbers, position, torch.zeros_like(numbers[:, 0]))
        return _replaced(conditional, self.tasks, conditional[:, list(self.tasks)] + effect)

    def relative(self, ids: Tensor) -> Tensor:
        """Odds, which are the probability where outcomes are rare."""
        numbers = self._centred(ids)
        return torch.exp(numbers - numbers[:, :1]).mean(dim=0)

    def _centred(self, ids: Tensor) -> Tensor:
        numbers = self.by_position(ids)
        shares = self.shares.reshape(1, -1, 1)
        largest = numbers.detach().amax(dim=1, keepdim=True)
        return numbers - largest - torch.log((shares * torch.exp(numbers - largest)).sum(dim=1, keepdim=True))


class ExaminationEffect(PositionEffect):
    """Multiplies the probability. The examination of an unknown position is the mean over those of the training rows."""

    def __init__(self, layout: Layout, section: Examination, tasks: Sequence[int]) -> None:
        super().__init__(layout, section, tasks)
        with torch.no_grad():
            # θ starts at σ(1) = .73 everywhere below position 1.
            self.own.fill_(1.0 / _STEP)

    def forward(self, conditional: Tensor, ids: Tensor, position: Tensor | None) -> Tensor:
        """Logits [B, T] with the effect, from ``conditional`` [B, T]; ``position`` [B] may be unknown."""
        logits = self._logits(ids)
        weights = self.shares.reshape(1, -1, 1)
        examined, missed = torch.sigmoid(logits), torch.sigmoid(-logits)
        unknown = torch.log((weights * examined).sum(dim=1)) - torch.log((weights * missed).sum(dim=1))
        effect = unknown if position is None else self.at(logits, position, unknown)
        own = conditional[:, list(self.tasks)]
        return _replaced(conditional, self.tasks, product_logits(own, effect.expand_as(own)))

    def relative(self, ids: Tensor) -> Tensor:
        """θ of each position."""
        return torch.sigmoid(self._logits(ids)).mean(dim=0)

    def _logits(self, ids: Tensor) -> Tensor:
        """[B or 1, P, A] logits of θ; θ is 1 at position 1."""
        later = self.by_position(ids)[:, 1:]
        return torch.cat([later.new_full((later.shape[0], 1, later.shape[2]), _CERTAIN), later], dim=1)


def build_position_effect(
    layout: Layout, section: AdditivePosition | Examination, tasks: Sequence[int]
) -> PositionEffect:
    """The effect that a spec's section describes.

    Raises:
        RankerError: it does not suit the layout.
    """
    if isinstance(section, Examination):
        return ExaminationEffect(layout, section, tasks)
    return AdditiveEffect(layout, section, tasks)


def _replaced(logits: Tensor, columns: Sequence[int], values: Tensor) -> Tensor:
    """``logits`` [B, T] with ``values`` [B, A] as the columns ``columns``, which ascend."""
    if len(columns) == logits.shape[1]:
        return values
    places = {column: place for place, column in enumerate(columns)}
    parts = [values[:, places[t]] if t in places else logits[:, t] for t in range(logits.shape[1])]
    return torch.stack(parts, dim=1)
