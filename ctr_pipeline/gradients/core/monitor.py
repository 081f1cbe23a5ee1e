"""Follows a run step by step: numbers of every step, norms by tensor and details every so often, and what detectors observe.

- Every step: loss, gradient norm and the other numbers of :class:`StepRecord`; norms by tensor of the last 64 steps.
- Every ``every`` steps: the norm of each tensor's gradient goes into the record.
- Every ``details`` steps: whatever needs the tensors themselves.
"""

import math
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
from ctr_pipeline.gradients.core.embedding_outputs import EmbeddingObserver, EmbeddingOutput
from ctr_pipeline.gradients.core.findings import HealthReport, NamedFinding, strongest
from ctr_pipeline.gradients.core.layers import joined_norms, layers_of
from ctr_pipeline.gradients.core.measurements import Block, activation_quantiles
from ctr_pipeline.gradients.core.soft_limit import SoftLimit
from ctr_pipeline.gradients.core.step_view import (
    AppliedRate,
    LossView,
    Probe,
    StepRecord,
    StepStart,
    StepView,
    TensorRow,
    Update,
)

RING = 64
"""Records kept for a failed step, and the window of the running median."""

EARLY = frozenset((5, 10, 20, 50))
"""Steps with a detailed record, besides, where these come seldom: what breaks in the beginning is noticed in the beginning."""

WAITING = 32
"""Ordinary steps, at most, that detectors have not observed yet."""

MIN_HISTORY = 20
"""Steps before a norm is compared with the median; the first steps of a run have no typical norm yet."""


