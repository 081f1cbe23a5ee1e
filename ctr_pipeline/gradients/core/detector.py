"""What a health check of the training must be able to do."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from ctr_pipeline.gradients.core.findings import Finding
from ctr_pipeline.gradients.core.step_view import StepView


class Detector(Protocol):
    """Observes the steps of a run and ends with one finding.

    A class with these members and one line, ``register_detector(ThatClass)``, are all that a new check needs: the
    monitor makes one object a run without arguments, calls it at every step, keeps its state in the checkpoint and
    writes its finding to result.json; Dagster's check, its description and its result are derived from the class.

    The module of a detector is imported by every process, also by those that do not train: import torch inside the
    methods that need it.

    Attributes:
        name: Stable name, in snake case: that of the check in Dagster and of the finding in result.json.
        question: What the check asserts, in a person's words; its description in Dagster.
        blocking: Whether a model must not be used when the finding is an error.

    A class may also have:
        begin(start): called with a :class:`~ctr_pipeline.gradients.core.step_view.StepStart` before the forward pass of a step.
        stops: ClassVar[bool]; True where an error ends the training at once. The update of the step is then taken back. It
            is asked on the steps that are measured in detail.
        consequence: ClassVar[bool]; True where an error says that something broke and not what broke it: other findings
            are then named before it.
        detailed_only: ClassVar[bool]; True where it observes only the steps that are measured in detail, and the one that
            stopped the run.
        rule, calibrate(limit): ClassVar[float], and a method that takes a
            :class:`~ctr_pipeline.gradients.core.soft_limit.SoftLimit`; of a soft detector whose rule of thumb may be replaced
            by a limit that was taken from healthy runs. Its finding has ``value`` and ``limit``.
        smallest_share: ClassVar[float]; share of its rule below which healthy runs do not take its limit.
        compare_with(records): called before the first step with the steps of the last good run, where there is one.
        between(own, before): classmethod; the finding of a run after another one, both as lines of steps.jsonl. Of a detector
            that compares runs and may be calibrated.
        wrong_statistic(row): called with a measurement (step, tensor, kind, statistic, value) whose value is no finite number.
        applied(step, rates): called after each update with the steps taken and the learning rates
            (:class:`~ctr_pipeline.gradients.core.step_view.AppliedRate`) of the optimizers that made it with others than planned.
        validated(step, relative): called after each validation with the steps taken and each task's loss relative to the
            best constant, None where the labels cannot tell.
    """

    name: ClassVar[str]
    question: ClassVar[str]
    blocking: ClassVar[bool]

    def observe(self, step: StepView) -> None:
        """A step is done: the update was made, or the step stopped the run.

        Called at every step of every process with that process's rows. The tensors of ``step`` are only valid during
        the call. To read one, use :meth:`StepView.read`: a call of ``.item()`` waits for the device.
        """

    def finding(self) -> Finding:
        """What was found so far. A detector that could not measure must say so and not report ``ok``."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that later findings depend on, as numbers, texts, lists, dicts and tensors."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`: findings are then those of an uninterrupted run."""
