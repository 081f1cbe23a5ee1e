"""How the losses of several tasks are weighted against each other while training, as a spec names it."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from ctr_pipeline.spec.fields import added_field
from ctr_pipeline.spec.variants import Variant, Variants


class BalanceSection(Variant):
    """Base of the sections that name a balance of the tasks' losses; each starts from `tasks[].loss_weight`."""


class StaticBalance(BalanceSection):
    """The same weights in every step."""

    kind: Literal["static"] = "static"
    normalise: bool = added_field(
        False,
        "Divide each task's loss by the entropy of its base rate, so that a rare outcome's weighs as a frequent one's.",
    )


class UncertaintyBalance(BalanceSection):
    """Weights that fall with a task's own loss, learnt with the model (Kendall et al., CVPR 2018)."""

    kind: Literal["uncertainty"] = "uncertainty"
    rate: float = Field(default=0.02, gt=0, le=1, description="Step size of the logarithms of the weights.")


class DwaBalance(BalanceSection):
    """Dynamic weight average: more weight for a loss that falls more slowly (Liu et al., CVPR 2019)."""

    kind: Literal["dwa"] = "dwa"
    window: int = Field(default=200, gt=0, description="Steps over which losses are averaged before they are compared.")
    temperature: float = Field(default=2.0, gt=0, description="The higher, the more even the weights.")


class GradientBalance(BalanceSection):
    """In each step weights under which the tasks' gradients on what they share do not work against each other."""

    kind: Literal["gradient"] = "gradient"
    aggregator: Literal["pcgrad", "upgrad", "mgda", "imtl_g"] = Field(
        default="upgrad",
        description="PCGrad (Yu et al., 2020), UPGrad (Quinton & Rey, 2024), MGDA (Désidéri, 2012), IMTL-G (Liu et al., 2021).",
    )


BALANCES: Variants[BalanceSection] = Variants(
    BalanceSection, StaticBalance, UncertaintyBalance, DwaBalance, GradientBalance
)
"""The kinds of balance; :mod:`ctr_pipeline.losses.balances` computes them."""

AnyBalance = Annotated[SerializeAsAny[BalanceSection], BeforeValidator(BALANCES.validate)]
"""Type of a field that holds one of :data:`BALANCES`."""


def refuse_wrong_balance(balance: BalanceSection, processes: int) -> None:
    """Raises ValueError where gradients of tasks are compared and each process has only a part of them."""
    if isinstance(balance, GradientBalance) and processes > 1:
        raise ValueError(
            f"`training.balance` of kind gradient compares the tasks' gradients of a whole batch, and `training.processes` is "
            f"{processes}: train in one process, or choose another balance"
        )
