"""What is common to the modules over a key's last events: events as vectors, recency, and the weights of attention."""

import math

import torch
from torch import Tensor, nn

from ctr_pipeline.ranker.shapes import Events, EventShape

HOUR = 3600.0
OLDEST = 366 * 24 * HOUR
"""Seconds that an event is old at most, or whose age is missing."""

_AGES = 8
"""Ages that :class:`AgeEncoder` has vectors for."""


class AgeEncoder(nn.Module):
    """Learned vectors for ages, interpolated between those of some ages that are evenly spread over log(1 + hours).

    Args:
        width: Width of a vector.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vectors = small_vectors(_AGES, width)

    def forward(self, ages: Tensor) -> Tensor:
        """[G, L, width] of ages [G, L] in seconds."""
        place = log_hours(ages) * ((_AGES - 1) / math.log(1 + OLDEST / HOUR))
        at = torch.arange(_AGES, dtype=place.dtype, device=place.device)
        hats = (1 - (place.unsqueeze(2) - at).abs()).clamp(min=0)
        return hats @ self.vectors


class EventEncoder(nn.Module):
    """An event as one vector: its item's embedding, normalised and projected, plus vectors of its kind and of its age.

    Embeddings start very short, so that rare ids begin without influence; normalised, their direction counts.

    Args:
        shape: The events.
        width: Width of the vectors.
    """

    def __init__(self, shape: EventShape, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(shape.width)
        self.project = nn.Linear(shape.width, width)
        self.kinds = small_vectors(shape.kinds, width) if shape.kinds > 1 else None
        self.ages = AgeEncoder(width)

    def forward(self, events: Events) -> Tensor:
        """[G, L, width]."""
        encoded: Tensor = self.of_item(events.items) + self.ages(events.ages)
        if self.kinds is not None and events.kinds is not None:
            encoded = encoded + torch.index_select(self.kinds, 0, events.kinds.flatten()).view(encoded.shape)
        return encoded

    def of_item(self, embeddings: Tensor) -> Tensor:
        """[..., width] of embeddings [..., d]: what an item is without kind and age, as a candidate is."""
        encoded: Tensor = self.project(self.norm(embeddings))
        return encoded


class RecencyWeights(nn.Module):
    """What recency adds to attention logits: an event of age a weighs (1 + a in hours)^-γ, with a γ learned by head.

    Args:
        heads: Attention heads H.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.full((heads,), 0.3))

    def forward(self, events: Events) -> Tensor:
        """[G, H, L] logits; the lowest finite number of single precision after the end of a list."""
        logits = -self.exponent.view(1, -1, 1) * log_hours(events.ages).unsqueeze(1)
        return logits.masked_fill(~events.there.unsqueeze(1), torch.finfo(torch.float32).min)


def small_vectors(count: int, width: int) -> nn.Parameter:
    """[count, width] vectors that are short beside a normalised one, and not zeros: what they stand for is not ignored."""
    return nn.Parameter(torch.randn(count, width) * 0.02)


def attend(logits: Tensor) -> Tensor:
    """Weights [..., L] of events from logits [..., L]: a soft-max beside one more event of logit 0 that has no value.

    So a list without events gives zeros, and events that do not matter need not add up to 1.
    """
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    largest = logits.detach().amax(dim=-1, keepdim=True).clamp(min=0)
    weights = torch.exp(logits - largest)
    return weights / (weights.sum(dim=-1, keepdim=True) + torch.exp(-largest))


def log_hours(ages: Tensor) -> Tensor:
    """log(1 + hours) of ages in seconds."""
    return torch.log(1 + ages * (1 / HOUR))
