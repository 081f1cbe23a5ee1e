"""A perceptron whose blocks add to what they read."""

from torch import Tensor, nn
from torch.nn import functional

from ctr_pipeline.ranker.initialisation import start_at_zero
from ctr_pipeline.ranker.interactions.normalised_inputs import NormalisedInputs
from ctr_pipeline.ranker.interactions.output_layers import OutputLayers
from ctr_pipeline.ranker.shapes import InputShape
from ctr_pipeline.ranker.tower import Dropout
from ctr_pipeline.spec.interactions import ResidualPerceptron


class ResidualBlock(nn.Module):
    """h ↦ h + dropout(W_2 dropout(relu(W_1 norm(h) + b_1)) + b_2) (Gorishniy et al., NeurIPS 2021, section 3.3).

    W_2 starts with zeros: a new block passes on what it reads.

    Args:
        width: Width m of h.
        inner: Width of the rectified layer.
        dropout: Share of values zeroed in training.
    """

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first, self.second = nn.Linear(width, inner), nn.Linear(inner, width)
        self.dropout = Dropout(dropout)
        nn.init.kaiming_uniform_(self.first.weight, nonlinearity="relu")
        start_at_zero(self.second)
        nn.init.zeros_(self.first.bias)
        nn.init.zeros_(self.second.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, m] of [B, m]."""
        inner = self.dropout(functional.relu(self.first(self.norm(hidden))))
        output: Tensor = hidden + self.dropout(self.second(inner))
        return output


class ResidualNetwork(nn.Module):
    """relu(norm(h_L)) of h_0 = W x + b, x = the row's n inputs, and L blocks of :class:`ResidualBlock`.

    Args:
        shape: The ranker's inputs.
        section: The module's fields; ``dropout`` is a number.

    Raises:
        RankerError: there are no inputs, or they do not suit the normalisation.
    """

    def __init__(self, shape: InputShape, section: ResidualPerceptron) -> None:
        super().__init__()
        self.inputs = NormalisedInputs(shape, section.normalisation, section.kind)
        dropout = section.dropout or 0.0
        self.first = nn.Linear(self.inputs.width, section.width)
        nn.init.xavier_uniform_(self.first.weight)
        nn.init.zeros_(self.first.bias)
        self.blocks = nn.ModuleList(ResidualBlock(section.width, section.inner, dropout) for _ in range(section.blocks))
        self.norm = nn.LayerNorm(section.width)
        self.output = OutputLayers(section.width, section.hidden, dropout if section.hidden else 0.0)
        self.out_width = self.output.out_width

    def forward(self, numbers: Tensor, fields: tuple[Tensor, ...]) -> Tensor:
        """[B, out_width] of numbers [B, D] and embeddings [B, F, d] of each group."""
        hidden = self.first(self.inputs(numbers, fields))
        for block in self.blocks:
            hidden = block(hidden)
        output: Tensor = self.output(functional.relu(self.norm(hidden)))
        return output


build = ResidualNetwork
