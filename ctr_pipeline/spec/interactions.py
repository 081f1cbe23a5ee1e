"""The modules that combine the ranker's inputs with each other, as a spec names them."""

from collections.abc import Collection, Iterable
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from ctr_pipeline.spec.variants import Variant, Variants

Width = Annotated[int, Field(gt=0)]
"""Number of values that a layer computes."""


class InteractionSection(Variant):
    """Base of the sections that name an interaction."""


class FactorisationMachine(InteractionSection):
    """Sum of the inner products of all pairs of embeddings (Rendle, ICDM 2010)."""

    kind: Literal["factorisation_machine"] = "factorisation_machine"


class LayeredInteraction(InteractionSection):
    """Fields of the interactions that have weights: what they do to their inputs, and what reads their output."""

    normalisation: Literal["layer", "field", "none"] = Field(
        default="layer",
        description="Layer normalisation of the embeddings that the module reads: over all of them together, each by itself, "
        "or none.",
    )
    dropout: float | None = Field(
        default=None, ge=0, lt=1, description="Dropout within the module; `model.dropout` when absent."
    )
    hidden: list[Width] = Field(
        default=[], description="Widths of hidden layers that read the module's output in the place of the heads."
    )


class Cross(LayeredInteraction):
    """DCN-v2 with full-rank crosses (Wang et al., WWW 2021)."""

    kind: Literal["cross"] = "cross"
    layers: int = Field(default=2, gt=0, description="Crosses after each other; products of up to one input more.")


class CrossMixture(LayeredInteraction):
    """DCN-v2 whose crosses are mixtures of low-rank experts (Wang et al., WWW 2021)."""

    kind: Literal["cross_mixture"] = "cross_mixture"
    layers: int = Field(default=2, gt=0, description="Crosses after each other; products of up to one input more.")
    experts: int = Field(default=4, gt=0, description="Low-rank experts of each cross.")
    rank: int = Field(default=32, gt=0, description="Rank of an expert.")


class MaskNet(LayeredInteraction):
    """MaskNet: blocks that multiply what they read by a mask of the row's own inputs (Wang et al., DLP-KDD 2021)."""

    kind: Literal["mask_net"] = "mask_net"
    arrangement: Literal["serial", "parallel"] = Field(
        default="parallel", description="Each block after the one before, or all of them on the inputs."
    )
    blocks: int = Field(default=3, gt=0, description="Number of blocks.")
    width: int = Field(default=64, gt=0, description="Width of a block's output.")
    mask_width: int = Field(default=128, gt=0, description="Width of the layer from which a block's mask is computed.")


class FieldAttention(LayeredInteraction):
    """Self-attention over the fields of a row, as in AutoInt (Song et al., CIKM 2019)."""

    kind: Literal["field_attention"] = "field_attention"
    layers: int = Field(default=2, gt=0, description="Attention layers after each other.")
    heads: int = Field(default=2, gt=0, description="Attention heads of a layer.")
    width: int = Field(default=16, gt=0, description="Width of a field within the module, over all its heads.")

    @model_validator(mode="after")
    def _equal_heads(self) -> Self:
        if self.width % self.heads:
            raise ValueError(
                f"`width` {self.width} is divided among the heads: make it a multiple of `heads` {self.heads}"
            )
        return self


class FeatureGates(LayeredInteraction):
    """Gates between 0 and 2 on the inputs, from the inputs themselves (GateNet, Huang et al. 2020; LiRank, KDD 2024)."""

    kind: Literal["feature_gates"] = "feature_gates"
    by: Literal["element", "field"] = Field(
        default="element", description="A gate for each value, or one for each embedding and one for all numbers."
    )
    context: list[str] = Field(
        default=[], description="Embedded features from which the gates are computed; all inputs when empty."
    )
    gate_width: int = Field(default=64, gt=0, description="Width of the layer from which the gates are computed.")
    hidden: list[Width] = Field(default=[128], description="Widths of the hidden layers that read the gated inputs.")


class ResidualPerceptron(LayeredInteraction):
    """A perceptron of residual blocks (the ResNet of Gorishniy et al., NeurIPS 2021)."""

    kind: Literal["residual_perceptron"] = "residual_perceptron"
    blocks: int = Field(default=2, gt=0, description="Residual blocks after each other.")
    width: int = Field(default=128, gt=0, description="Width of what passes from block to block.")
    inner: int = Field(default=256, gt=0, description="Width of the rectified layer within a block.")


INTERACTIONS: Variants[InteractionSection] = Variants(
    InteractionSection,
    FactorisationMachine,
    Cross,
    CrossMixture,
    MaskNet,
    FieldAttention,
    FeatureGates,
    ResidualPerceptron,
)
"""The kinds of interaction; ``ctr_pipeline.ranker.interactions.register_interaction`` adds to them."""

AnyInteraction = Annotated[SerializeAsAny[InteractionSection], BeforeValidator(INTERACTIONS.validate)]
"""Type of a field that holds one of :data:`INTERACTIONS`."""


def refuse_absent_contexts(sections: Iterable[InteractionSection], embedded: Collection[str]) -> None:
    """Raises ValueError where gates are to be computed from what is no ``embedded`` feature."""
    for section in sections:
        for name in section.context if isinstance(section, FeatureGates) else ():
            if name not in embedded:
                raise ValueError(
                    f"`context` of an interaction `feature_gates` names {name!r}, which is no embedded feature; use some of "
                    f"{', '.join(sorted(embedded)) or 'none: declare one'}"
                )
