"""How the ranker takes the position of an impression into account."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from ctr_pipeline.spec.fields import Name
from ctr_pipeline.spec.variants import Variant, Variants


class PositionSection(Variant):
    """Base of the sections that say what the position does.

    The position is known in the log and unknown when scoring: it is learnt from, and the model is served without it.
    """


class NoPosition(PositionSection):
    """The position is no part of the model."""

    kind: Literal["none"] = "none"


class AdditivePosition(PositionSection):
    """The position adds to the logit of each first step, so that the rest of the model need not explain it."""

    kind: Literal["additive"] = "additive"
    context: list[Name] = Field(
        default=[], description="Categorical features, such as the device, by whose value the effect differs."
    )


class Examination(PositionSection):
    """The position-based model: an outcome needs that the position is examined, whatever stands there.

    P(outcome) = θ(position, context) · P(outcome | examined), with θ = 1 at position 1 (Richardson et al., WWW 2007).
    """

    kind: Literal["examination"] = "examination"
    context: list[Name] = Field(
        default=[], description="Categorical features, such as the device, by whose value the effect differs."
    )


POSITIONS: Variants[PositionSection] = Variants(PositionSection, NoPosition, AdditivePosition, Examination)
"""The ways to take the position into account."""

AnyPosition = Annotated[SerializeAsAny[PositionSection], BeforeValidator(POSITIONS.validate)]
"""Type of a field that holds one of :data:`POSITIONS`."""


def refuse_wrong_position(section: PositionSection | None, column: str | None, categories: Sequence[str]) -> None:
    """Raises ValueError for an effect of a position that the log does not have, or a context that is no category.

    Args:
        section: What the model declares.
        column: The column of the log with the position.
        categories: Names of the categorical features of one value.
    """
    if not isinstance(section, AdditivePosition | Examination):
        return
    if column is None:
        raise ValueError(
            f"`model.position` is {section.kind}, and no column holds the position: name it in `impression.position`, or set "
            "`model.position: none`"
        )
    for name in section.context:
        if name not in categories:
            raise ValueError(
                f"`model.position.context` names {name!r}: it lists categorical features of one value; declared are "
                f"{', '.join(categories) or 'none'}"
            )
