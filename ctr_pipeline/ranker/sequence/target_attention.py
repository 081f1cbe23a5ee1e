"""Attention of a candidate to a key's last events, by a small network that sees both."""

import math

import torch
from torch import Tensor, nn

from ctr_pipeline.ranker.sequence.event_encoding import EventEncoder, RecencyWeights, attend
from ctr_pipeline.ranker.shapes import Events, EventShape, check_shape
from ctr_pipeline.spec.sequence_modules import TargetAttention


class ActivationUnit(nn.Module):
    """A mean of the events, each weighted by how it goes with the candidate (DIN: Zhou et al., KDD 2018).

    With x_l the encoded event, q the normalised embedding of the candidate, and a_l the age of the event in hours:

        s_l = w · relu(A x_l + B q + P (x_l ⊙ q) + b) - γ log(1 + a_l)
        r_l = exp(s_l) / (1 + Σ_k exp(s_k)),  p = Σ_l r_l x_l
        output = relu(W [p, p ⊙ q, Σ_l r_l] + c)

    A x_l is computed once a key. The products P (x_l ⊙ q) = (P diag(q)) x_l of all candidates are one matrix product a key.
    The 1 in the denominator is an event that says nothing; so a key without a past has p = 0.

    Args:
        shape: The events.
        section: Widths.
    """

    def __init__(self, shape: EventShape, section: TargetAttention) -> None:
        super().__init__()
        self.shape, self.hidden, self.out_width = shape, section.hidden, section.width
        self.encoder = EventEncoder(shape, shape.width)
        self.norm = nn.LayerNorm(shape.width)
        self.of_event = nn.Linear(shape.width, section.hidden, bias=False)
        self.of_target = nn.Linear(shape.width, section.hidden)
        self.of_product = nn.Parameter(torch.randn(section.hidden, shape.width) / math.sqrt(shape.width))
        self.weigh = nn.Linear(section.hidden, 1, bias=False)
        self.recency = RecencyWeights(1)
        self.output = nn.Linear(2 * shape.width + 1, section.width)

    def forward(self, events: Events, target: Tensor) -> Tensor:
        """[G, C, width] from the events of G keys and C candidates [G, C, d] each."""
        keys, length = events.there.shape
        check_shape("items of target_attention", events.items, length, self.shape.width, rows=keys)
        encoded, query = self.encoder(events), self.norm(target)
        across = encoded.transpose(1, 2)
        products = (query.unsqueeze(2) * self.of_product).flatten(1, 2) @ across
        hidden = products.view(keys, query.shape[1], self.hidden, length)
        hidden = hidden + self.of_event(encoded).transpose(1, 2).unsqueeze(1)
        hidden = torch.relu(hidden + self.of_target(query).unsqueeze(3))
        weights = attend((self.weigh.weight @ hidden).squeeze(2) + self.recency(events))
        pooled = weights.to(encoded.dtype) @ encoded
        mass = weights.sum(dim=2, keepdim=True)
        return torch.relu(self.output(torch.cat([pooled, pooled * query, mass.to(pooled.dtype)], dim=2)))
