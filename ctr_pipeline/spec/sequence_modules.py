"""The modules that read a key's last events, as a spec names them."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from ctr_pipeline.spec.fields import Name
from ctr_pipeline.spec.history import HistorySequence
from ctr_pipeline.spec.variants import Variant, Variants


class SequenceSection(Variant):
    """Base of the sections that name a module over a key's last events."""

    feature: Name | None = Field(
        default=None, description="The history feature with `events` that it reads; the only one when absent."
    )


class TargetAttention(SequenceSection):
    """A mean of the events, each weighted by how it goes with the candidate (DIN: Zhou et al., KDD 2018)."""

    kind: Literal["target_attention"] = "target_attention"
    hidden: int = Field(default=16, gt=0, description="Units of the layer that weighs an event beside the candidate.")
    width: int = Field(default=32, gt=0, description="Width of the output.")


class Transformer(SequenceSection):
    """Events that attend to each other, and then the candidate to them (BST: Chen et al., DLP-KDD 2019; pre-norm)."""

    kind: Literal["transformer"] = "transformer"
    dim: int = Field(default=32, gt=0, description="Width of an event inside the module.")
    layers: int = Field(default=1, gt=0, le=8, description="Layers in which events attend to each other.")
    heads: int = Field(default=2, gt=0, description="Attention heads; `dim` is a multiple of it.")
    width: int = Field(default=32, gt=0, description="Width of the output.")

    @model_validator(mode="after")
    def _equal_heads(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"`dim` {self.dim} is divided among the heads: make it a multiple of `heads` {self.heads}")
        return self


SEQUENCES: Variants[SequenceSection] = Variants(SequenceSection, TargetAttention, Transformer)
"""The kinds of module; ``ctr_pipeline.ranker.sequence.register_sequence`` adds to them."""

AnySequence = Annotated[SerializeAsAny[SequenceSection], BeforeValidator(SEQUENCES.validate)]
"""Type of a field that holds one of :data:`SEQUENCES`."""


def refuse_unread_events(sections: Sequence[SequenceSection], features: Sequence[HistorySequence]) -> None:
    """Raises ValueError where a module reads no list of events, or a list is read by no module."""
    names = [feature.name for feature in features]
    if sections and not names:
        raise ValueError(
            "`model.sequences` reads a list of events, and `features.history` has none: add a feature of `kind: sequence` "
            "with `events`"
        )
    read = set()
    for place, section in enumerate(sections):
        if section.feature is None and len(names) > 1:
            raise ValueError(f"`model.sequences[{place}]`: set `feature` to one of {', '.join(names)}")
        if section.feature is not None and section.feature not in names:
            raise ValueError(
                f"`model.sequences[{place}].feature` names {section.feature!r}, which is no history feature with `events`; "
                f"use one of {', '.join(names)}"
            )
        read.add(section.feature or names[0])
    unread = [name for name in names if name not in read]
    if unread:
        raise ValueError(
            f"history feature {unread[0]!r} lists `events`, and no module reads them: add one to `model.sequences`, such as "
            "`target_attention`, or remove the feature"
        )
