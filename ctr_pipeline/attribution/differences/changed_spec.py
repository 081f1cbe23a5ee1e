"""What the user declares otherwise: fields of the spec, by their paths, with both values."""

from collections.abc import Iterator, Mapping
from typing import Any

from ctr_pipeline.attribution.differences.difference import Difference
from ctr_pipeline.attribution.differences.retrain_state import RetrainState

_NO_EFFECT = ("name", "description", "version", "extensions")
"""Sections that change no model."""

_AFTERWARDS = ("serving", "quality", "evaluation", "monitoring", "canary")
"""Sections that act on a model that is trained."""

_PLACES = ("source.impressions.paths", "source.events.", "source.labels.", "source.tables.")
"""Where logs lie: that is no difference of its own where their rows are the same."""

_ABSENT = object()

_WORDS = {
    "training.learning_rate": "The learning rate is",
    "training.epochs": "The number of epochs is",
    "training.batch_size": "The batch size is",
    "training.seed": "The seed is",
    "seed": "The seed is",
    "split.train_days": "The training interval is, in days,",
}


def changed_spec(old: RetrainState, new: RetrainState) -> list[Difference]:
    """A difference for each field that both specs have with other values, or that one of them has."""
    sides = [state.spec.model_dump(mode="json", exclude_defaults=False) for state in (old, new)]
    found: list[Difference] = []
    for path, before, after in _differences("", sides[0], sides[1]):
        top = path.partition(".")[0]
        if top in _NO_EFFECT or any(path.startswith(place) and path.endswith("paths") for place in _PLACES):
            continue
        found.append(_difference(path, before, after, top in _AFTERWARDS))
    return _together(found)


def _difference(path: str, before: Any, after: Any, afterwards: bool) -> Difference:
    named = _WORDS.get(path, f"`{path}` is")
    parts = path.split(".")
    feature = parts[2] if path.startswith("features.") and len(parts) > 2 else None
    if before is _ABSENT:
        form, sentence = "added", _is_new(path, feature, after)
    elif after is _ABSENT:
        form, sentence = "dropped", _is_gone(path, feature)
    else:
        form, sentence = "changed", f"{named} {_shown(after)}; it was {_shown(before)}"
    evidence = (
        f"{path}: {'absent' if before is _ABSENT else _shown(before)} → {'absent' if after is _ABSENT else _shown(after)}",
    )
    return Difference(
        kind="spec", subject=path, form=form, sentence=sentence, evidence=evidence,
        features=(feature,) if feature else (), minor=afterwards,
    )  # fmt: skip


def _is_new(path: str, feature: str | None, after: Any) -> str:
    if feature and path.count(".") == 2:
        return f"The feature “{feature}” is new ({path.split('.')[1]})"
    if path.startswith("model.") and isinstance(after, Mapping) and "kind" in after:
        return f"The model has a new module: {after['kind']} (`{path}`)"
    return f"`{path}` is new: {_shown(after)}"


def _is_gone(path: str, feature: str | None) -> str:
    if feature and path.count(".") == 2:
        return f"The feature “{feature}” is no longer read"
    return f"`{path}` is gone"


def _differences(path: str, before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    """Paths at which two values differ, with both."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in dict.fromkeys([*before, *after]):
            deeper = f"{path}.{name}" if path else str(name)
            yield from _differences(deeper, before.get(name, _ABSENT), after.get(name, _ABSENT))
    elif (listed := _sections(before, after)) is not None and (named := _by_name(*listed)) is not None:
        yield from _differences(path, *named)
    elif _plain(before) != _plain(after):
        yield path, before, after


def _sections(before: Any, after: Any) -> tuple[list[Any], list[Any]] | None:
    """Two lists, one of which may be absent; None where they are none."""
    sides = [[] if side is _ABSENT or side is None else side for side in (before, after)]
    if not all(isinstance(side, list) for side in sides) or not any(sides):
        return None
    return sides[0], sides[1]


def _by_name(before: list[Any], after: list[Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Two lists of sections, each by what tells its sections apart; None where nothing does."""
    for field in ("name", "column", "kind", "feature", "task"):
        sides = []
        for side in (before, after):
            if not all(isinstance(one, Mapping) and isinstance(one.get(field), str) for one in side):
                break
            names = [one[field] for one in side]
            if len(set(names)) < len(names):
                break
            sides.append(dict(zip(names, side, strict=True)))
        if len(sides) == 2 and (sides[0] or sides[1]):
            return sides[0], sides[1]
    return None


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, Mapping):
        return str(value.get("kind", "declared")) if "kind" in value else "declared"
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "…"


def _together(found: list[Difference]) -> list[Difference]:
    """A change of many fields of one section is one difference, named by the section."""
    kept: list[Difference] = []
    for difference in found:
        section = _section(difference.subject)
        place = next((n for n, other in enumerate(kept) if section and _section(other.subject) == section), None)
        if place is None:
            kept.append(difference)
            continue
        first = kept[place]
        kept[place] = Difference(
            kind="spec", subject=section or first.subject, form=first.form,
            sentence=f"{first.sentence}; {difference.sentence}", evidence=(*first.evidence, *difference.evidence),
            features=tuple(dict.fromkeys([*first.features, *difference.features])), minor=first.minor and difference.minor,
        )  # fmt: skip
    return kept


def _section(path: str) -> str | None:
    """The feature, task or module that a field is of."""
    parts = path.split(".")
    if parts[0] == "features" and len(parts) > 2:
        return ".".join(parts[:3])
    if parts[0] in ("tasks", "propensity", "label_quality", "split", "impression") and len(parts) > 1:
        return ".".join(parts[:2])
    return ".".join(parts[:2]) if parts[0] == "model" and len(parts) > 2 else None
