"""Several processes train one model: sums over processes, sparse gradients included."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ctr_pipeline.training.dataloader import Shard


class ProcessGroup:
    """The processes of a run. With one process every operation is the identity.

    Gradients are summed and not averaged: each process divides its loss by the count over all processes, so the sum
    is the gradient of the whole batch whatever the shares of known labels are.

    Args:
        shard: Rank and number of processes; with more than one, torch.distributed is initialised.
        device: Where this process computes.
    """

    def __init__(self, shard: Shard, device: torch.device) -> None:
        self.shard = shard
        self.device = device

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.shard.rank == 0

    @property
    def is_single(self) -> bool:
        """Whether there is but one process."""
        return self.shard.world == 1

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum of ``tensor`` over the processes, in place."""
        if not self.is_single:
            dist.all_reduce(tensor)
        return tensor

    def barrier(self) -> None:
        """Wait for all processes."""
        if not self.is_single:
            dist.barrier()

    def gather_objects(self, value: Any) -> list[Any]:
        """``value`` of every process, by rank."""
        if self.is_single:
            return [value]
        gathered: list[Any] = [None] * self.shard.world
        dist.all_gather_object(gathered, value)
        return gathered

    def sum_gradients(self, parameters: Sequence[nn.Parameter], extra: Tensor) -> Tensor:
        """Replace every gradient by its sum over the processes.

        Args:
            parameters: All parameters, in the same order on every process.
            extra: [K] further values to sum, which travel along.

        Returns:
            The sum of ``extra``.
        """
        if self.is_single:
            return extra
        dense = [p for p in parameters if p.grad is not None and not p.grad.is_sparse]
        flat = torch.cat([*(p.grad.flatten() for p in dense if p.grad is not None), extra])
        dist.all_reduce(flat)
        start = 0
        for parameter in dense:
            end = start + parameter.numel()
            parameter.grad = flat[start:end].view_as(parameter)
            start = end
        for parameter in parameters:
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = self._sum_sparse(parameter.grad.coalesce())
        return flat[start:]

    def _sum_sparse(self, gradient: Tensor) -> Tensor:
        """Every process receives all touched rows; adding up is left to coalesce, in the order of the ranks."""
        rows, values = gradient.indices()[0], gradient.values()
        counts = torch.zeros(self.shard.world, dtype=torch.int64, device=self.device)
        counts[self.shard.rank] = len(rows)
        dist.all_reduce(counts)
        sizes = [int(count) for count in counts]
        longest = max(sizes)
        padded_rows = rows.new_zeros(longest)
        padded_rows[: len(rows)] = rows
        padded_values = values.new_zeros((longest, values.shape[1]))
        padded_values[: len(rows)] = values
        all_rows = [torch.empty_like(padded_rows) for _ in sizes]
        all_values = [torch.empty_like(padded_values) for _ in sizes]
        dist.all_gather(all_rows, padded_rows)
        dist.all_gather(all_values, padded_values)
        joined_rows = torch.cat([part[:size] for part, size in zip(all_rows, sizes, strict=True)])
        joined_values = torch.cat([part[:size] for part, size in zip(all_values, sizes, strict=True)])
        size = list(gradient.shape)
        return torch.sparse_coo_tensor(joined_rows.unsqueeze(0), joined_values, size, check_invariants=False).coalesce()
