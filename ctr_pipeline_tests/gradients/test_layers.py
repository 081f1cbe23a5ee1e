import math

import pytest

from ctr_pipeline.gradients.core.layers import MAX_LAYERS, layer_norms


def test_a_layer_is_the_module_that_owns_the_parameters() -> None:
    norms = {"tower.0.weight": 3.0, "tower.0.bias": 4.0, "tower.3.weight": 1.0, "scale": 2.0}
    assert layer_norms(norms) == {"tower.0": 5.0, "tower.3": 1.0, "scale": 2.0}
    assert layer_norms({}) == {}


def test_there_are_never_more_layers_than_curves_are_read() -> None:
    norms = {f"experts.{n}.layers.{m}.weight": 1.0 for n in range(10) for m in range(10)}
    norms["head.weight"] = 2.0
    found = layer_norms(norms)
    assert list(found) == ["experts.0.layers", *(f"experts.{n}.layers" for n in range(1, 10)), "head"]
    assert found["experts.3.layers"] == pytest.approx(math.sqrt(10))
    flat = layer_norms({f"layer{n}.weight": 1.0 for n in range(MAX_LAYERS + 1)})
    assert flat == {"model": pytest.approx(math.sqrt(MAX_LAYERS + 1))}
