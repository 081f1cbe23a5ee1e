import subprocess
import sys
from typing import Literal

import pytest
from pydantic import BaseModel, Field

from ctr_pipeline.losses import LossError, build_loss, register_loss
from ctr_pipeline.losses.binary_cross_entropy import WeightedBinaryCrossEntropy
from ctr_pipeline.spec.losses import AnyLoss, BinaryCrossEntropy, LossSection

pytestmark = pytest.mark.usefixtures("own_losses")


class Holder(BaseModel):
    loss: AnyLoss


class Plain(WeightedBinaryCrossEntropy):
    pass


class Steep(LossSection):
    kind: Literal["steep_for_registry"] = "steep_for_registry"
    slope: float = Field(default=2.0, gt=0)


class SteepLoss(WeightedBinaryCrossEntropy):
    def __init__(self, slope: float) -> None:
        self.slope = slope


def build_steep(section: Steep) -> SteepLoss:
    return SteepLoss(section.slope)


def test_the_default_is_weighted_binary_cross_entropy() -> None:
    assert isinstance(build_loss(BinaryCrossEntropy()), WeightedBinaryCrossEntropy)


def test_a_loss_without_fields_needs_one_class_and_one_call() -> None:
    register_loss("plain_for_registry", Plain)
    holder = Holder.model_validate({"loss": {"kind": "plain_for_registry"}})
    assert holder.model_dump() == {"loss": {"kind": "plain_for_registry"}}
    assert isinstance(build_loss(holder.loss), Plain)
    with pytest.raises(ValueError, match="slope: unknown key"):
        Holder.model_validate({"loss": {"kind": "plain_for_registry", "slope": 1}})


def test_a_loss_with_fields_receives_its_section() -> None:
    register_loss("steep_for_registry", build_steep, Steep)
    built = build_loss(Holder.model_validate({"loss": {"kind": "steep_for_registry", "slope": 3}}).loss)
    assert isinstance(built, SteepLoss)
    assert built.slope == 3.0


def test_a_kind_belongs_to_one_loss() -> None:
    register_loss("owned_for_registry", Plain)
    register_loss("owned_for_registry", Plain)  # its module was loaded again
    with pytest.raises(ValueError, match=r"'owned_for_registry' of .*SteepLoss is already that of .*Plain"):
        register_loss("owned_for_registry", SteepLoss)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=r"Steep\.kind is not 'other'"):
        register_loss("other", build_steep, Steep)


def test_a_kind_that_is_not_registered_here_is_refused() -> None:
    class Elsewhere(LossSection):
        kind: Literal["elsewhere"] = "elsewhere"

    with pytest.raises(LossError, match=r"kind 'elsewhere'; registered: .*binary_cross_entropy.*Install the package"):
        build_loss(Elsewhere())


def test_registering_needs_no_torch() -> None:
    script = "import sys, ctr_pipeline.losses; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
