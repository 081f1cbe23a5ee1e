"""How a training went beside another: what it ended with, by itself no cause where something before it differs."""

from collections.abc import Mapping
from typing import Any

from ctr_pipeline.attribution.differences.difference import Difference, Kind, Source, number
from ctr_pipeline.attribution.differences.retrain_state import RetrainState

_BEFORE: tuple[Kind, ...] = (
    "spec", "code", "libraries", "key", "time", "rows", "labels", "feature", "category", "vocabulary", "history", "drift",
)  # fmt: skip


def changed_training(old: RetrainState, new: RetrainState) -> list[Difference]:
    """Another end, number of steps or planned setting of the training."""
    follows: tuple[Source, ...] = tuple((kind, "") for kind in _BEFORE)
    found = []
    before, after = old.result, new.result
    if not before or not after:
        return []
    if (was := before.get("status")) != (now := after.get("status")):
        found.append(("status", "other end", f"The training ended as “{now}”; it was “{was}”"))
    for name, words in (("epochs", "epochs"), ("steps", "steps")):
        if before.get(name) != after.get(name) and not any(subject == "epochs" for subject, *_ in found):
            found.append(
                (name, "other length", f"The training took {after.get(name)} {words} where it took {before.get(name)}")
            )
    plans = before.get("plan") or {}, after.get("plan") or {}
    for name in sorted({*plans[0], *plans[1]}):
        if plans[0].get(name) != plans[1].get(name):
            found.append(
                (
                    f"plan.{name}",
                    "other plan",
                    f"{name.replace('_', ' ')} was chosen as {_text(plans[1].get(name))}; it was {_text(plans[0].get(name))}",
                )
            )
    return [
        Difference(kind="training", subject=subject, form=form, sentence=sentence, follows=follows, evidence=_curve(old, new))
        for subject, form, sentence in found
    ]  # fmt: skip


def _curve(old: RetrainState, new: RetrainState) -> tuple[str, ...]:
    def best(side: RetrainState) -> float | None:
        values = [epoch["ne"] for epoch in side.curve if isinstance(epoch.get("ne"), int | float)]
        return min(values, default=None)

    before, after = best(old), best(new)
    if before is None or after is None:
        return ()
    return (f"best NE on the validation rows {number(before)} → {number(after)}",)


def _text(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)


def training_facts(side: RetrainState) -> Mapping[str, Any]:
    """Figures of a training for a page: status, epochs, steps, best validation."""
    return {
        name: side.result.get(name) for name in ("status", "epochs", "steps", "best_epoch", "best_validation_ne", "device")
    }  # fmt: skip
