"""What is chosen for a training whose spec leaves its settings open, and when it ends."""

from collections.abc import Callable

import numpy as np
import pytest

from ctr_pipeline.spec.model import Model
from ctr_pipeline.spec.training import Training
from ctr_pipeline.training.job_spec import TrainingJob
from ctr_pipeline.training.loop import Trainer
from ctr_pipeline.training.plan import known_outcomes, plan_training


@pytest.mark.parametrize(
    ("rows", "outcomes", "batch_size", "epochs"),
    [
        (1, 1, 256, 30),
        (6_000, 100, 256, 8),
        (12_000, 100, 256, 4),
        (60_000, 100, 256, 3),
        (560_000, 100, 512, 3),
        (1_900_000, 100_000, 2048, 3),
        (2_000_000, 49_999, 2048, 2),
        (2_000_000, 50_000, 2048, 1),
        (60_000_000, 600_000, 4096, 1),
    ],
)
def test_batch_and_epochs_follow_from_rows_and_outcomes(rows: int, outcomes: int, batch_size: int, epochs: int) -> None:
    plan = plan_training(Training(), Model(), rows, outcomes)
    assert (plan.batch_size, plan.epochs) == (batch_size, epochs)
    steps = -(-rows // plan.batch_size) * plan.epochs
    assert steps >= 180 or plan.epochs == 30


@pytest.mark.parametrize(
    ("rows", "given", "expected"),
    [
        (6_000, {}, 0.03),
        (128_000, {}, 0.011547),
        (560_000, {}, 0.007806),
        (1_500_000, {}, 0.015139),
        (60_000_000, {}, 0.005225),
        (600_000_000, {}, 0.005),
        (6_000, {"epochs": 100}, 0.009129),
        (6_000, {"embedding_learning_rate": 0.5}, 0.5),
    ],
)
def test_the_more_steps_the_slower_the_embeddings(rows: int, given: dict[str, float], expected: float) -> None:
    assert plan_training(Training(**given), Model(), rows, 100).embedding_learning_rate == expected


def test_dropouts_follow_from_the_outcomes() -> None:
    few, many = (plan_training(Training(), Model(), 10**6, outcomes) for outcomes in (49_999, 50_000))
    assert (few.dropout, few.embedding_dropout) == (0.2, 0.3)
    assert (many.dropout, many.embedding_dropout) == (0.0, 0.1)


def test_what_the_spec_says_is_kept() -> None:
    training = Training(epochs=7, batch_size=33, learning_rate=0.5, embedding_learning_rate=0.25)
    plan = plan_training(training, Model(dropout=0.0, embedding_dropout=0.0), 10**6, 10)
    assert (plan.epochs, plan.batch_size, plan.learning_rate, plan.embedding_learning_rate) == (7, 33, 0.5, 0.25)
    assert (plan.dropout, plan.embedding_dropout) == (0.0, 0.0)


def test_outcomes_are_labels_of_the_rarer_class() -> None:
    labels = np.array([[1, 1], [1, 0], [1, -1], [0, -1]], dtype=np.int8)
    assert known_outcomes(labels) == 1
    assert known_outcomes(np.zeros((0, 2), dtype=np.int8)) == 0


@pytest.mark.parametrize(
    ("scores", "epochs", "best"), [([5, 4, 3, 2, 1], 5, 4), ([5, 4, 6, 7, 1], 4, 1), ([3, 3, 3, 1, 0], 3, 0)]
)
def test_training_ends_when_validation_no_longer_gets_better(
    scores: list[int],
    epochs: int,
    best: int,
    make_trainer: Callable[..., Trainer],
    job: TrainingJob,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a patience of 2, by what validation said after each of at most five epochs."""
    said = iter(scores)
    monkeypatch.setattr("ctr_pipeline.training.loop.validate", lambda *_: ([1.0, 1.0], [next(said) / 10, None]))
    longer = job.model_copy(update={"training": Training(epochs=5, batch_size=256)})
    result = make_trainer(longer).run(resume=False)
    assert (result.epochs, result.best_epoch) == (epochs, best)
