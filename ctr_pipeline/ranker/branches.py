"""An ensemble inside the ranker: branches on shared inputs, each with heads of its own, and the fusion of their logits."""

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ctr_pipeline.ranker.initialisation import start_at_zero
from ctr_pipeline.ranker.split_columns import SplitColumns
from ctr_pipeline.ranker.tower import Tower
from ctr_pipeline.spec.branches import Branch, Fusion
from ctr_pipeline.spec.interactions import InteractionSection
from ctr_pipeline.spec.model import Model


def named_interactions(model: Model) -> Iterator[tuple[str, InteractionSection]]:
    """The interactions of the model, or of its branches one after the other, by their names in the ranker."""
    for place, section in enumerate(model.interactions):
        yield f"{section.kind}_{place}", section
    for branch in model.branches:
        for place, section in enumerate(branch.interactions):
            yield f"{branch.name}_{section.kind}_{place}", section


class BranchTowers(nn.ModuleDict):
    """The hidden layers of each branch, by its name; a branch of interactions alone has none.

    Args:
        numbers: Width of the encoded numbers.
        embedded: Width of all embeddings.
        model: The spec's model section.
    """

    def __init__(self, numbers: int, embedded: int, model: Model) -> None:
        super().__init__()
        self.out_width = 0
        self.owners: list[str] = []
        """Names of the branches that have hidden layers."""
        for branch in model.branches:
            hidden = model.hidden if branch.hidden is None else branch.hidden
            if hidden:
                name = branch.name
                # A part cannot be called as an attribute of a module is, such as `half`; a branch can.
                while hasattr(self, name):
                    name += "_"
                tower = Tower(numbers, embedded, model.model_copy(update={"hidden": hidden}))
                self[name] = tower
                self.owners.append(branch.name)
                self.out_width += tower.out_width

    def _towers(self) -> Iterator[Tower]:
        for tower in self.values():
            assert isinstance(tower, Tower)
            yield tower

    @property
    def linears(self) -> list[nn.Linear]:
        """The linear layers, branch by branch."""
        return [linear for tower in self._towers() for linear in tower.linears]

    @property
    def firsts(self) -> list[nn.Linear]:
        """Those that read the inputs."""
        return [tower.linears[0] for tower in self._towers()]

    @property
    def named_linears(self) -> Iterator[tuple[str, nn.Linear]]:
        """The linear layers by the names of their initial weights."""
        for name, tower in zip(self.owners, self._towers(), strict=True):
            for place, linear in enumerate(tower.linears):
                yield f"hidden layer {place} of {name}", linear

    def forward(self, numbers: Tensor | SplitColumns, embedded: Tensor | SplitColumns) -> Tensor:
        """[B, out_width] of [B, numbers] and [B, embedded], branch by branch."""
        return torch.cat([tower(numbers, embedded) for tower in self.values()], dim=1)


