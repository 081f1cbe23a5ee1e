"""The cross network of DCN-v2 with full-rank weights."""

from torch import Tensor, nn

from ctr_pipeline.ranker.interactions.normalised_inputs import NormalisedInputs
from ctr_pipeline.ranker.interactions.output_layers import OutputLayers
from ctr_pipeline.ranker.shapes import InputShape
from ctr_pipeline.spec.interactions import Cross


class CrossNetwork(nn.Module):
    """Crosses x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l, x_0 = the row's n inputs (DCN-v2: Wang et al., WWW 2021, eq. 1).

    After L crosses x_L holds products of up to L + 1 inputs. W_l is [n, n]: n² weights and 2 n² operations a row and cross.

    Args:
        shape: The ranker's inputs.
        section: The module's fields; ``dropout`` is a number.

    Raises:
        RankerError: there are no inputs, or they do not suit the normalisation.
    """

    def __init__(self, shape: InputShape, section: Cross) -> None:
        super().__init__()
        self.inputs = NormalisedInputs(shape, section.normalisation, section.kind)
        width = self.inputs.width
        self.crosses = nn.ModuleList(nn.Linear(width, width) for _ in range(section.layers))
        for cross in self.crosses:
            assert isinstance(cross, nn.Linear)
            nn.init.uniform_(cross.weight, -(width**-0.5), width**-0.5)
            nn.init.zeros_(cross.bias)
        self.output = OutputLayers(width, section.hidden, section.dropout or 0.0)
        self.out_width = self.output.out_width

    def forward(self, numbers: Tensor, fields: tuple[Tensor, ...]) -> Tensor:
        """[B, out_width] of numbers [B, D] and embeddings [B, F, d] of each group."""
        first = crossed = self.inputs(numbers, fields)
        for cross in self.crosses:
            crossed = first * cross(crossed) + crossed
        output: Tensor = self.output(crossed)
        return output


build = CrossNetwork
