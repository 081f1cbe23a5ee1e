"""What features of the past name elsewhere in the spec: keys, items and tasks."""

from collections.abc import Sequence

from ctr_pipeline.spec.features import Features
from ctr_pipeline.spec.history import HistorySequence, HistoryTop
from ctr_pipeline.spec.source import ImpressionColumns
from ctr_pipeline.spec.tasks import Task


def refuse_wrong_history(features: Features, declared: Sequence[Task], columns: ImpressionColumns) -> None:
    """Raises ValueError where a feature of the past has a key or an item that is no category, or counts no task."""
    tasks, categories = {task.name for task in declared}, set(features.single)
    keys = {"user"} | categories
    for history in features.history:
        what = f"history feature {history.name!r}"
        if history.key not in keys:
            raise ValueError(f"{what} has key {history.key!r}; use one of {', '.join(sorted(keys))}")
        if history.key == "user" and columns.user is None:
            raise ValueError(f"{what} has key 'user', but `impression.user` names no column: add it")
        if isinstance(history, HistorySequence | HistoryTop) and history.item not in categories:
            raise ValueError(
                f"{what} lists item {history.item!r}, which is no categorical feature of one value; "
                f"use one of {', '.join(sorted(categories))}"
            )
        if history.task is not None and history.task not in tasks:
            raise ValueError(f"{what} counts task {history.task!r}; use one of {', '.join(sorted(tasks))}")
        if isinstance(history, HistorySequence):
            for task in history.tasks:
                if task is not None and task not in tasks:
                    raise ValueError(
                        f"{what} lists events {task!r}; use `impression` or one of {', '.join(sorted(tasks))}"
                    )
