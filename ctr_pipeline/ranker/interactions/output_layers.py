"""The end of the interactions with weights: dropout, and hidden layers where they are stacked."""

from collections.abc import Sequence

from torch import Tensor, nn

from ctr_pipeline.ranker.tower import Dropout, HiddenLayer


class OutputLayers(nn.Sequential):
    """Dropout of an interaction's output h, and hidden layers h ↦ dropout(relu(norm(W h + b))) that read it.

    Without hidden layers the interaction is parallel to the ranker's own layers, as most papers have it by default; with
    them it is the stacked form.

    Args:
        width: Width of the interaction's output.
        hidden: Widths of the hidden layers.
        dropout: Share of values zeroed in training.
    """

    def __init__(self, width: int, hidden: Sequence[int], dropout: float) -> None:
        layers: list[nn.Module] = [Dropout(dropout)]
        for own in hidden:
            linear = nn.Linear(width, own)
            nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu")
            nn.init.zeros_(linear.bias)
            layers.append(HiddenLayer(linear, normalised=True, dropout=dropout))
            width = own
        super().__init__(*layers)
        self.out_width = width
        """Width of the output."""

    def forward(self, output: Tensor) -> Tensor:
        """[B, :attr:`out_width`] of [B, width]."""
        for layer in self:
            output = layer(output)
        return output
