"""What a detailed record has beside what detectors measure: zeros of gradients, the largest embedding gradient, activations.

Each function gives blocks that are still on the device: the monitor reads all of them in one copy.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ctr_pipeline.gradients.core.activations import SAMPLE, Activation
from ctr_pipeline.gradients.core.embedding_outputs import EmbeddingOutput
from ctr_pipeline.gradients.core.norms import GradientNorms

QUANTILES: Mapping[str, float] = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}


@dataclass(frozen=True, slots=True)
class Block:
    """Measurements that are read together.

    Attributes:
        kind: What they are of: ``gradient``, ``activation``, ``loss``.
        labels: Tensor and statistic of each value.
        values: [K] the numbers, on their device; ``labels`` are of what ``finish`` makes of them.
        finish: Turns the K numbers into those of the labels; as they are where it is None.
    """

    kind: str
    labels: Sequence[tuple[str, str]]
    values: Tensor
    finish: Callable[[list[float]], list[float]] | None = None

    def numbers(self, read: list[float]) -> list[float]:
        """One number for each label."""
        return read if self.finish is None else self.finish(read)


def zero_shares(norms: GradientNorms) -> list[Block]:
    """``zero_share`` of each gradient: share of its elements that are exactly 0; in 16 bits, what underflowed."""
    present = [(name, values) for name, values in zip(norms.names, norms.values, strict=True) if values.numel()]
    if not present:
        return []
    sizes = [values.numel() for _, values in present]
    counts = torch.stack([torch.count_nonzero(values) for _, values in present])
    return [
        Block(
            "gradient",
            [(name, "zero_share") for name, _ in present],
            counts,
            lambda read: [1 - count / size for count, size in zip(read, sizes, strict=True)],
        )
    ]


def largest_rows(outputs: Sequence[EmbeddingOutput], factor: float, samples: Sequence[int]) -> list[Block]:
    """Of each table the lookup with the largest gradient: which row of the table, and which sample asked for it.

    - ``largest_row_norm``: norm of that lookup's gradient, divided by ``factor``;
    - ``largest_row``: its row of the table;
    - ``largest_row_sample``: what ``samples`` has for the batch's row that it belongs to.

    Args:
        outputs: What the tables gave in the forward pass, behind the backward pass.
        factor: Factor that is still on gradients of outputs: the loss scale.
        samples: [B] a number for each row of the batch, such as its row of the training arrays.
    """
    blocks = []
    for output in outputs:
        gradient = output.values.grad
        if gradient is None or not gradient.numel():
            continue
        norms = torch.linalg.vector_norm(gradient, dim=-1).flatten()
        ids = output.ids.flatten()
        if output.padding is not None:
            norms = torch.where(ids == output.padding, 0.0, norms)
        size, at = norms.max(dim=0)
        lookups = output.ids.numel() // len(output.ids)

        def finish(read: list[float], lookups: int = lookups) -> list[float]:
            return [read[0] / factor, read[1], float(samples[int(read[2]) // lookups])]

        labels = [(output.name, stat) for stat in ("largest_row_norm", "largest_row", "largest_row_sample")]
        # A row or a place above 2⁵³ would be rounded; no table has so many.
        blocks.append(Block("gradient", labels, torch.stack([size.double(), ids[at].double(), at.double()]), finish))
    return blocks


def activation_quantiles(activations: Sequence[Activation]) -> list[Block]:
    """``q01`` … ``q99`` of what each hidden activation gave, from a sample of at most 1,024 values: one sort for all."""
    by_size: dict[int, list[Activation]] = {}
    for activation in activations:
        if activation.sample is not None and activation.sample.numel():
            by_size.setdefault(activation.sample.numel(), []).append(activation)
    blocks = []
    for size, alike in by_size.items():
        places = [round(share * (size - 1)) for share in QUANTILES.values()]
        ordered = torch.stack([one.sample for one in alike if one.sample is not None]).sort(dim=1).values
        labels = [(one.name, stat) for one in alike for stat in QUANTILES]
        blocks.append(Block("activation", labels, ordered[:, places].flatten()))
    return blocks


def task_counts(tasks: Sequence[str], counts: Tensor) -> Block:
    """``known_labels`` of each task, from [T] counts."""
    return Block("loss", [(task, "known_labels") for task in tasks], counts)


__all__ = ["QUANTILES", "SAMPLE", "Block", "activation_quantiles", "largest_rows", "task_counts", "zero_shares"]
