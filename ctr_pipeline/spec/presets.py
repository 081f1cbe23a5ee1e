"""Ranker sections by name, to start from: `model: {preset: ads}` stands for the section that is written here."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

PRESETS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "small": (
        "Embeddings and numbers into two hidden layers: the fastest, and hard to beat on few outcomes.",
        {"embedding_dim": 8, "hidden": [128, 64]},
    ),
    "ads": (
        "An ensemble for many outcomes and features that act together: a deep branch, low-rank crosses, and gated features, on "
        "shared embeddings. Compare it with `small`, which ranks better on the bundled world.",
        {
            "embedding_dim": 8,
            "hidden": [128, 64],
            "branches": [
                {"name": "deep"},
                {
                    "name": "crossed",
                    "hidden": [],
                    "interactions": [{"kind": "cross_mixture", "layers": 2, "experts": 2, "rank": 16, "hidden": [64]}],
                },
                {"name": "gated", "hidden": [64], "interactions": [{"kind": "feature_gates", "hidden": [64]}]},
            ],
        },
    ),
    "conversion": (
        "For funnels with rare later steps: experts that all steps share beside some of each step's own (PLE).",
        {"embedding_dim": 8, "hidden": [128], "multi_task": {"kind": "ple"}},
    ),
    "feed": (
        "For users with a past: a transformer over their last events beside gated hidden layers. Needs a history feature of "
        "`kind: sequence` with `events`.",
        {"embedding_dim": 16, "hidden": [256, 128], "hidden_gates": True, "sequences": [{"kind": "transformer"}]},
    ),
}
"""By name, what a preset is for and its section."""


def expanded(section: Mapping[str, Any]) -> dict[str, Any]:
    """A model section with the fields of the preset that it names, and without the name; fields that it has itself stay.

    So a stored spec says what its model was made of, whatever the preset is in a later version.

    Raises:
        ValueError: there is no such preset; names those that there are.
    """
    name = section.get("preset")
    if name is None:
        return dict(section)
    if not isinstance(name, str) or name not in PRESETS:
        near = get_close_matches(str(name), PRESETS, n=1)
        raise ValueError(
            f"`preset` {name!r} is none; use one of {', '.join(PRESETS)}"
            + (f". Did you mean {near[0]!r}?" if near else "")
        )
    return {**PRESETS[name][1], **{field: value for field, value in section.items() if field != "preset"}}
