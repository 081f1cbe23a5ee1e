"""What the ranker is made of."""

from typing import Annotated, Literal

from pydantic import Field

from ctr_pipeline.spec.fields import Section, added_field
from ctr_pipeline.spec.heads import AnyHead
from ctr_pipeline.spec.interactions import AnyInteraction
from ctr_pipeline.spec.position import AnyPosition
from ctr_pipeline.spec.sequence_modules import AnySequence


class Model(Section):
    """The ranker: embeddings and numbers into a multi-layer perceptron, one head a task."""

    embedding_dim: int = Field(default=16, gt=0, description="Width of the embeddings.")
    hidden: list[Annotated[int, Field(gt=0)]] = Field(default=[256, 128], description="Widths of the hidden layers.")
    # Not one of the fields that are left out of the dumped spec at their default: a model of a spec that does not name it
    # is another one since there is it.
    normalisation: Literal["layer", "none"] = Field(
        default="layer", description="Layer normalisation in each hidden layer, before it is rectified; or none."
    )
    residual: bool = added_field(
        False, "Add what a hidden layer reads to its output, where both are equally wide, from the second layer on."
    )
    hidden_gates: bool = added_field(False, "Weigh each hidden unit by a gate between 0 and 2 that its layer computes.")
    dropout: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Dropout after each hidden layer; chosen from the training rows when absent.",
    )
    embedding_dropout: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Share of feature embeddings zeroed in training; chosen from the training rows when absent.",
    )
    wide: bool = Field(default=True, description="Add a linear part over all inputs to the logits.")
    interactions: list[AnyInteraction] = added_field(
        [], "Modules beside the hidden layers that combine inputs with each other; the heads read their outputs too."
    )
    sequences: list[AnySequence] = added_field(
        [], "Modules that read a key's last events beside the candidate; the heads read their outputs too."
    )
    position: AnyPosition | None = added_field(
        None,
        "What the position of an impression does; `additive` where `impression.position` is named, and else `none`.",
    )
    heads: Literal["chain", "independent"] = Field(
        default="chain",
        description="`chain` multiplies conditional probabilities along the funnel; `independent` has one logit a task.",
    )
    multi_task: AnyHead | None = added_field(
        None,
        "What the tasks share above the hidden layers; `shared_bottom` when absent: all heads read the same units.",
    )
