"""Calibrators as torch modules, for the exported graph. Imported only where torch is needed."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ctr_pipeline.calibration.calibrator import Calibrator


def curves(calibrators: Sequence[Calibrator]) -> nn.Module:
    """The calibrators of all tasks as one module, whether they are of one kind or of several; without their offsets."""
    kinds = {type(calibrator) for calibrator in calibrators}
    if len(kinds) == 1:
        return kinds.pop().module(calibrators)
    return ByTask([type(calibrator).module([calibrator]) for calibrator in calibrators])


class FieldOffsets(nn.Module):
    """The offset of each row's value for each task.

    A table with a row for each embedding row up to the last that has an offset, and one of zeros for all after it.

    Args:
        columns: For each of T tasks, the column of the ids that holds its field.
        offsets: For each task, the offsets by embedding row; of other rows it is 0.
    """

    columns: Tensor
    table: Tensor

    def __init__(self, columns: Sequence[int], offsets: Sequence[Mapping[int, float]]) -> None:
        super().__init__()
        table = torch.zeros(2 + max((max(of, default=-1) for of in offsets), default=-1), len(offsets))
        for task, of in enumerate(offsets):
            table[list(of), task] = torch.tensor(list(of.values()), dtype=torch.float32)
        self.register_buffer("columns", torch.tensor(columns))
        self.register_buffer("table", table)

    def forward(self, ids: Tensor) -> Tensor:
        """Offsets [B, T] of ids [B, F]."""
        rows = torch.clamp(ids.index_select(1, self.columns), 0, len(self.table) - 1)
        return torch.gather(self.table, 0, rows)


class Affine(nn.Module):
    """Logits [B, T] times ``slopes`` [T] plus ``offsets`` [T]."""

    slopes: Tensor
    offsets: Tensor

    def __init__(self, slopes: Sequence[float], offsets: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("slopes", torch.tensor(slopes, dtype=torch.float32))
        self.register_buffer("offsets", torch.tensor(offsets, dtype=torch.float32))

    def forward(self, logits: Tensor) -> Tensor:
        """Calibrated logits [B, T]."""
        return logits * self.slopes + self.offsets


class BetaCurve(nn.Module):
    """``a`` log p - ``b`` log(1 - p) + ``c`` [T] of logits [B, T], p their sigmoid."""

    a: Tensor
    b: Tensor
    c: Tensor

    def __init__(self, a: Sequence[float], b: Sequence[float], c: Sequence[float]) -> None:
        super().__init__()
        for name, values in (("a", a), ("b", b), ("c", c)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))

    def forward(self, logits: Tensor) -> Tensor:
        """Calibrated logits [B, T]."""
        # log(1 + e^x) as max(x, 0) + log(1 + e^-|x|): finite for all x, in operations that ONNX has.
        tail = torch.log(1 + torch.exp(-torch.abs(logits)))
        return self.b * (torch.relu(logits) + tail) - self.a * (torch.relu(-logits) + tail) + self.c


class ByTask(nn.Module):
    """Calibrators of different kinds: each task's own module, for its column of logits [B, T]."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.tasks = nn.ModuleList(modules)

    def forward(self, logits: Tensor) -> Tensor:
        """Calibrated logits [B, T]."""
        return torch.cat([own(logits[:, task : task + 1]) for task, own in enumerate(self.tasks)], dim=1)


class PiecewiseLinear(nn.Module):
    """A rising line for each task, with slope 1 outside its knots.

    A sum of ramps, one for each piece: every term rises with the logit, so that rounding cannot turn two rows around.

    Args:
        logits: For each of T tasks, the logits of its knots, rising.
        calibrated: Their calibrated logits, rising.
    """

    starts: Tensor
    widths: Tensor
    slopes: Tensor
    lowest: Tensor
    highest: Tensor
    base: Tensor

    def __init__(self, logits: Sequence[Sequence[float]], calibrated: Sequence[Sequence[float]]) -> None:
        super().__init__()
        pieces = max(1, max(len(knots) for knots in logits) - 1)
        starts, widths, slopes = (torch.zeros(len(logits), pieces, dtype=torch.float64) for _ in range(3))
        for task, (at, heights) in enumerate(zip(logits, calibrated, strict=True)):
            x, y = torch.tensor(at, dtype=torch.float64), torch.tensor(heights, dtype=torch.float64)
            count = len(x) - 1
            starts[task, :count], widths[task, :count] = x[:-1], x.diff()
            slopes[task, :count] = y.diff() / x.diff()
        for name, values in (("starts", starts), ("widths", widths), ("slopes", slopes)):
            self.register_buffer(name, values.float())
        self.register_buffer("lowest", torch.tensor([knots[0] for knots in logits], dtype=torch.float32))
        self.register_buffer("highest", torch.tensor([knots[-1] for knots in logits], dtype=torch.float32))
        self.register_buffer("base", torch.tensor([heights[0] for heights in calibrated], dtype=torch.float32))

    def forward(self, logits: Tensor) -> Tensor:
        """Calibrated logits [B, T] of logits [B, T]."""
        ramps = torch.minimum(torch.relu(logits.unsqueeze(-1) - self.starts), self.widths)
        outside = torch.relu(logits - self.highest) - torch.relu(self.lowest - logits)
        return self.base + (ramps * self.slopes).sum(dim=-1) + outside
