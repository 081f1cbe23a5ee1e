"""How fast a request must be answered."""

from pydantic import Field

from ctr_pipeline.spec.fields import Section


class Serving(Section):
    """The latency budget: a model whose exported graph is slower is not served."""

    budget_ms: float | None = Field(
        default=8.0,
        gt=0,
        description="Milliseconds of one core that scoring a request may take, at the 99th percentile; null for no limit.",
    )
    candidates: int = Field(default=1, ge=1, le=100_000, description="Impressions that a request asks to score.")