class FusedOutputs(nn.Linear):
    """The heads of K branches and the fusion of their logits.

    Branch k has the logits z_k = W_k h_k + b, with h_k what it computes of the row; b is shared. With a_k = 1, or 0 for a
    branch that is left out:

    - ``average``: z = Σ a_k z_k / Σ a_k;
    - ``gated``: z = Σ a_k g_k z_k / Σ a_k g_k, g = softmax(W_g h + b_g) of what all branches compute; starts as the average
      (mixture of experts, Jacobs et al., 1991);
    - ``logistic``: z_t = Σ a_k v_kt ⟨w_kt, h_k⟩ / Σ a_k + b_t, with weights v that start at 1 (stacking, Wolpert, 1992).

    In training each row leaves out each branch with the probability of ``branch_dropout``, and none where that would be all:
    the branches then do not lean on each other, so each is a model by itself and their fusion an ensemble (dropout of whole
    parts: Srivastava et al., JMLR 2014). A branch that :meth:`leave_out` left out stays so.

    ``weight`` is [T, H], the columns of the branches' W_k side by side, and ``bias`` [T]. A part of h that belongs to no
    branch is read by each of them, with the same weights.

    Args:
        widths: Widths of the parts of h, side by side.
        owners: For each of them the branch that computes it, K for one that belongs to none.
        branches: Number of branches K.
        tasks: Number of tasks T.
        fusion: The spec's section.
    """

    counted: Tensor
    owner_of: Tensor

    def __init__(self, widths: Sequence[int], owners: Sequence[int], branches: int, tasks: int, fusion: Fusion) -> None:
        super().__init__(sum(widths), tasks)
        self.widths, self.owners, self.branches = list(widths), list(owners), branches
        self.kind: Literal["average", "gated", "logistic"] = fusion.kind
        self.branch_dropout = fusion.branch_dropout
        # In the stored state: what is left out stays so, in a resumed training and in a bundle.
        self.register_buffer("counted", torch.ones(self.branches))
        columns = [owner for width, owner in zip(widths, owners, strict=True) for _ in range(width)]
        self.register_buffer("owner_of", torch.tensor(columns, dtype=torch.int64), persistent=False)
        self.gate: nn.Linear | None = None
        if fusion.kind == "gated":
            self.gate = nn.Linear(self.in_features, self.branches)
            start_at_zero(self.gate)
            nn.init.zeros_(self.gate.bias)
        self.mixing = nn.Parameter(torch.ones(self.branches, tasks)) if fusion.kind == "logistic" else None

    def products(self, hidden: Tensor) -> Tensor:
        """[B, K, T] W_k h_k of h [B, H]."""
        found: list[Tensor | None] = [None] * (self.branches + 1)
        parts = zip(
            torch.split(hidden, self.widths, dim=1),
            torch.split(self.weight, self.widths, dim=1),
            self.owners,
            strict=True,
        )
        for part, weight, owner in parts:
            product = nn.functional.linear(part, weight)
            before = found[owner]
            found[owner] = product if before is None else before + product
        *own, shared = found
        scores = torch.stack([product for product in own if product is not None], dim=1)
        return scores if shared is None else scores + shared.unsqueeze(1)

    def own(self, hidden: Tensor) -> Tensor:
        """[B, K, T] the logits z_k of each branch by itself, of h [B, H]."""
        return self.products(hidden) + self.bias

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T] the fused logits of h [B, H]."""
        scores = self.products(hidden)
        shares = self._kept(hidden)
        if self.gate is not None:
            # What is left out is so as an input of the gate too.
            shares = shares * torch.softmax(self.gate(hidden * self._by_column(self.counted)), dim=1)
        shares = shares / shares.sum(dim=1, keepdim=True)
        if self.mixing is not None:
            scores = scores * self.mixing
        return (shares.unsqueeze(2) * scores).sum(dim=1) + self.bias

    def _by_column(self, flags: Tensor) -> Tensor:
        """[H] the value of each column's branch; 1 for columns of none."""
        return torch.index_select(torch.cat([flags, flags.new_ones(1)]), 0, self.owner_of)

    def _kept(self, hidden: Tensor) -> Tensor:
        """[B, K] or [1, K]: 1 for the branches that count, 0 for others."""
        counted = self.counted.reshape(1, -1)
        if not self.training or self.branch_dropout == 0:
            return counted
        drawn = torch.rand((hidden.shape[0], self.branches), device=hidden.device) >= self.branch_dropout
        kept = counted * drawn
        return torch.where(kept.sum(dim=1, keepdim=True) > 0, kept, counted)

    def leave_out(self, branch: int) -> None:
        """From now on the branch has no part in the logits."""
        self.counted[branch] = 0.0

    def going_on(self) -> list[bool]:
        """[K] whether each branch is not left out."""
        return [bool(value) for value in self.counted.tolist()]


def weak_branches(entropies: Sequence[float | None], going_on: Sequence[bool], margin: float) -> list[int]:
    """The branches that go on although their normalised entropy is more than ``margin`` above the best branch's.

    Args:
        entropies: [K] mean normalised entropy of each branch on the validation; None where it is not known.
        going_on: [K] whether each is not stopped.
        margin: Largest distance from the best.
    """
    known = [
        value
        for value, own in zip(entropies, going_on, strict=True)
        if own and value is not None and math.isfinite(value)
    ]
    if not known:
        return []
    limit = min(known) + margin
    return [
        place
        for place, (value, own) in enumerate(zip(entropies, going_on, strict=True))
        if own and value is not None and not value <= limit
    ]


def branch_parts(
    model: Model, towers: nn.Module, interactions: Sequence[int], shared: int
) -> tuple[list[int], list[int]]:
    """Widths of the hidden units' parts in their order, and which branch computes each.

    Args:
        model: The spec's model section.
        towers: The :class:`BranchTowers`.
        interactions: Widths of the outputs of :func:`named_interactions`, in their order.
        shared: Width of what belongs to no branch, behind the others; 0 where there is none.
    """
    assert isinstance(towers, BranchTowers)
    places = {branch.name: place for place, branch in enumerate(model.branches)}
    widths = [tower.out_width for tower in towers.values() if isinstance(tower, Tower)]
    owners = [places[name] for name in towers.owners]
    owners += [place for place, branch in enumerate(model.branches) for _ in branch.interactions]
    rest = [shared] if shared else []
    return [*widths, *interactions, *rest], [*owners, *(len(model.branches) for _ in rest)]


def branch_names(branches: Sequence[Branch]) -> tuple[str, ...]:
    """Their names, in the order of the spec."""
    return tuple(branch.name for branch in branches)
