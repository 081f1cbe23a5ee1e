"""MaskNet: what a row's inputs are, decides which of them count."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctr_pipeline.ranker.interactions.normalised_inputs import NormalisedInputs
from ctr_pipeline.ranker.interactions.output_layers import OutputLayers
from ctr_pipeline.ranker.shapes import InputShape
from ctr_pipeline.ranker.tower import Dropout
from ctr_pipeline.spec.interactions import MaskNet


class MaskBlock(nn.Module):
    """h ↦ relu(norm(W (mask ⊙ h))), mask = W_2 relu(W_1 x + b_1) + b_2 with x = the row's inputs as they are.

    (MaskNet: Wang, She & Zhang, DLP-KDD 2021, eq. 3 to 9.)

    Args:
        inputs: Width n of x.
        width: Width m of h.
        mask_width: Width of the layer of the mask.
        out: Width of the output.
        dropout: Share of values zeroed in training.
    """

    def __init__(self, inputs: int, width: int, mask_width: int, out: int, dropout: float) -> None:
        super().__init__()
        self.aggregation = nn.Linear(inputs, mask_width)
        self.projection = nn.Linear(mask_width, width)
        self.hidden = nn.Linear(width, out, bias=False)
        self.norm = nn.LayerNorm(out)
        self.dropout = Dropout(dropout)
        for linear in (self.aggregation, self.hidden):
            nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu")
        nn.init.xavier_uniform_(self.projection.weight)
        for linear in (self.aggregation, self.projection):
            nn.init.zeros_(linear.bias)

    def forward(self, inputs: Tensor, masked: Tensor) -> Tensor:
        """[B, out] of x [B, n] and h [B, m]."""
        mask = self.projection(functional.relu(self.aggregation(inputs)))
        output: Tensor = self.dropout(functional.relu(self.norm(self.hidden(mask * masked))))
        return output


class MaskNetwork(nn.Module):
    """Blocks of :class:`MaskBlock`: serial h_{k+1} = block_k(x, h_k), or parallel [block_1(x, h_0) … block_K(x, h_0)].

    h_0 are the inputs normalised, x the inputs as they are; the masks of all blocks are computed from x. The paper
    normalises each embedding by itself (``normalisation: field``).

    Args:
        shape: The ranker's inputs.
        section: The module's fields; ``dropout`` is a number.

    Raises:
        RankerError: there are no inputs, or they do not suit the normalisation.
    """

    def __init__(self, shape: InputShape, section: MaskNet) -> None:
        super().__init__()
        self.plain = NormalisedInputs(shape, "none", section.kind)
        self.inputs = NormalisedInputs(shape, section.normalisation, section.kind)
        self.serial = section.arrangement == "serial"
        width, dropout = self.inputs.width, section.dropout or 0.0
        widths = [section.width if self.serial and place else width for place in range(section.blocks)]
        self.blocks = nn.ModuleList(MaskBlock(width, own, section.mask_width, section.width, dropout) for own in widths)
        # The blocks have dropout of their own.
        concatenated = section.width * (1 if self.serial else section.blocks)
        self.output = OutputLayers(concatenated, section.hidden, dropout if section.hidden else 0.0)
        self.out_width = self.output.out_width

    def forward(self, numbers: Tensor, fields: tuple[Tensor, ...]) -> Tensor:
        """[B, out_width] of numbers [B, D] and embeddings [B, F, d] of each group."""
        inputs, hidden = self.plain(numbers, fields), self.inputs(numbers, fields)
        if self.serial:
            for block in self.blocks:
                hidden = block(inputs, hidden)
        else:
            hidden = torch.cat([block(inputs, hidden) for block in self.blocks], dim=1)
        output: Tensor = self.output(hidden)
        return output


build = MaskNetwork
