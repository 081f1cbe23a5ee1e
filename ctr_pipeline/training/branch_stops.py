"""Branches of the ranker on the validation: the normalised entropy of each by itself, and which of them are stopped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctr_pipeline.gradients.triage.left_behind import read_json_lines
from ctr_pipeline.ranker import Ranker
from ctr_pipeline.ranker.branches import FusedOutputs, weak_branches
from ctr_pipeline.spec.branches import Fusion

STOPPED = "stopped_branches"
"""Key of the branches that an epoch's validation stopped, in validation.jsonl."""


@dataclass(slots=True, kw_only=True)
class BranchStops:
    """What becomes of the branches after each epoch.

    Attributes:
        model: The ranker.
        fusion: The spec's section.
        given: Branches to stop after each epoch, for a fit without validation: those of the fit that chose the epochs.
        entropies: By branch and task, normalised entropy on the last validation.
    """

    model: Ranker
    fusion: Fusion = field(default_factory=Fusion)
    given: Mapping[int, Sequence[str]] = field(default_factory=dict)
    entropies: dict[str, dict[str, float | None]] = field(default_factory=dict)

    def validated(self, found: Sequence[Sequence[float | None]]) -> dict[str, Any]:
        """Notes a validation, stops what is weak, and returns the metrics of the epoch; none without branches.

        A stopped branch counts in the epochs after this one: the weights of this epoch are stored before.

        Args:
            found: [K][T] normalised entropies.
        """
        head = self.model.head
        if not isinstance(head, FusedOutputs):
            return {}
        tasks = self.model.tasks
        self.entropies = {
            name: dict(zip(tasks, own, strict=True)) for name, own in zip(self.model.branches, found, strict=True)
        }
        metrics: dict[str, Any] = {}
        means = []
        for name, own in self.entropies.items():
            known = [value for value in own.values() if value is not None]
            means.append(sum(known) / len(known) if known else None)
            metrics[f"branch_{name}_ne"] = means[-1]
            metrics |= {f"branch_{name}_ne_{task}": value for task, value in own.items()}
        weak: list[int] = []
        if self.fusion.stop != "none":
            weak = weak_branches(means, head.going_on(), self.fusion.margin)
        metrics[STOPPED] = [self.model.branches[branch] for branch in weak]
        self._stop(weak)
        return metrics

    def after(self, epoch: int) -> None:
        """Stops what the fit with a validation stopped after the same epoch."""
        self._stop([self.model.branches.index(name) for name in self.given.get(epoch, ())])

    def _stop(self, branches: Sequence[int]) -> None:
        head = self.model.head
        if isinstance(head, FusedOutputs) and self.fusion.stop != "none":
            for branch in branches:
                head.leave_out(branch)


def stopped_by_epoch(validation: Path) -> dict[int, list[str]]:
    """The branches that each epoch's validation stopped, from the file that a fit wrote."""
    return {line["epoch"]: line[STOPPED] for line in read_json_lines(validation) if line.get(STOPPED)}


def branch_content(validation: Path, branches: Sequence[str], tasks: Sequence[str], epoch: int) -> list[dict[str, Any]]:
    """What result.json says of each branch: its normalised entropies at the best epoch, and when it was stopped.

    Args:
        validation: The file of validations.
        branches: Their names.
        tasks: Names of the tasks.
        epoch: The best epoch.
    """
    stopped = stopped_by_epoch(validation)
    best: dict[str, Any] = next((line for line in read_json_lines(validation) if line["epoch"] == epoch), {})
    return [
        {
            "name": name,
            "ne": best.get(f"branch_{name}_ne"),
            **{f"ne_{task}": best.get(f"branch_{name}_ne_{task}") for task in tasks},
            "stopped_after_epoch": next((at for at, names in stopped.items() if name in names), None),
        }
        for name in branches
    ]
