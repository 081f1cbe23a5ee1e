"""Follows a run step by step: norms at every step, tensors every N steps, and whatever the detectors observe."""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ctr_pipeline.gradients.core.activations import Activation, ActivationObserver
from ctr_pipeline.gradients.core.detector import Detector
from ctr_pipeline.gradients.core.detector_registry import registered_detectors
from ctr_pipeline.gradients.core.findings import HealthReport, NamedFinding, strongest
from ctr_pipeline.gradients.core.layers import layer_norms
from ctr_pipeline.gradients.core.step_view import LossView, Probe, StepRecord, StepStart, StepView, TensorRow, Update

RING = 64
"""Records kept for a failed step, and the window of the running median."""

MIN_HISTORY = 20
"""Steps before a norm is compared with the median; the first steps of a run have no typical norm yet."""


class GradientMonitor:
    """Keeps the running statistics of a run, small enough to go into every checkpoint.

    Call :meth:`begin`, run the forward pass inside :meth:`forward`, then :meth:`after_update` behind the update, or
    :meth:`stop` instead of it.

    Args:
        model: The model; its hidden activations are observed.
        every: Steps between detailed records.
        detectors: Objects that observe the run; by default one of each registered class.
    """

    def __init__(self, model: nn.Module, every: int, detectors: Sequence[Detector] | None = None) -> None:
        self._observer, self._every = ActivationObserver(model), every
        self._detectors = [made() for made in registered_detectors()] if detectors is None else list(detectors)
        self._probing = False
        self._activations: list[Activation] = []
        self._steps = 0
        self._norms: deque[float] = deque(maxlen=RING)
        self._sorted: list[float] = []
        self.ring: deque[dict[str, Any]] = deque(maxlen=RING)
        self.rows: list[TensorRow] = []

    @property
    def detectors(self) -> list[str]:
        """Names of the detectors."""
        return [detector.name for detector in self._detectors]

    def is_probe(self, step: int) -> bool:
        """Whether ``step`` gets a detailed record."""
        return step % self._every == 0

    def begin(self, step: int) -> None:
        """Call before the forward pass: arms the detailed record where one is due."""
        self._probing = self.is_probe(step)
        self._activations = []
        for detector in self._detectors:
            detector.begin(StepStart(step=step, probed=self._probing))

    @contextmanager
    def forward(self) -> Iterator[None]:
        """The block in which the step's forward pass runs."""
        if not self._probing:
            yield
            return
        with self._observer.observe() as found:
            yield
        self._activations = found

    def _note_norm(self, norm: float) -> None:
        if len(self._norms) == RING:
            del self._sorted[bisect_left(self._sorted, self._norms[0])]
        self._norms.append(norm)
        insort(self._sorted, norm)

    def norm_ratio(self, total: float) -> float | None:
        """``total`` relative to the median of the last norms; None while there are fewer than 20."""
        if len(self._norms) < MIN_HISTORY:
            return None
        typical = self._sorted[len(self._sorted) // 2]
        if len(self._sorted) % 2 == 0:
            typical = (self._sorted[len(self._sorted) // 2 - 1] + typical) / 2
        return total / typical if typical > 0 else None

    def layer_norms(self, names: Sequence[str], norms: Sequence[float]) -> dict[str, float]:
        """Gradient norm of each layer, on a step with a detailed record; else empty."""
        return layer_norms(dict(zip(names, norms, strict=True))) if self._probing else {}

    def after_update(
        self,
        record: StepRecord,
        names: Sequence[str],
        norms: Sequence[float],
        loss: LossView | None,
        updates: Sequence[Update] = (),
    ) -> None:
        """Call after the optimizers stepped.

        Args:
            record: The step.
            names: Parameters with a gradient.
            norms: Norm of each of their gradients.
            loss: Logits and their gradient; only looked at on steps with a detailed record.
            updates: The weights before and after the update; likewise.
        """
        if not record.skipped:
            self._note_norm(record.grad_norm)
        probe = None
        if self._probing:
            self.rows += [(record.step, name, "gradient", "norm", n) for name, n in zip(names, norms, strict=True)]
            probe = Probe(loss=loss, activations=self._activations, updates=updates)
        self._observe(record, False, names, norms, probe)
        self._activations = []

    def note(self, step: int, labels: Sequence[tuple[str, str]], kind: str, values: Sequence[float]) -> None:
        """Add measurements of ``step`` to the detailed record: tensor and statistic of each value."""
        self.rows += [(step, tensor, kind, stat, value) for (tensor, stat), value in zip(labels, values, strict=True)]

    def stop(self, record: StepRecord, loss: LossView | None = None) -> None:
        """Note the step that is about to stop the run, with its ``loss`` where it is measured in detail."""
        probe = Probe(loss=loss, activations=self._activations, updates=()) if self._probing else None
        self._observe(record, True, (), (), probe)

    def _observe(
        self, record: StepRecord, stopped: bool, names: Sequence[str], norms: Sequence[float], probe: Probe | None
    ) -> None:
        self._steps += 1
        self.ring.append(record.to_dict())
        asked: list[tuple[Tensor, Callable[[list[float]], None]]] = []
        view = StepView(
            record=record,
            stopped=stopped,
            names=names,
            norms=norms,
            probe=probe,
            read=lambda values, receive: asked.append((values, receive)),
            note=lambda tensor, kind, stat, value: self.rows.append((record.step, tensor, kind, stat, value)),
        )
        for detector in self._detectors:
            detector.observe(view)
        if not asked:
            return
        # The record's only wait for the device: what all detectors read, in one tensor.
        device = asked[0][0].device
        host = torch.cat([values.detach().flatten().to(device, torch.float64) for values, _ in asked]).tolist()
        for values, receive in asked:
            receive(host[: values.numel()])
            host = host[values.numel() :]

    def validated(self, step: int, relative: Mapping[str, float | None]) -> None:
        """Call after a validation.

        Args:
            step: Steps taken.
            relative: Each task's loss relative to that of the best constant; None where the labels cannot tell.
        """
        for detector in self._detectors:
            if (receive := getattr(detector, "validated", None)) is not None:
                receive(step, relative)

    def broken(self) -> NamedFinding | None:
        """The strongest error of a detector that stops the run; None where there is none."""
        stopping = [detector for detector in self._detectors if getattr(detector, "stops", False)]
        errors = [found for found in map(_named, stopping) if found.finding.severity == "error"]
        return next(iter(strongest(errors)), None)

    def report(self) -> HealthReport:
        """The run so far."""
        return HealthReport(steps=self._steps, findings=tuple(_named(detector) for detector in self._detectors))

    def state_dict(self) -> dict[str, Any]:
        """Plain values that :meth:`load_state_dict` takes."""
        return {
            "ring": list(self.ring),
            "rows": list(self.rows),
            "norms": list(self._norms),
            "steps": self._steps,
            "detectors": {detector.name: detector.state_dict() for detector in self._detectors},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint.

        Raises:
            KeyError: the checkpoint has no state of one of the detectors.
        """
        self.ring = deque(state["ring"], maxlen=RING)
        self.rows = [(row[0], row[1], row[2], row[3], row[4]) for row in state["rows"]]
        self._norms = deque(state["norms"], maxlen=RING)
        self._sorted = sorted(self._norms)
        self._steps = state["steps"]
        for detector in self._detectors:
            detector.load_state_dict(state["detectors"][detector.name])


def _named(detector: Detector) -> NamedFinding:
    consequence = getattr(detector, "consequence", False)
    return NamedFinding(name=detector.name, finding=detector.finding(), consequence=consequence)
