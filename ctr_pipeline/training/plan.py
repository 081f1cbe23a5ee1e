"""What a spec leaves open of a training, chosen from the numbers of training rows and outcomes. Needs no torch."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.spec.model import Model
from ctr_pipeline.spec.training import Training

ROWS_A_BATCH = 1_000
"""A batch is about this share of the rows: the noise of its gradient keeps middle-sized logs from being learnt by heart."""

SMALLEST_BATCH, LARGEST_BATCH = 256, 4096

STEPS = 180
"""Steps that a training takes at least, where :data:`MOST_EPOCHS` allow it."""

MANY_ROWS = 2_000_000
"""From this many rows on, one epoch is enough; two where few outcomes ask for dropouts, with which a second one still pays."""

EPOCHS, MOST_EPOCHS = 3, 30

TABLE_STEPS = 500
"""With this many steps embeddings take 0.02. Row-wise Adagrad moves a row by the rate times the root of the steps that
touched it, so that the rate falls with the root of their number: else the rows of a long training learn by heart."""

QUIET_BATCH = 512
"""Above this size of a batch the rate grows with its cube root: a row's gradient is then a mean over more rows with the same
id, which teaches less of a single one by heart."""

SLOWEST_TABLE, FASTEST_TABLE = 0.005, 0.03

FEW_OUTCOMES = 50_000
"""Below this number of outcomes, embeddings are learnt by heart unless some are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """The settings with which a training runs: those of the spec, and for what it leaves open the chosen ones."""

    batch_size: int
    epochs: int
    learning_rate: float
    embedding_learning_rate: float
    dropout: float
    embedding_dropout: float


def plan_training(training: Training, model: Model, rows: int, outcomes: int) -> TrainingPlan:
    """The plan for that many training rows; a value that the spec gives is kept.

    - ``batch_size``: the power of two nearest to a thousandth of the rows (as a ratio), from 256 to 4,096.
    - ``epochs``: 3; from 2 million rows on 1, or 2 below 50,000 outcomes; more where they give fewer than 180 steps, and at
      most 30.
    - ``learning_rate``: 0.001.
    - ``embedding_learning_rate``: 0.02 · √(500 / steps), times ∛(batch size / 512) for larger batches, from 0.005 to 0.03.
    - ``dropout`` and ``embedding_dropout``: 0.2 and 0.3 below 50,000 outcomes, from there on 0 and 0.1.

    Args:
        training: The spec's section.
        model: The spec's section.
        rows: Training rows.
        outcomes: Known labels of the rarer class, of the task that has most of them.
    """
    batch_size = training.batch_size or _power_of_two(rows / ROWS_A_BATCH)
    steps = -(-rows // batch_size)
    few = outcomes < FEW_OUTCOMES
    least = EPOCHS if rows < MANY_ROWS else 2 if few else 1
    epochs = min(max(-(-STEPS // max(steps, 1)), least), MOST_EPOCHS)
    epochs = epochs if training.epochs is None else training.epochs
    table_rate = 0.02 * math.sqrt(TABLE_STEPS / max(steps * epochs, 1)) * max(batch_size / QUIET_BATCH, 1.0) ** (1 / 3)
    return TrainingPlan(
        batch_size=batch_size,
        epochs=epochs,
        learning_rate=1e-3 if training.learning_rate is None else training.learning_rate,
        embedding_learning_rate=training.embedding_learning_rate
        or round(min(max(table_rate, SLOWEST_TABLE), FASTEST_TABLE), 6),
        dropout=(0.2 if few else 0.0) if model.dropout is None else model.dropout,
        embedding_dropout=(0.3 if few else 0.1) if model.embedding_dropout is None else model.embedding_dropout,
    )


def known_outcomes(labels: NDArray[np.int8]) -> int:
    """Labels of the rarer class, of the task that has most of them, in [N, T] labels of 1, 0 and -1."""
    positives, negatives = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    return int(np.minimum(positives, negatives).max(initial=0))


def _power_of_two(value: float) -> int:
    nearest = round(math.log2(value)) if value > 0 else 0
    return min(max(1 << max(nearest, 0), SMALLEST_BATCH), LARGEST_BATCH)
