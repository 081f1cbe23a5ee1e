"""Everything that is known of why a model changed, as plain values: what `ctr explain`, the asset and the page show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ctr_pipeline.attribution.differences import Compared, RetrainState
from ctr_pipeline.attribution.differences.changed_training import training_facts
from ctr_pipeline.attribution.entropy_change import EntropyChange
from ctr_pipeline.attribution.model_change import ModelChange
from ctr_pipeline.attribution.ranked_causes import Cause, headline, main_task

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedChange:
    """Two retrains, in what they differ, and why the second predicts otherwise.

    Attributes:
        old: The retrain before.
        new: The retrain that is explained.
        compared: In what they differ.
        entropies: How NE changed, by task.
        causes: The causes, the first one first.
        model: What changed from one model to the other; None where that could not be measured.
        notes: What could not be compared, sentences.
    """

    old: RetrainState
    new: RetrainState
    compared: Compared
    entropies: Mapping[str, EntropyChange]
    causes: Sequence[Cause]
    model: ModelChange | None
    notes: tuple[str, ...]

    @property
    def headline(self) -> str:
        """One sentence for a person who does not know the pipeline."""
        return headline(self.causes, self.entropies)

    @property
    def worse(self) -> list[str]:
        """Tasks whose NE is worse beyond chance."""
        return [task for task, change in self.entropies.items() if change.worse]

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rows = self.compared.rows
        return {
            "format": FORMAT,
            "old": _side(self.old),
            "new": _side(self.new),
            "headline": self.headline,
            "task": main_task(self.entropies),
            "ne": {task: change.to_json() for task, change in self.entropies.items()},
            "causes": [cause.to_json() for cause in self.causes],
            "consequences": [
                {**difference.to_json(), "because": cause.sentence}
                for difference, cause in self.compared.consequences
            ],
            "minor": [difference.to_json() for difference in self.compared.roots if difference.minor],
            "compared": {
                "matched_by": rows.how,
                "impressions": rows.old.height,
                "pairs": rows.pairs,
                "looked_at": list(self.compared.looked_at),
            },
            "model": None if self.model is None else self.model.to_json(),
            "notes": list(self.notes),
        }  # fmt: skip


def _side(state: RetrainState) -> dict[str, Any]:
    environment = state.lineage.get("environment", {})
    return {
        "folder": state.name,
        "day": state.day,
        "first_day": str(state.days[0]) if state.days else None,
        "last_day": str(state.days[-1]) if state.days else None,
        "impressions": state.keys.height,
        "test_rows": len(state.logits),
        "code": environment.get("code"),
        "spec_hash": state.lineage.get("spec_hash"),
        "key_fingerprint": state.key_fingerprint,
        "versions": dict(state.lineage.get("examples", {}).get("versions", {})),
        "training": dict(training_facts(state)),
    }
