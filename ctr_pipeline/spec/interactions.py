"""The modules that combine the ranker's inputs with each other, as a spec names them."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, SerializeAsAny

from ctr_pipeline.spec.variants import Variant, Variants


class InteractionSection(Variant):
    """Base of the sections that name an interaction."""


class FactorisationMachine(InteractionSection):
    """Sum of the inner products of all pairs of embeddings (Rendle, ICDM 2010)."""

    kind: Literal["factorisation_machine"] = "factorisation_machine"


INTERACTIONS: Variants[InteractionSection] = Variants(InteractionSection, FactorisationMachine)
"""The kinds of interaction; ``ctr_pipeline.ranker.interactions.register_interaction`` adds to them."""

AnyInteraction = Annotated[SerializeAsAny[InteractionSection], BeforeValidator(INTERACTIONS.validate)]
"""Type of a field that holds one of :data:`INTERACTIONS`."""
