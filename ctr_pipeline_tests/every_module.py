"""Each interaction of this project, by default and with each of its alternatives: tests of all of them take them from here.

A new one is among them as soon as its section is in ``spec/interactions.py``.
"""

from typing import Literal, get_args, get_origin

from ctr_pipeline.features.layout import IdColumn, Layout, NumericColumn, Pooled
from ctr_pipeline.spec.interactions import INTERACTIONS, InteractionSection
from ctr_pipeline.spec.model import Model


def every_section() -> dict[str, InteractionSection]:
    """The sections by a name for the test: the defaults of each kind, and each other value of a field of few values."""
    found: dict[str, InteractionSection] = {}
    for kind, section in INTERACTIONS.sections.items():
        if not section.__module__.startswith("ctr_pipeline."):
            continue
        found[kind] = section()
        for name, field in section.model_fields.items():
            if name == "kind" or get_origin(field.annotation) is not Literal:
                continue
            for value in get_args(field.annotation):
                if value != field.default:
                    found[f"{kind}-{name}-{value}"] = section.model_validate({name: value})
        if "hidden" in section.model_fields:
            found[f"{kind}-stacked"] = section.model_validate({"hidden": [12, 6]})
    return found


SECTIONS = every_section()
KINDS = {name: section for name, section in SECTIONS.items() if name == section.kind}
"""The defaults alone."""


def model_of(*sections: InteractionSection, **fields: object) -> Model:
    """A model with these interactions beside small hidden layers."""
    own = {"embedding_dim": 4, "hidden": [8, 6], "interactions": [section.model_dump() for section in sections]}
    return Model.model_validate(own | fields)


def layout_of(places: int = 4) -> Layout:
    """Numbers, one of which may be missing, categories, and a list of up to ``places`` of them."""
    return Layout(
        numeric=(
            NumericColumn("price", "dense", "signed_log1p", 3.0, True, 1.0, 0.8),
            NumericColumn("rating", "dense", "none", 0.0, False, 0.0, 1.0),
        ),
        ids=(
            IdColumn("ad", "categorical", 20, 4),
            IdColumn("query", "categorical", 15, 4),
            IdColumn("visited", "history", 20, 4, Pooled(places, "mean", "last")),
        ),
        tasks=("click", "cart"),
        parents=(-1, 0),
    )
