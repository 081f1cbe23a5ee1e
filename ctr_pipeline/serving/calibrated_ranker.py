"""What is exported: a trained ranker with the calibration of its tasks, on whole rows or on requests."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ctr_pipeline.calibration import Calibrator
from ctr_pipeline.calibration.field_offsets import offsets_module
from ctr_pipeline.calibration.modules import curves
from ctr_pipeline.features.layout import Layout
from ctr_pipeline.features.request_columns import RequestColumns
from ctr_pipeline.ranker import Ranker
from ctr_pipeline.ranker.shared_inputs import SharedInputs


class CalibratedRanker(nn.Module):
    """What is exported: the ranker, and the calibration of each task's logit.

    Args:
        ranker: The trained ranker.
        calibrators: One for each task, in order.
        layout: The layout that the ranker was built with, and the features in which candidates differ.
    """

    def __init__(self, ranker: Ranker, calibrators: Sequence[Calibrator], layout: Layout) -> None:
        super().__init__()
        self.ranker = ranker
        self.requests = SharedInputs(ranker, layout) if shares_inputs(layout, ranker) else None
        self._calibration = (curves(calibrators),)
        # Buffers of this module, so that they have the names and the place in the file that earlier bundles gave them.
        self._own: dict[str, str] = {}
        for name, values in self._calibration[0].state_dict().items():
            self._own[name] = name.replace(".", "_")
            self.register_buffer(self._own[name], values)
        self.field_offsets = offsets_module(calibrators)

    def forward(
        self, numeric: Tensor, ids: Tensor, shared_numeric: Tensor | None = None, shared_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits [N, T] and calibrated probabilities [N, T] of numeric [N, D] and ids [N, F].

        With ``shared_numeric`` [G, …] and ``shared_ids`` [G, …], what the C candidates of each of G requests share, of numeric
        [G, C, …] and ids [G, C, …] without it, N = G·C. What is computed of that alone is computed G times.
        """
        if shared_numeric is None or shared_ids is None:
            inputs = self.ranker.encode(numeric, ids)
        else:
            assert self.requests is not None, "built with the layout of a model whose candidates share inputs"
            inputs = self.requests(self.ranker, shared_numeric, shared_ids, numeric, ids)
        logits = self.ranker.score(self.ranker.hidden(inputs), inputs)
        return logits, torch.sigmoid(self._along_the_funnel(self.calibrate(logits, inputs.ids)))

    def calibrate(self, logits: Tensor, ids: Tensor) -> Tensor:
        """Calibrated logits [N, T] of logits [N, T] and ids [N, F], each task's by itself."""
        values = {name: self.get_buffer(own) for name, own in self._own.items()}
        calibrated: Tensor = functional_call(self._calibration[0], values, (logits,))
        return calibrated if self.field_offsets is None else calibrated + self.field_offsets(ids)

    def _along_the_funnel(self, calibrated: Tensor) -> Tensor:
        """As :func:`~ctr_pipeline.calibration.funnel.calibrated_logits`: no task likelier than its parent."""
        found: list[Tensor] = []
        for own, parent in zip(torch.split(calibrated, 1, dim=1), self.ranker.parents, strict=True):
            found.append(own if parent < 0 else torch.minimum(own, found[parent]))
        return torch.cat(found, dim=1)


def shares_inputs(layout: Layout, ranker: Ranker) -> bool:
    """Whether the candidates of a request share inputs that the graph reads once."""
    if ranker.sequences is not None:
        return True
    columns = RequestColumns.of(layout)
    return bool(layout.candidate_features and (columns.shared_numbers or columns.shared_ids))


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; each submodule then gets its own mode back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
