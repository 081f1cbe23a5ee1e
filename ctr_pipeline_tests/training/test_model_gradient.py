from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ctr_pipeline.features.layout import Encoding, Frequency
from ctr_pipeline.losses.binary_cross_entropy import WeightedBinaryCrossEntropy
from ctr_pipeline.losses.masking import known_counts
from ctr_pipeline.losses.multi_task import multi_task_loss
from ctr_pipeline.ranker import build_ranker
from ctr_pipeline.spec.model import Model


def loss_of(logits: Tensor, labels: Tensor, weights: Tensor, loss_weights: Tensor) -> tuple[Tensor, Tensor]:
    return multi_task_loss(
        WeightedBinaryCrossEntropy().task_sums(logits, labels, weights), known_counts(labels), loss_weights
    )


ENCODINGS = {
    "standard": None,
    "piecewise_linear": Encoding("piecewise_linear", (0.0, 1.0, 2.5, 9.0), (0.8, 0.5, 0.1)),
    "bucket": Encoding("bucket", (1.0, 2.5), (0.3, 0.4, 0.3)),
    "cyclic": Encoding("cyclic", period=7.0),
}


MODELS = {
    "plain": {},
    "products": {"interactions": [{"kind": "factorisation_machine"}]},
    "unnormalised": {"normalisation": "none"},
    "residual": {"hidden": [16, 8, 8], "residual": True},
    "frequency": {},
}


@pytest.mark.parametrize(
    ("model", "encoding"), [*((name, "piecewise_linear") for name in MODELS), *(("plain", kind) for kind in ENCODINGS)]
)
def test_gradient_of_model_and_loss_by_finite_differences(layout, make_rows, model: str, encoding: str) -> None:
    """Along each tensor's own gradient; a step that flips a ReLU is no test of the gradient and is left out."""
    if model == "products":
        layout = replace(layout, ids=tuple(replace(column, dim=4) for column in layout.ids))
    if model == "frequency":
        layout = replace(layout, ids=(replace(layout.ids[0], frequency=Frequency(2.5, 0.7)), *layout.ids[1:]))
    layout = replace(layout, numeric=(replace(layout.numeric[0], encoding=ENCODINGS[encoding]), layout.numeric[1]))
    section = Model.model_validate({"embedding_dim": 4, "hidden": [16, 8], **MODELS[model]})
    ranker = build_ranker(layout, section, 2).double()
    rows = make_rows(64, 1)
    numeric, ids = torch.from_numpy(rows.numeric).double(), torch.from_numpy(rows.ids)
    labels, weights = torch.from_numpy(rows.labels), torch.from_numpy(rows.weights).double()
    signs: list[Tensor] = []
    for layer in ranker.tower:
        layer.activation.register_forward_hook(lambda *call: signs.append(call[2].detach() > 0))

    def evaluate() -> tuple[Tensor, Tensor]:
        signs.clear()
        value, _ = loss_of(ranker(numeric, ids), labels, weights, torch.ones(2, dtype=torch.float64))
        return value, torch.cat([sign.flatten() for sign in signs])

    value, base = evaluate()
    value.backward()
    checked = 0
    for name, parameter in ranker.named_parameters():
        assert parameter.grad is not None, name
        gradient = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
        expected = float(gradient.norm())
        direction = gradient / expected
        errors = []
        for epsilon in (1e-3, 1e-4, 1e-5, 1e-6):
            with torch.no_grad():
                parameter.add_(direction, alpha=epsilon)
                above, signs_above = evaluate()
                parameter.sub_(direction, alpha=2 * epsilon)
                below, signs_below = evaluate()
                parameter.add_(direction, alpha=epsilon)
            if torch.equal(signs_above, base) and torch.equal(signs_below, base):
                errors.append(abs(float(above - below) / (2 * epsilon) - expected) / expected)
        if errors:
            checked += 1
            assert min(errors) < 1e-6, name
    assert checked >= 8
