"""How the ranker is trained. What is absent is chosen from the training rows (:mod:`ctr_pipeline.training.plan`)."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from ctr_pipeline.spec.balancing import AnyBalance, StaticBalance, refuse_wrong_balance
from ctr_pipeline.spec.fields import Section, added_field
from ctr_pipeline.spec.objectives import Binary
from ctr_pipeline.spec.tasks import Task

DETAILS = 100
"""Steps between detailed measurements, at least, where the spec does not say: they take
half as long as a step of a small model."""


class Training(Section):
    """The training loop."""

    epochs: int | None = Field(
        default=None, gt=0, description="Most passes over the training rows; the best on validation is kept."
    )
    refit: bool | None = added_field(
        None,
        "Whether the ranker is trained again, once its epochs are chosen, on the validation too; when absent, below "
        "5 million training rows.",
    )
    patience: int = added_field(2, "Epochs without a better validation after which training ends.", gt=0)
    batch_size: int | None = Field(default=None, gt=0, description="Rows a step over all processes.")
    learning_rate: float | None = Field(
        default=None, gt=0, description="Peak learning rate of AdamW on the dense parameters."
    )
    embedding_learning_rate: float | None = Field(
        default=None, gt=0, description="Peak learning rate of row-wise Adagrad on the embeddings."
    )
    weight_decay: float = Field(default=1e-5, ge=0, description="Decoupled weight decay on the dense weights.")
    embedding_l2: float = Field(default=0.0, ge=0, description="L2 penalty on the embedding rows that a batch touches.")
    warmup_fraction: float = Field(
        default=0.05, ge=0, lt=1, description="Share of the steps with a rising learning rate; then cosine."
    )
    clip_norm: float = Field(default=10.0, gt=0, description="Largest global gradient norm.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="Arithmetic of the dense part; embeddings and loss stay fp32."
    )
    processes: int = Field(default=1, gt=0, description="Training processes on this machine.")
    threads: int = Field(default=2, gt=0, description="CPU threads of each process.")
    log_every: int = Field(default=20, gt=0, description="Steps between logged metrics.")
    detail_every: int | None = added_field(
        None,
        "Steps between measurements of activations, embedding rows, updates and the loss's gradient; when absent, as "
        "`log_every`, and at least 100; the first ones come sooner.",
        gt=0,
    )

    @property
    def steps_between_details(self) -> int:
        """Steps between detailed measurements."""
        return max(self.log_every, DETAILS) if self.detail_every is None else self.detail_every

    seed: int | None = added_field(
        None,
        "Seed of the initial weights, dropout and order of the rows; that of the spec when absent.",
        ge=0,
        lt=2**31,
    )
    label_smoothing: float = added_field(
        0.0,
        "Share of each settled training label that is the task's base rate in place of the outcome.",
        ge=0,
        lt=0.5,
    )
    balance: AnyBalance = added_field(StaticBalance(), "How the tasks' losses are weighted against each other.")

    @model_validator(mode="after")
    def _whole_batches(self) -> Self:
        refuse_wrong_balance(self.balance, self.processes)
        return self


def refuse_wrong_smoothing(training: Training, tasks: Sequence[Task]) -> None:
    """Raises ValueError where labels are smoothed and a task learns from something else than the cross-entropy."""
    others = [task.name for task in tasks if task.objective != Binary()]
    if training.label_smoothing and others:
        raise ValueError(
            "`training.label_smoothing` is of the binary cross-entropy, and another `objective` or `objective.loss` trains "
            f"{', '.join(others)}: remove one of both"
        )
