"""What the ranker is made of."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ctr_pipeline.spec.branches import Branch, Fusion
from ctr_pipeline.spec.fields import Name, Section, added_field
from ctr_pipeline.spec.heads import AnyHead
from ctr_pipeline.spec.interactions import AnyInteraction
from ctr_pipeline.spec.position import AnyPosition
from ctr_pipeline.spec.presets import expanded
from ctr_pipeline.spec.sequence_modules import AnySequence


class Model(Section):
    """The ranker: embeddings and numbers into a multi-layer perceptron, one head a task."""

    preset: str | None = added_field(
        None, "Name of a section to start from; a field that is given beside it takes the place of the preset's."
    )
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
    pairs: list[tuple[Name, Name]] = added_field(
        [], "Pairs of categories of one value whose combinations have a weight each in the linear part."
    )
    interactions: list[AnyInteraction] = added_field(
        [], "Modules beside the hidden layers that combine inputs with each other; the heads read their outputs too."
    )
    sequences: list[AnySequence] = added_field(
        [], "Modules that read a key's last events beside the candidate; the heads read their outputs too."
    )
    branches: list[Branch] = added_field(
        [], "Models on the same embeddings and numbers, each with heads of its own, whose logits are fused."
    )
    fusion: Fusion | None = added_field(
        None, "How the logits of the branches become one; their mean when absent. Only with `branches`."
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

    @model_validator(mode="after")
    def _pairs_of_two(self) -> Self:
        for first, second in self.pairs:
            if first == second:
                raise ValueError(f"`pairs`: {first!r} is paired with itself; name two features")
        if len({frozenset(pair) for pair in self.pairs}) < len(self.pairs):
            raise ValueError("`pairs`: a pair is there twice; name each once")
        if self.pairs and not self.wide:
            raise ValueError("`pairs` are weights of the linear part: remove `wide: false`, or the pairs")
        return self

    def refuse_absent_pairs(self, categories: Collection[str]) -> None:
        """Raises ValueError where a pair names no category of one value."""
        for name in (name for pair in self.pairs for name in pair):
            if name not in categories:
                raise ValueError(
                    f"`model.pairs` names {name!r}, which is no categorical feature of one value; "
                    f"use one of {', '.join(sorted(categories))}"
                )

    @property
    def all_interactions(self) -> tuple[AnyInteraction, ...]:
        """Its interactions and those of its branches."""
        return (*self.interactions, *(section for branch in self.branches for section in branch.interactions))

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, value: Any) -> Any:
        return expanded(value) if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _branches_stand_alone(self) -> Self:
        if not self.branches:
            if self.fusion is not None:
                raise ValueError("`fusion` needs `branches`: declare at least two, or remove it")
            return self
        names = [branch.name for branch in self.branches]
        if len(names) < 2:
            raise ValueError("`branches`: one alone is no ensemble; declare another, or move its parts into `model`")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"`branches`: {', '.join(twice)} is there twice; give each a name of its own")
        if empty := [
            branch.name for branch in self.branches if not (branch.hidden or branch.interactions or self.hidden)
        ]:
            raise ValueError(f"branch {empty[0]!r} has no interactions, and `hidden` is empty: give it one of them")
        if self.interactions:
            raise ValueError("`interactions` beside `branches`: move them into the branch that they are to be part of")
        if self.multi_task is not None:
            raise ValueError(
                "`multi_task` beside `branches`: each branch has its own heads already; choose one of both"
            )
        return self
