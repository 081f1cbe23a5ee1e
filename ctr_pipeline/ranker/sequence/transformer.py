"""A transformer over a key's last events, and attention of a candidate to what it makes of them."""

import math

import torch
from torch import Tensor, nn

from ctr_pipeline.ranker.sequence.event_encoding import EventEncoder, RecencyWeights, attend, small_vectors
from ctr_pipeline.ranker.shapes import Events, EventShape, check_shape
from ctr_pipeline.spec.sequence_modules import Transformer


class EventLayer(nn.Module):
    """Events attend to each other, then each is transformed by itself; both are added to it (pre-norm: Xiong et al., 2020).

        x ← x + O [head_1, …, head_H](norm(x)),  head_h: weights exp(⟨q_l, k_m⟩ / √d_h - γ_h log(1 + a_m)) / (1 + Σ_m …)
        x ← x + W₂ relu(W₁ norm(x))

    Args:
        dim: Width of an event.
        heads: Attention heads.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.wide_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.read = nn.Linear(dim, 3 * dim)
        self.write = nn.Linear(dim, dim)
        self.widen, self.narrow = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        self.recency = RecencyWeights(heads)

    def forward(self, encoded: Tensor, events: Events) -> Tensor:
        """[G, L, dim] from [G, L, dim]."""
        query, key, value = self.read(self.norm(encoded)).chunk(3, dim=2)
        attended = attended_values(query, key, value, self.recency(events), self.heads)
        encoded = encoded + self.write(attended)
        added: Tensor = self.narrow(torch.relu(self.widen(self.wide_norm(encoded))))
        return encoded + added


class EventTransformer(nn.Module):
    """Events attend to each other, and the candidate to them (BST: Chen et al., DLP-KDD 2019, with pre-norm layers).

    An event is its item, kind and age, and its place counted from the latest, so that what is before the list began
    changes none. Layers of :class:`EventLayer` read the events alone, once a key. The candidate is encoded as the item of an
    event is. Then, with q its query:

        p = heads of attention of q to the events, weighted by recency,  output = relu(W [p, p ⊙ q] + c)

    Args:
        shape: The events.
        section: Widths.
    """

    def __init__(self, shape: EventShape, section: Transformer) -> None:
        super().__init__()
        self.shape, self.heads, self.out_width = shape, section.heads, section.width
        self.encoder = EventEncoder(shape, section.dim)
        self.places = small_vectors(shape.length, section.dim)
        self.layers = nn.ModuleList(EventLayer(section.dim, section.heads) for _ in range(section.layers))
        self.norm = nn.LayerNorm(section.dim)
        self.read = nn.Linear(section.dim, 2 * section.dim)
        self.ask = nn.Linear(section.dim, section.dim)
        with torch.no_grad():
            # As the keys: at the start a candidate attends most to events of items like it.
            self.ask.weight.copy_(self.read.weight[: section.dim])
        self.recency = RecencyWeights(section.heads)
        self.output = nn.Linear(2 * section.dim, section.width)

    def forward(self, events: Events, target: Tensor) -> Tensor:
        """[G, C, width] from the events of G keys and C candidates [G, C, d] each."""
        keys, length = events.there.shape
        check_shape("items of transformer", events.items, length, self.shape.width, rows=keys)
        encoded = self.encoder(events) + self.places[:length]
        for layer in self.layers:
            encoded = layer(encoded, events)
        key, value = self.read(self.norm(encoded)).chunk(2, dim=2)
        query = self.ask(self.norm(self.encoder.of_item(target)))
        pooled = attended_values(query, key, value, self.recency(events), self.heads)
        return torch.relu(self.output(torch.cat([pooled, pooled * query], dim=2)))


def attended_values(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, heads: int) -> Tensor:
    """[G, Q, dim] what queries [G, Q, dim] find among keys and values [G, L, dim], head by head.

    Args:
        query: The queries.
        key: The keys.
        value: The values.
        bias: [G, H, L] what is added to the logits of the keys.
        heads: Heads H that the widths are divided among.
    """
    width = query.shape[2] // heads
    asked, found, held = (part.reshape(*part.shape[:2], heads, width).transpose(1, 2) for part in (query, key, value))
    weights = attend(asked @ found.transpose(2, 3) / math.sqrt(width) + bias.unsqueeze(2))
    values: Tensor = weights.to(held.dtype) @ held
    return values.transpose(1, 2).flatten(2)
