"""By which keys of the log a model is measured."""

from pydantic import Field

from ctr_pipeline.spec.fields import Column, Section


class Evaluation(Section):
    """Keys of the metrics: ``user``, ``session``, or a column of the log, which is stored as a keyed hash only."""

    group_by: Column | None = Field(
        default=None,
        description="Key within which impressions are ranked, such as a request: adds the AUC within its groups.",
    )
    cluster_by: Column | None = Field(
        default=None,
        description="Key whose rows are not independent, for all intervals; the user, or else the session, when absent.",
    )
