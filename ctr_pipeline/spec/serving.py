"""How fast a request must be answered, and what its candidates share."""

from typing import Literal

from pydantic import Field

from ctr_pipeline.spec.canary import Canary
from ctr_pipeline.spec.fields import Name, Section, added_field
from ctr_pipeline.spec.ranking import RankingTerm


class ServingLog(Section):
    """The log of served requests, from which `skew_report` finds out whether models get what training would give them."""

    rate: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Share of the requests that `ctr serve` logs, chosen by a hash of their ids; 0 for none.",
    )
    spool_mb: int = Field(
        default=1024,
        ge=1,
        le=1_000_000,
        description="MiB that logged requests may take until the asset `serving_log` fetches them; further ones are not logged.",
    )


class Serving(Section):
    """The latency budget: a model whose exported graph is slower is not served."""

    budget_ms: float | None = Field(
        default=8.0,
        gt=0,
        description="Milliseconds of one core that scoring a request may take, at the 99th percentile; null for no limit.",
    )
    candidates: int = Field(default=1, ge=1, le=100_000, description="Impressions that a request asks to score.")
    log: ServingLog = added_field(ServingLog(), "Which requests are logged.")
    canary: Canary = added_field(Canary(), "Limits of a challenger that answers a share of the users.")
    embedding_storage: Literal["fp32", "fp16", "int8"] = added_field(
        "fp32",
        "How the served model keeps embeddings: in single or half precision, or by rows as whole numbers of 8 bits and a scale.",
    )
    max_storage_difference: float = added_field(
        0.01,
        "Largest change of a probability by `embedding_storage`, over sampled and extreme rows; a model that changes more is not served.",
        gt=0,
        lt=1,
    )
    score: list[RankingTerm] | None = added_field(
        None,
        "Terms whose sum the candidates are ranked by; it is returned with the tasks, as `ranking_score`.",
        min_length=1,
    )
    candidate_features: list[Name] | None = added_field(
        None,
        "Features in which the candidates of a request differ. All others are shared, and computed once a request. Every feature may differ when absent.",
        min_length=1,
    )
