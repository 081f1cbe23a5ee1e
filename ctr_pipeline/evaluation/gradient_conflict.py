"""Whether the tasks' gradients on what they share work against each other, beyond their own noise. Needs no torch.

A rare task has few positives in a batch, so the cosine of two tasks' gradients is mostly noise, and labels of the same rows
make their noise alike. So the gradients of several blocks of rows are compared: the product of two tasks is taken between
different blocks, where noise is independent, and each task's own blocks tell how much of its gradient repeats.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ctr_pipeline.evaluation.metrics import EvaluationError, Interval

FEWEST_BLOCKS = 4

REPEATS = 0.05
"""Cosine of a task's gradients in two halves of the rows above which it is measured at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPair:
    """The gradients of two tasks.

    Attributes:
        tasks: Their names.
        observed: Cosine of the gradients over all rows, noise included.
        cosine: Cosine of what of the gradients repeats between blocks, with the jackknife's 95 % interval; None where that
            of a task does not repeat enough, or the interval holds all that a cosine can be.
    """

    tasks: tuple[str, str]
    observed: float
    cosine: Interval | None

    @property
    def conflicts(self) -> bool:
        """Whether the gradients surely work against each other."""
        return self.cosine is not None and self.cosine.high < 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientConflict:
    """The gradients of all tasks on the weights that they share.

    Attributes:
        split_half: By task, the mean cosine of its gradient between two halves of the rows: what repeats of it.
        norms: By task, the norm of its gradient over all rows.
        pairs: Each pair of tasks.
        rows: Rows over which the gradients were taken.
        blocks: Blocks that these are divided into.
        parameters: Dense weights that the tasks share.
    """

    split_half: Mapping[str, float]
    norms: Mapping[str, float]
    pairs: tuple[TaskPair, ...]
    rows: int
    blocks: int
    parameters: int

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values, each pair with ``conflicts``."""
        return {
            "rows": self.rows,
            "blocks": self.blocks,
            "parameters": self.parameters,
            "split_half": dict(self.split_half),
            "norms": dict(self.norms),
            "pairs": [
                {
                    "tasks": list(pair.tasks),
                    "observed": pair.observed,
                    "cosine": None if pair.cosine is None else pair.cosine.to_json(),
                    "conflicts": pair.conflicts,
                }
                for pair in self.pairs
            ],
        }


def conflict_of(tasks: Sequence[str], products: NDArray[np.float64], *, rows: int, parameters: int) -> GradientConflict:
    """The conflict of T tasks from the inner products of their gradients in K blocks.

    Args:
        tasks: [T] names.
        products: [T, K, T, K] inner products of the gradients of a task in a block with those of another in another.
        rows: Rows of all blocks.
        parameters: Weights that the gradients are of.

    Raises:
        EvaluationError: the shape is another one, or there are fewer than :data:`FEWEST_BLOCKS` blocks.
    """
    count, blocks = len(tasks), products.shape[1]
    if products.shape != (count, blocks, count, blocks) or blocks < FEWEST_BLOCKS:
        raise EvaluationError(
            f"expected products of {count} tasks in at least {FEWEST_BLOCKS} blocks; found shape {products.shape}"
        )
    whole = products.sum(axis=(1, 3))
    norms = np.sqrt(np.maximum(np.diagonal(whole), 0.0))
    halves = _split_halves(products)
    repeats = halves > REPEATS
    everything = np.arange(blocks)
    estimate = _between_blocks(products, everything)
    left_out = np.stack([_between_blocks(products, np.delete(everything, block)) for block in everything])
    margins = special.stdtrit(blocks - 1, 0.975) * np.sqrt(
        (blocks - 1) / blocks * np.square(left_out - left_out.mean(axis=0)).sum(axis=0)
    )
    pairs = []
    for a in range(count):
        for b in range(a + 1, count):
            lengths = norms[a] * norms[b]
            cosine = None
            if repeats[a] and repeats[b] and np.isfinite(estimate[a, b]) and np.isfinite(margins[a, b]):
                value, low, high = np.clip(estimate[a, b] + margins[a, b] * np.array([0.0, -1.0, 1.0]), -1.0, 1.0)
                # An interval of all that a cosine can be tells nothing.
                cosine = Interval(float(value), float(low), float(high)) if high - low < 2 else None
            observed = float(whole[a, b] / lengths) if lengths > 0 else 0.0
            pairs.append(TaskPair(tasks=(tasks[a], tasks[b]), observed=observed, cosine=cosine))
    return GradientConflict(
        split_half=dict(zip(tasks, map(float, halves), strict=True)),
        norms=dict(zip(tasks, map(float, norms), strict=True)),
        pairs=tuple(pairs), rows=rows, blocks=blocks, parameters=parameters,
    )  # fmt: skip


def _split_halves(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """[T] mean cosine of each task's gradient between halves of the blocks, over some ways to divide them."""
    tasks, blocks = products.shape[:2]
    generator = np.random.default_rng(0)
    found = np.zeros(tasks)
    ways = 20
    for _ in range(ways):
        order = generator.permutation(blocks)
        first, second = order[: blocks // 2], order[blocks // 2 :]
        for task in range(tasks):
            own = products[task, :, task, :]
            lengths = np.sqrt(own[np.ix_(first, first)].sum() * own[np.ix_(second, second)].sum())
            found[task] += own[np.ix_(first, second)].sum() / lengths / ways if lengths > 0 else 0.0
    return found


def _between_blocks(products: NDArray[np.float64], chosen: NDArray[np.intp]) -> NDArray[np.float64]:
    """[T, T] cosines from products between different blocks alone; NaN where a squared length is not above 0."""
    own = products[:, chosen][:, :, :, chosen]
    between = own.sum(axis=(1, 3)) - np.einsum("akbk->ab", own)
    lengths = np.diagonal(between)
    roots = np.sqrt(np.where(lengths > 0, lengths, np.nan))
    cosines: NDArray[np.float64] = between / np.outer(roots, roots)
    return cosines
