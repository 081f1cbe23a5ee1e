"""The definition of the history features, as a digest: two tables or stores with the same one hold the same values."""

import hashlib
import json

from ctr_pipeline.spec import Spec

VERSION = 1
"""Goes up when the meaning of a history feature changes while its section of the spec does not."""

_OF_THE_MODEL = {"encoding", "pooling"}
"""Fields of a history feature that say how the model reads it, not what it is."""

_OF_THE_TRAINING = {"loss_weight", "objective"}
"""Fields of a task that decide no label."""


def history_definition(spec: Spec) -> str:
    """Digest of all that decides the history values of given impressions and events; 16 hex digits.

    It covers the features, the tasks whose outcomes they count, the lags of arrival, and the columns of keys and items.
    """
    features = spec.features
    named = {f.key for f in features.history} | {f.item for f in features.listing}
    content = {
        "version": VERSION,
        "features": [f.model_dump(mode="json", exclude=_OF_THE_MODEL) for f in features.history],
        "tasks": [task.model_dump(mode="json", exclude=_OF_THE_TRAINING) for task in spec.tasks],
        "lags": [spec.split.ingest_lag, spec.source.max_early],
        "columns": {f.name: [f.source_column, f.time] for f in features.embedded if f.name in named},
        "user": spec.impression.user if "user" in named else None,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
