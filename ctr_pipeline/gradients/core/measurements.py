"""What a detailed record says of each gradient beside its norm: zeros, and the row of a table that has most of it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctr_pipeline.gradients.core.norms import GradientNorms

STATISTICS = ("zero_share", "largest_row_norm", "largest_row")


def gradient_measurements(
    norms: GradientNorms, named: Sequence[tuple[str, nn.Parameter]]
) -> tuple[list[tuple[str, str]], Tensor]:
    """Statistics of the gradients, on their device.

    - ``zero_share``: share of the elements that are exactly 0; in 16 bits, what underflowed.
    - ``largest_row_norm``, ``largest_row``: of a sparse gradient the largest norm of a row, and which row of the table that is.

    Args:
        norms: The gradients of a step.
        named: The parameters, for the rows of sparse gradients.

    Returns:
        Tensor and statistic of each value, and [K] the values, float64.
    """
    parameters = dict(named)
    labels: list[tuple[str, str]] = []
    values: list[Tensor] = []
    for name, gradient in zip(norms.names, norms.values, strict=True):
        if not gradient.numel():
            continue
        labels.append((name, "zero_share"))
        values.append(1 - torch.count_nonzero(gradient).double() / gradient.numel())
        whole = parameters[name].grad
        if whole is not None and whole.is_sparse:
            size, at = torch.linalg.vector_norm(gradient, dim=1).max(dim=0)
            labels += [(name, "largest_row_norm"), (name, "largest_row")]
            values += [size.double(), whole._indices()[0][at].double()]
    return labels, torch.stack(values) if values else torch.zeros(0, dtype=torch.float64)
