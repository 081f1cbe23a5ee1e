"""How the data is split, weighted, modelled and trained on."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ctr_pipeline.spec.fields import Duration, Name, Section
from ctr_pipeline.spec.tasks import Task


class Slice(Section):
    """A stretch of time: whole days, or a share of the mature impressions."""

    days: int | None = Field(default=None, gt=0, description="Length in days.")
    fraction: float | None = Field(default=None, gt=0, lt=1, description="Share of the mature impressions of the run.")

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.days is None) == (self.fraction is None):
            found = "neither" if self.days is None else "both"
            raise ValueError(f"declare exactly one of `days` and `fraction`; found {found}")
        return self


class Split(Section):
    """A simulated deployment, in time order: train, validation, calibration, maturity gap, test.

    The test is the latest mature stretch. Everything before the gap is labelled as of the first instant of the test.
    """

    test: Slice = Field(default=Slice(days=7), description="The latest mature stretch.")
    calibration: Slice = Field(
        default=Slice(days=2), description="Stretch before the gap on which calibrators are fitted."
    )
    validation: Slice = Field(
        default=Slice(days=1), description="Stretch before calibration on which the best epoch is chosen."
    )
    train_days: int | None = Field(
        default=None, gt=0, description="Longest training stretch in days; all of the log when absent."
    )
    ingest_lag: Duration = Field(
        default=0, description="Extra time after a window closes before its label counts as settled."
    )

    @model_validator(mode="after")
    def _training_rows_left(self) -> Self:
        share = sum(part.fraction or 0.0 for part in (self.test, self.calibration, self.validation))
        if share >= 1:
            raise ValueError(f"the fractions add up to {share:g}: leave some of the impressions for training")
        return self


class Propensity(Section):
    """Weights that make production traffic resemble randomised traffic."""

    weighting: Literal["none", "ips"] = Field(
        default="none", description="`ips` multiplies the loss of a row by IPS(position, response)."
    )
    responses: list[Name] = Field(default=[], description="Tasks that get a table; all tasks when empty.")
    smoothing: float = Field(
        default=300.0, ge=0, description="Pseudo-impressions that pull each position's rate to the overall rate."
    )
    clip: tuple[float, float] = Field(default=(0.1, 10.0), description="Smallest and largest weight.")

    @model_validator(mode="after")
    def _clip_in_order(self) -> Self:
        if not 0 < self.clip[0] <= 1 <= self.clip[1]:
            raise ValueError(f"`clip` is [low, high] with 0 < low <= 1 <= high; found {list(self.clip)}")
        return self


class LabelQuality(Section):
    """Whose labels are judged, by the rate of their outcomes among the other keys, and what follows from it."""

    key: Name = Field(description="Name of the categorical feature that says who reports the outcomes.")
    tasks: list[Name] = Field(
        default=[], description="Tasks whose rates are judged; every task with a parent when empty."
    )
    min_trials: int = Field(
        default=10, gt=0, description="Parent outcomes (impressions, for a first step) below which a key is not judged."
    )
    threshold: float = Field(default=2.5, gt=0, description="Largest plausible distance |z| from the other keys.")
    weighting: Literal["none", "down_weight"] = Field(
        default="none", description="`down_weight` multiplies the loss of a flagged key's rows by (threshold / z)²."
    )
    floor: float = Field(default=0.1, gt=0, le=1, description="Smallest weight of a flagged key.")
    max_flagged_share: float = Field(
        default=0.05, ge=0, le=1, description="Above this share of a task's outcomes or trials the check warns."
    )

    def judged(self, tasks: list[Task]) -> list[str]:
        """Names of the tasks that are judged, in the order of ``tasks``."""
        return [task.name for task in tasks if (task.name in self.tasks if self.tasks else task.parent is not None)]


class Model(Section):
    """The ranker: embeddings and numbers into a multi-layer perceptron, one head a task."""

    embedding_dim: int = Field(default=16, gt=0, description="Width of the embeddings.")
    hidden: list[Annotated[int, Field(gt=0)]] = Field(default=[256, 128], description="Widths of the hidden layers.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout after each hidden layer.")
    embedding_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Share of feature embeddings zeroed in training."
    )
    wide: bool = Field(default=True, description="Add a linear part over all inputs to the logits.")
    heads: Literal["chain", "independent"] = Field(
        default="chain",
        description="`chain` multiplies conditional probabilities along the funnel; `independent` has one logit a task.",
    )


class Training(Section):
    """The training loop."""

    epochs: int = Field(
        default=1, gt=0, description="Passes over the training stretch; the best on validation is kept."
    )
    batch_size: int = Field(default=4096, gt=0, description="Rows a step over all processes.")
    learning_rate: float = Field(default=1e-3, gt=0, description="Peak step size of AdamW on the dense parameters.")
    embedding_learning_rate: float = Field(
        default=0.02, gt=0, description="Peak step size of row-wise Adagrad on the embeddings."
    )
    weight_decay: float = Field(default=1e-5, ge=0, description="Decoupled weight decay on the dense weights.")
    embedding_l2: float = Field(default=0.0, ge=0, description="L2 penalty on the embedding rows that a batch touches.")
    warmup_fraction: float = Field(
        default=0.05, ge=0, lt=1, description="Share of the steps with a rising step size; then cosine."
    )
    clip_norm: float = Field(default=10.0, gt=0, description="Largest global gradient norm.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="Arithmetic of the dense part; embeddings and loss stay fp32."
    )
    processes: int = Field(default=1, gt=0, description="Training processes on this machine.")
    threads: int = Field(default=2, gt=0, description="CPU threads of each process.")
    log_every: int = Field(default=20, gt=0, description="Steps between logged metrics.")


class Quality(Section):
    """Limits that the checks hold the run to."""

    max_quarantine_share: float = Field(
        default=0.01, ge=0, le=1, description="Above this share of quarantined rows a day is refused."
    )
    max_orphan_share: float = Field(
        default=0.01, ge=0, le=1, description="Above this share of events without their impression a day is refused."
    )
    min_mature_test_share: float = Field(
        default=0.995, ge=0, le=1, description="Below this share of mature test rows the evaluation is refused."
    )
    max_ne_regression: float = Field(
        default=0.01, ge=0, description="How much worse, relatively, the normalised entropy may be than the champion's."
    )
