"""Keys of the impressions by which a spec splits, groups and draws: where they are named, and where they are stored."""

from ctr_pipeline.spec.evaluation import Evaluation
from ctr_pipeline.spec.source import ImpressionColumns
from ctr_pipeline.spec.split import Split

_STORED = {"split.by": "split_key", "evaluation.group_by": "group_key", "evaluation.cluster_by": "cluster_key"}
_OWN = {"user", "session"}


def named_keys(split: Split, evaluation: Evaluation) -> dict[str, str]:
    """Fields that name a key, and the key; ``row`` is that of a split by nothing."""
    found = {
        "split.by": split.by,
        "evaluation.group_by": evaluation.group_by,
        "evaluation.cluster_by": evaluation.cluster_by,
    }
    return {field: key for field, key in found.items() if key is not None and (field, key) != ("split.by", "row")}


def stored_keys(split: Split, evaluation: Evaluation) -> dict[str, tuple[str, str]]:
    """Columns of the table `impressions` that hold nothing but a key: for each the field and the log's column."""
    named = named_keys(split, evaluation)
    return {_STORED[field]: (field, key) for field, key in named.items() if key not in _OWN}


def refuse_absent_keys(split: Split, evaluation: Evaluation, declared: ImpressionColumns) -> None:
    """Raises ValueError where a key is the user or the session, and the log has none."""
    for field, key in named_keys(split, evaluation).items():
        if key in _OWN and getattr(declared, key) is None:
            raise ValueError(
                f"`{field}` is {key!r}, but `impression.{key}` names no column: add it, or use another key"
            )