class GradientMonitor:
    """Keeps the running statistics of a run, small enough to go into every checkpoint.

    Call :meth:`begin`, run the forward pass inside :meth:`forward`, then :meth:`after_update` behind the update, or
    :meth:`stop` instead of it.

    Args:
        model: The model; its hidden activations and embeddings are observed.
        every: Steps between records of the norms by tensor.
        detectors: Objects that observe the run; by default one of each registered class.
        hidden: Whether the model has hidden layers, whose activations are expected to be seen.
        details: Steps between detailed records, of which some more come in the beginning; ``every`` when absent.
    """

    def __init__(
        self,
        model: nn.Module,
        every: int,
        detectors: Sequence[Detector] | None = None,
        details: int | None = None,
        *,
        hidden: bool = True,
    ) -> None:
        self._every, self._details, self._hidden = every, details or every, hidden
        self._observer, self._embeddings = ActivationObserver(model), EmbeddingObserver(model)
        self._detectors = [made() for made in registered_detectors()] if detectors is None else list(detectors)
        # What is not there at each step is not asked at each step.
        self._at_each_step = [d for d in self._detectors if not getattr(d, "detailed_only", False)]
        self._waiting: list[tuple[StepRecord, Sequence[str], Sequence[float]]] = []
        self._prepared = [d.begin for d in self._detectors if hasattr(d, "begin")]
        self._rated = [d.applied for d in self._detectors if hasattr(d, "applied")]
        self.probing = self.logging = False
        self._activations: list[Activation] = []
        self.lookups: list[EmbeddingOutput] = []
        self._steps, self._step = 0, 0
        self._norms: deque[float] = deque(maxlen=RING)
        self._sorted: list[float] = []
        self._ring: deque[tuple[StepRecord | dict[str, Any], Sequence[str], Sequence[float]]] = deque(maxlen=RING)
        self._asked: list[tuple[Tensor, Callable[[list[float]], None]]] = []
        self._layers: tuple[Sequence[str], list[str]] = ((), [])
        self.rows: list[TensorRow] = []

    @property
    def detectors(self) -> list[str]:
        """Names of the detectors."""
        return [detector.name for detector in self._detectors]

    def calibrate(self, limits: Mapping[str, float], runs: int) -> None:
        """Replace the rules of thumb of soft detectors by limits that were taken from ``runs`` healthy runs, by name."""
        for detector in self._detectors:
            if detector.name in limits and (receive := getattr(detector, "calibrate", None)) is not None:
                receive(SoftLimit(limits[detector.name], runs))

    def compare_with(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Give detectors the steps of the last good run (:meth:`StepRecord.to_dict`) to compare this one with."""
        for detector in self._detectors:
            if (receive := getattr(detector, "compare_with", None)) is not None:
                receive(records)

    @property
    def ring(self) -> list[dict[str, Any]]:
        """The last 64 steps, oldest first: each record with ``norms``, the norm of each tensor's gradient."""
        return [
            {
                **(record if isinstance(record, dict) else record.to_dict()),
                "norms": dict(zip(names, norms, strict=True)),
            }
            for record, names, norms in self._ring
        ]

    def is_logged(self, step: int) -> bool:
        """Whether the norms by tensor of ``step`` are recorded."""
        return step % self._every == 0

    def is_probe(self, step: int) -> bool:
        """Whether ``step`` gets a detailed record."""
        return step % self._details == 0 or (step in EARLY and step < self._details)

    def begin(self, step: int) -> None:
        """Call before the forward pass: arms the detailed record where one is due."""
        self.probing, self.logging = self.is_probe(step), self.is_logged(step)
        if self._activations or self.lookups:
            self._activations, self.lookups = [], []
        if self._prepared:
            start = StepStart(step=step, probed=self.probing)
            for begin in self._prepared:
                begin(start)

    @contextmanager
    def forward(self) -> Iterator[None]:
        """The block in which the step's forward pass runs."""
        if not self.probing:
            yield
            return
        with self._observer.observe() as found, self._embeddings.observe() as lookups:
            yield
        self._activations, self.lookups = found, lookups

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
        """Gradient norm of each layer, on a step whose norms are recorded; else empty."""
        if not self.logging:
            return {}
        if self._layers[0] != names:
            self._layers = names, list(layers_of(names).values())
        return joined_norms(self._layers[1], norms)

    def after_update(
        self,
        record: StepRecord,
        names: Sequence[str],
        norms: Sequence[float],
        loss: LossView | None,
        updates: Sequence[Update] = (),
        blocks: Sequence[Block] = (),
    ) -> None:
        """Call after the optimizers stepped.

        Args:
            record: The step.
            names: Parameters with a gradient.
            norms: Norm of each of their gradients.
            loss: Logits and their gradient; only looked at on steps with a detailed record.
            updates: The weights before and after the update; likewise.
            blocks: Further measurements for the record.
        """
        if not record.skipped:
            self._note_norm(record.grad_norm)
        probe = None
        if self.probing:
            probe = Probe(loss=loss, activations=self._activations, updates=updates, hidden=self._hidden)
            blocks = [*blocks, *activation_quantiles(self._activations)]
        if self.logging:
            self._note_numbers(record, names, norms)
        self._steps += 1
        noted = record, names, norms
        self._ring.append(noted)
        if probe is None:
            # Detectors get ordinary steps by the dozen: what is in the cache already takes a tenth of the time.
            self._waiting.append(noted)
            if len(self._waiting) >= WAITING or self._prepared:
                self._catch_up()
            return
        self._catch_up()
        self._observe(record, False, names, norms, probe, blocks)
        self._activations, self.lookups = [], []

    def stop(self, record: StepRecord, loss: LossView | None = None) -> None:
        """Note the step that is about to stop the run, with its ``loss`` where it is measured in detail."""
        probe = Probe(loss=loss, activations=self._activations, updates=()) if self.probing else None
        self._catch_up()
        self._steps += 1
        self._ring.append((record, (), ()))
        self._observe(record, True, (), (), probe)

    def _catch_up(self) -> None:
        """Let detectors observe the steps that wait for them."""
        waiting, self._waiting = self._waiting, []
        for record, names, norms in waiting:
            self._observe(record, False, names, norms, None)

    def _note_numbers(self, record: StepRecord, names: Sequence[str], norms: Sequence[float]) -> None:
        step = record.step
        self.rows += [(step, name, "gradient", "norm", norm) for name, norm in zip(names, norms, strict=True)]
        self.rows += [(step, task, "loss", "known_labels", float(n)) for task, n in record.known_labels.items()]
        self.rows.append((step, "loss", "loss", "scale", record.loss_scale))

    def _observe(
        self,
        record: StepRecord,
        stopped: bool,
        names: Sequence[str],
        norms: Sequence[float],
        probe: Probe | None,
        blocks: Sequence[Block] = (),
    ) -> None:
        self._step = record.step
        known = len(self.rows)
        view = StepView(
            record=record, stopped=stopped, names=names, norms=norms, probe=probe, read=self._ask, note=self._note,
        )  # fmt: skip
        for detector in self._detectors if probe is not None or stopped else self._at_each_step:
            detector.observe(view)
        for block in blocks:
            self._ask(block.values, lambda read, block=block: self._note_block(block, read))  # type: ignore[misc]
        if self._asked:
            self._read()
        # Where the loss scaler skips a step, values are beyond what 16 bits hold, as it expects.
        if probe is not None and not stopped and not record.skipped:
            self._refuse_values_that_are_none(self.rows[known:])

    def _ask(self, values: Tensor, receive: Callable[[list[float]], None]) -> None:
        self._asked.append((values, receive))

    def _note(self, tensor: str, kind: str, stat: str, value: float) -> None:
        self.rows.append((self._step, tensor, kind, stat, value))

    def _note_block(self, block: Block, read: list[float]) -> None:
        numbers = block.numbers(read)
        self.rows += [(self._step, t, block.kind, s, v) for (t, s), v in zip(block.labels, numbers, strict=True)]

    def _read(self) -> None:
        """The record's only wait for the device: what all detectors read, in one tensor."""
        asked, self._asked = self._asked, []
        device = asked[0][0].device
        host = torch.cat([values.detach().flatten().to(device, torch.float64) for values, _ in asked]).tolist()
        start = 0
        for values, receive in asked:
            end = start + values.numel()
            receive(host[start:end])
            start = end

    def _refuse_values_that_are_none(self, rows: Sequence[TensorRow]) -> None:
        """A statistic that is no finite number is passed to the detectors that want to know of it."""
        if math.isfinite(sum(row[4] for row in rows)):
            return
        wrong = next((row for row in rows if not math.isfinite(row[4])), None)
        for detector in self._detectors:
            if wrong is not None and (receive := getattr(detector, "wrong_statistic", None)) is not None:
                receive(wrong)

    def applied(self, step: int, rates: Sequence[AppliedRate]) -> None:
        """Call after each update, with the learning rates of the optimizers that made it with others than planned."""
        for receive in self._rated:
            receive(step, rates)

    def validated(self, step: int, relative: Mapping[str, float | None]) -> None:
        """Call after a validation.

        Args:
            step: Steps taken.
            relative: Each task's loss relative to that of the best constant; None where the labels cannot tell.
        """
        self._catch_up()
        for detector in self._detectors:
            if (receive := getattr(detector, "validated", None)) is not None:
                receive(step, relative)

    def broken(self) -> NamedFinding | None:
        """The strongest error of a detector that stops the run; None where there is none."""
        self._catch_up()
        stopping = [detector for detector in self._detectors if getattr(detector, "stops", False)]
        errors = [found for found in map(_named, stopping) if found.finding.severity == "error"]
        return next(iter(strongest(errors)), None)

    def report(self) -> HealthReport:
        """The run so far."""
        self._catch_up()
        return HealthReport(steps=self._steps, findings=tuple(_named(detector) for detector in self._detectors))

    def state_dict(self) -> dict[str, Any]:
        """Plain values that :meth:`load_state_dict` takes."""
        self._catch_up()
        return {
            "ring": self.ring,
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
        records = [dict(record) for record in state["ring"]]
        norms = [record.pop("norms") for record in records]
        self._ring = deque(
            ((record, list(own), list(own.values())) for record, own in zip(records, norms, strict=True)), maxlen=RING
        )
        self.rows = [(row[0], row[1], row[2], row[3], row[4]) for row in state["rows"]]
        self._norms = deque(state["norms"], maxlen=RING)
        self._sorted = sorted(self._norms)
        self._steps = state["steps"]
        for detector in self._detectors:
            detector.load_state_dict(state["detectors"][detector.name])


def _named(detector: Detector) -> NamedFinding:
    consequence = getattr(detector, "consequence", False)
    return NamedFinding(name=detector.name, finding=detector.finding(), consequence=consequence)
