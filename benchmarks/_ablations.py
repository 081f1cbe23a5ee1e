"""Changed specs for ranking.py: each part of the product turned off, or on where the spec has it off."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ctr_pipeline.spec import SpecError, parse_spec


def _without_events(history: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [feature for feature in history if "events" not in feature]


def _without_lists(history: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [feature for feature in _without_events(history) if feature["kind"] != "top"]


ABLATIONS: dict[str, dict[str, Any]] = {
    "one maturity for all tasks": {"split.maturity": "longest"},
    "numbers without bins": {"features.encoding": "standard"},
    "equal weights of all tasks": {"tasks.*.loss_weight": 1.0},
    "no position": {"model.position": "none"},
    "no second fit": {"training.refit": False},
    "no normalisation": {"model.normalisation": "none"},
    "no position weights": {"propensity.weighting": "none"},
    "position weights": {"propensity.weighting": "ips"},
    "settled labels alone": {"tasks.*.objective": "binary"},
    "open labels, dfm_discrete": {"tasks.*.objective": {"kind": "binary", "loss": "dfm_discrete"}},
    "open labels, dfm_weibull": {"tasks.*.objective": {"kind": "binary", "loss": "dfm_weibull"}},
    "open labels, fsiw": {"tasks.*.objective": {"kind": "binary", "loss": "fsiw"}},
    "calibration by Platt without prior": {"calibration": {"kind": "platt", "prior": 0}},
    "no calibration": {"calibration": "identity"},
    "no sequence": {"model.sequences": [], "features.history": _without_events},
    "no sequence, nothing listed": {"model.sequences": [], "features.history": _without_lists},
    "transformer": {"model.sequences": ["transformer"]},
}
"""Parts of the product, each with the values at dotted paths of the spec that turn it off or on, or a function of the value."""


def overridden(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the content of a spec with values put at dotted paths; ``*`` is each part of a list.

    Sections that are absent are made.
    """
    changed = copy.deepcopy(dict(content))
    for path, value in changes.items():
        *sections, last = path.split(".")
        places: list[Any] = [changed]
        for section in sections:
            if section == "*":
                places = [part for place in places for part in place]
                continue
            for place in places:
                if not isinstance(place.get(section), dict | list):
                    place[section] = {}
            places = [place[section] for place in places]
        for place in places:
            place[last] = value(place.get(last, [])) if callable(value) else copy.deepcopy(value)
    return changed


def with_absolute_paths(source: Any, folder: Path) -> Any:
    """A section of a spec whose ``paths`` no longer depend on the folder of the spec."""
    if isinstance(source, list):
        return [with_absolute_paths(part, folder) for part in source]
    if not isinstance(source, dict):
        return source
    return {
        name: [path if "://" in path else str(folder / path) for path in value]
        if name == "paths" and isinstance(value, list)
        else with_absolute_paths(value, folder)
        for name, value in source.items()
    }


def applicable(content: Mapping[str, Any], names: Iterable[str]) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """For each ablation the content of its spec, or why there is none."""
    spec = parse_spec(yaml.safe_dump(dict(content)), where="the spec")
    for name in names:
        changed = overridden(content, ABLATIONS[name])
        try:
            same = parse_spec(yaml.safe_dump(changed), where=name) == spec
        except SpecError as error:
            # The first line counts the problems, the next names the first of them.
            yield name, str(error).splitlines()[1].strip()
            continue
        yield name, "the spec is so already" if same else changed
