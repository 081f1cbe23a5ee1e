"""The whole spec: one frozen object that every package reads."""

from datetime import date
from difflib import get_close_matches
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from ctr_pipeline.spec.calibration import AnyCalibrator, CrossValidated, refuse_wrong_offsets
from ctr_pipeline.spec.candidate_features import refuse_wrong_candidates
from ctr_pipeline.spec.cold_start import refuse_absent_parents
from ctr_pipeline.spec.evaluation import Evaluation
from ctr_pipeline.spec.features import CategoricalFeature, Features, NumericFeature
from ctr_pipeline.spec.fields import Name, Section, TimeZone, added_field
from ctr_pipeline.spec.heads import refuse_wrong_heads
from ctr_pipeline.spec.history_references import refuse_wrong_history
from ctr_pipeline.spec.interactions import refuse_absent_contexts
from ctr_pipeline.spec.keys import refuse_absent_keys, stored_keys
from ctr_pipeline.spec.limits import Quality
from ctr_pipeline.spec.log_columns import (
    event_columns,
    impression_columns,
    label_columns,
    logged_features,
    refuse_ids_as_values,
    stored_under,
    table_columns,
)
from ctr_pipeline.spec.model import Model
from ctr_pipeline.spec.null_values import columns_with_null_values
from ctr_pipeline.spec.position import NoPosition, refuse_wrong_position
from ctr_pipeline.spec.ranking import refuse_wrong_terms
from ctr_pipeline.spec.scope import Days, Privacy
from ctr_pipeline.spec.sequence_modules import refuse_unread_events
from ctr_pipeline.spec.serving import Serving
from ctr_pipeline.spec.side_tables import refuse_wrong_tables
from ctr_pipeline.spec.source import ImpressionColumns, LogFiles, SideTable, Source
from ctr_pipeline.spec.split import Split
from ctr_pipeline.spec.tasks import Task, maturity
from ctr_pipeline.spec.time_formats import require_time_columns
from ctr_pipeline.spec.training import Training, refuse_wrong_smoothing
from ctr_pipeline.spec.weighting import LabelQuality, Propensity


class Spec(Section):
    """What a user declares about their logs, features, tasks, split, model and training."""

    version: Literal[1] = Field(description="Version of this format: 1.")
    name: Name = Field(description="Name of the project; also the default folder under `data/`.")
    description: str = Field(default="", description="One line for people.")
    time_zone: TimeZone = Field(
        default="UTC", description="Zone of time stamps that carry none. Days are always UTC days."
    )
    seed: int = Field(default=7, ge=0, description="Seed of everything random.")
    source: Source = Field(default=Source(), description="Where the logs lie.")
    impression: ImpressionColumns = Field(description="Columns of the impression log.")
    days: Days = Field(default=Days(), description="Range of daily partitions.")
    privacy: Privacy = Field(default=Privacy(), description="What must not be stored in the clear.")
    features: Features = Field(description="What the model may look at.")
    tasks: list[Task] = Field(min_length=1, description="What to predict, parents before children.")
    split: Split = Field(default=Split(), description="How time is divided.")
    propensity: Propensity = Field(default=Propensity(), description="Weights from randomised traffic.")
    label_quality: LabelQuality | None = Field(
        default=None, description="Whose labels are evaluated for plausibility; none are when absent."
    )
    model: Model = Field(default=Model(), description="The ranker.")
    training: Training = Field(default=Training(), description="The training loop.")
    calibration: AnyCalibrator = added_field(CrossValidated(), "How logits become probabilities whose rates hold.")
    evaluation: Evaluation = added_field(Evaluation(), "Keys of the metrics and their intervals.")
    serving: Serving = added_field(Serving(), "How fast a request must be answered.")
    quality: Quality = Field(default=Quality(), description="Limits of the checks.")

    @field_validator("tasks")
    @classmethod
    def _funnel(cls, tasks: list[Task]) -> list[Task]:
        earlier: set[str] = set()
        for task in tasks:
            if task.name in earlier or task.name == "impression":
                raise ValueError(f"task name {task.name!r} is taken: choose another")
            if task.parent is not None and task.parent not in earlier:
                raise ValueError(
                    f"task {task.name!r} names parent {task.parent!r}, which no earlier task has: list parents first"
                )
            if task.window_from != "impression" and task.window_from not in earlier:
                raise ValueError(
                    f"task {task.name!r} has window_from {task.window_from!r}: use `impression` or an earlier task"
                )
            earlier.add(task.name)
        return tasks

    @model_validator(mode="after")
    def _references(self) -> Self:
        tasks = {task.name for task in self.tasks}
        refuse_wrong_history(self.features, self.tasks, self.impression)
        refuse_unread_events(self.model.sequences, self.features.event_lists)
        cold = {feature.name: feature.cold_start for feature in self.features.embedded if feature.cold_start}
        refuse_absent_parents(cold, self.features.single)
        for response in self.propensity.responses:
            if response not in tasks:
                raise ValueError(f"propensity response {response!r} is no task; use one of {', '.join(sorted(tasks))}")
        if self.propensity.weighting == "ips" and (self.impression.traffic is None or self.impression.position is None):
            raise ValueError(
                "propensity weighting `ips` needs `impression.traffic` and `impression.position`: "
                "add them, or use `weighting: none`"
            )
        needs_events = [task.name for task in self.tasks if task.label.event is not None]
        if needs_events and not self.source.events and self.source.simulator is None:
            raise ValueError(
                f"tasks {', '.join(needs_events)} read events, but `source.events` declares no event log: "
                "add one, or label them by `column` or `time_column`"
            )
        by_id = [log.name for log in self.source.events if log.attribute is None] or self.source.simulator
        if needs_events and self.impression.id is None and by_id:
            raise ValueError(
                f"tasks {', '.join(needs_events)} read events, which join by `impression.id`: name that column, not null"
            )
        for log in self.source.events:
            for column in log.attribute.by if log.attribute is not None else ():
                if self.stored_under(column) is None:
                    raise ValueError(
                        f"event log {log.name!r} is attributed by column {column!r} of the impression log, which is not "
                        "stored: name `impression.user`, `impression.session`, or the column of a categorical feature of "
                        "one value"
                    )
        refuse_absent_keys(self.split, self.evaluation, self.impression)
        refuse_absent_contexts(self.model.all_interactions, self.features.embedded_inputs)
        refuse_wrong_position(self.model.position, self.impression.position, self.features.single)
        refuse_wrong_smoothing(self.training, self.tasks)
        self.model.refuse_absent_pairs(self.features.single)
        self.evaluation.refuse_wrong_slices(
            self.features.one_number, self.features.open_categories(self.private_columns)
        )
        self.evaluation.refuse_wrong_costs([task.name for task in self.tasks])
        refuse_wrong_heads(self.model.multi_task, [t.name for t in self.tasks], [t.parent for t in self.tasks])
        refuse_wrong_terms(self.serving.score, [task.name for task in self.tasks], self.features)
        refuse_wrong_candidates(self.features, self.serving.candidate_features)
        refuse_wrong_offsets(self.calibration, self.source, self.impression, self.features)
        self.split.require_gap(self.longest_maturity)
        return self

    @model_validator(mode="after")
    def _label_logs(self) -> Self:
        logs = {log.name: log for log in self.source.labels}
        read = [(task.name, task.label.log) for task in self.tasks if task.label.log is not None]
        for task, name in read:
            if name not in logs:
                declared = f"its logs are {', '.join(logs)}" if logs else "it has none"
                raise ValueError(
                    f"task {task!r} reads log {name!r}, which `source.labels` does not declare; {declared}"
                )
        unread = sorted(logs.keys() - {name for _, name in read})
        if unread:
            raise ValueError(
                f"no task reads log {unread[0]!r} of `source.labels`: name it in `label.log`, or remove it"
            )
        if logs and self.impression.id is None:
            raise ValueError("`source.labels` joins by `impression.id`: name that column, not null")
        timed = next((log.name for log in logs.values() if log.time is not None), None)
        if timed is not None and self.impression.time is None:
            raise ValueError(
                f"log {timed!r} of `source.labels` has times, but the days of an `order` are artificial: remove its `time`"
            )
        return self

    @model_validator(mode="after")
    def _label_quality(self) -> Self:
        section = self.label_quality
        if section is None:
            return self
        keys = sorted(self.features.single)
        if section.key not in keys:
            raise ValueError(
                f"`label_quality.key` is {section.key!r}, which is no categorical feature of one value; "
                + (f"use one of {', '.join(keys)}, or declare it" if keys else "declare it")
                + " under `features.categorical`"
            )
        unknown = [name for name in section.tasks if name not in {task.name for task in self.tasks}]
        if unknown:
            raise ValueError(
                f"`label_quality.tasks` names {', '.join(unknown)}, which is no task; "
                f"use {', '.join(task.name for task in self.tasks)}"
            )
        if not section.evaluated_tasks(self.tasks):
            raise ValueError(
                "`label_quality` evaluates tasks with a parent, and there is none: name them in its `tasks`"
            )
        return self

    @model_validator(mode="after")
    def _shows(self) -> Self:
        shows = self.impression.shows
        if shows is None:
            return self
        for task in self.tasks:
            if task.label.impression_column is None:
                raise ValueError(
                    f"with `impression.shows` a row stands for several impressions, and the label of task {task.name!r} does "
                    "not say which of them had the outcome: name a `column` with their number"
                )
            if task.label.positive or task.label.counts:
                raise ValueError(
                    f"with `impression.shows` the label column of task {task.name!r} holds the number of impressions with "
                    "the outcome: remove `positive`, `negative` and `counts`"
                )
        inputs: list[NumericFeature | CategoricalFeature] = [*self.features.numeric, *self.features.embedded]
        reading = next((feature.name for feature in inputs if feature.source_column == shows), None)
        if reading is not None:
            raise ValueError(
                f"feature {reading!r} reads column {shows!r}, which `impression.shows` names: how often something will be "
                "shown is not known before; remove the feature"
            )
        return self

    @model_validator(mode="after")
    def _columns(self) -> Self:
        inputs: list[NumericFeature | CategoricalFeature] = [*self.features.numeric, *self.features.embedded]
        read_by = {feature.name: feature.source_column for feature in inputs}
        used = RESERVED | self.key_columns.keys() | ({"weight"} if self.impression.weight else set())
        used |= {"arm"} if self.impression.arm else set()
        reserved = sorted(used & read_by.keys())
        if reserved:
            raise ValueError(
                f"feature names {', '.join(reserved)} are used by the pipeline: "
                "give them another `name` and set `column`"
            )
        answers = {column: task.name for task in self.tasks for column in task.label.columns}
        for name, column in read_by.items():
            if column in answers:
                raise ValueError(
                    f"feature {name!r} reads column {column!r}, which holds the outcome of task {answers[column]!r}: "
                    "a model that reads the outcome learns nothing else; remove the feature"
                )
        self._list_columns()
        timed = [feature.name for feature in self.features.embedded if feature.time is not None]
        if timed and self.impression.time is None:
            raise ValueError(
                f"feature {timed[0]!r} is made of the time of the impression, but the days of an `order` are artificial: "
                "remove the feature, or name `impression.time`"
            )
        hashed = self.private_columns
        for number in self.features.numeric:
            if number.source_column in hashed:
                raise ValueError(
                    f"numeric feature {number.name!r} reads column {number.source_column!r}, which is replaced by a "
                    "keyed hash: declare it under `features.categorical`"
                )
        refuse_ids_as_values(self.source, self.impression, self.tasks, self.private_columns)
        return self

    @model_validator(mode="after")
    def _side_tables(self) -> Self:
        refuse_wrong_tables(self.source, self.impression, self.features, self.tasks, self.private_columns)
        return self

    def _list_columns(self) -> None:
        """A list is read as one wherever the spec names its column."""
        lists, declared = self.features.lists, self.impression
        features: list[NumericFeature | CategoricalFeature] = [*self.features.numeric, *self.features.embedded]
        single = {f.source_column: f.name for f in features if not f.holds_lists}
        separators: dict[str, str | None] = {}
        for feature in features:
            column = feature.source_column
            if column not in lists:
                continue
            if column in declared.id_columns | declared.value_columns:
                raise ValueError(
                    f"feature {feature.name!r} reads lists from column {column!r}, which `impression` names too: a list "
                    "is no id, time or position; name another `column`"
                )
            if column in single:
                raise ValueError(
                    f"column {column!r} holds lists for one feature and single values for {single[column]!r}: "
                    "give both features `list` (or `width`), or none"
                )
            if column in self.privacy.pseudonymise and declared.user is None:
                raise ValueError(
                    f"feature {feature.name!r} reads lists of hashed values, but the log has no user: `ctr forget` would "
                    "not find a person in a list; name `impression.user`, or remove the feature"
                )
            separator = feature.list.separator if isinstance(feature, CategoricalFeature) and feature.list else None
            if separators.setdefault(column, separator) != separator:
                raise ValueError(f"features read column {column!r} with different separators: give their lists one")

    @model_validator(mode="after")
    def _null_values(self) -> Self:
        logs: list[tuple[str, LogFiles, dict[str, str]]] = [
            ("source.impressions", self.source.impressions, self.impression_columns)
        ]
        logs += [(f"event log {log.name!r}", log, event_columns(log)) for log in self.source.events]
        logs += [(f"log {log.name!r}", log, label_columns(log, self.tasks)) for log in self.source.labels]
        logs += [
            (f"side table {table.name!r}", table, table_columns(table, self.source, self.features))
            for table in self.source.tables
        ]
        for where, log, known in logs:
            for column in columns_with_null_values(log.null_values):
                if column not in known:
                    near = get_close_matches(column, known, n=1)
                    raise ValueError(
                        f"`null_values` of {where} names column {column!r}, which the spec does not read from this log"
                        + (f"; did you mean {near[0]!r}?" if near else f"; it reads {', '.join(known)}")
                    )
        return self

    @model_validator(mode="after")
    def _time_formats(self) -> Self:
        declared = self.impression
        labels = {column for task in self.tasks if task.label.column is None for column in task.label.columns}
        logs = [("impression", declared.time_format, {declared.time, declared.ingest_time, *labels})]
        logs += [
            (f"log {log.name!r}", log.time_format, {log.time, log.ingest_time}) for log in self.source.outcome_logs
        ]
        for where, formats, columns in logs:
            require_time_columns(where, formats, columns)
        return self

    @property
    def first_day(self) -> date | None:
        """First daily partition, where the spec alone determines it."""
        if self.days.first is not None:
            return self.days.first
        if self.source.simulator is not None:
            return self.source.simulator.first_day
        return self.impression.order.first_day if self.impression.order else None

    @property
    def impression_columns(self) -> dict[str, str]:
        """The columns of the impression log that are read, with the fields that name them."""
        keys = {column: field for field, column in stored_keys(self.split, self.evaluation).values()}
        return {**keys, **impression_columns(self.source, self.impression, self.features, self.tasks)}

    @property
    def private_columns(self) -> frozenset[str]:
        """Columns whose values are replaced by a keyed hash: of the impression log, and of side tables as `table.column`.

        The key of a side table is one where the column that it is joined by is.
        """
        own = self.impression.id_columns.union(self.privacy.pseudonymise)
        keys = set(self.key_columns.values()) - {column for _, column in self.features_of()}
        return own.union(keys, (f"{table.name}.{table.key}" for table in self.source.tables if table.joined_by in own))

    def features_of(self, table: SideTable | None = None) -> list[tuple[NumericFeature | CategoricalFeature, str]]:
        """The features read from ``table``, or by default from the impression log, each with its column there."""
        return logged_features(self.source, self.features, table)

    def stored_under(self, column: str) -> str | None:
        """The column of the table `impressions` that holds the ids or categories of a column of the log; None without."""
        return stored_under(column, self.impression, self.features)

    @property
    def key_columns(self) -> dict[str, str]:
        """Columns of the log that are stored as keyed hashes only, by their name in the table `impressions`."""
        return {name: column for name, (_, column) in stored_keys(self.split, self.evaluation).items()}

    def zone_of(self, log: LogFiles) -> str:
        """The zone of a log's times that carry no offset."""
        return log.time_zone or self.time_zone

    def time_part_zone(self, feature: CategoricalFeature) -> str:
        """The zone of the local time that a feature with ``time`` is a part of."""
        return feature.time_zone or self.zone_of(self.source.impressions)

    def task(self, name: str) -> Task:
        """The task called ``name``."""
        return next(task for task in self.tasks if task.name == name)

    def maturity(self, name: str) -> int:
        """Microseconds after an impression at which its label of task ``name`` is settled, ingest lag included."""
        return maturity(self.tasks, name) + self.split.ingest_lag

    @property
    def has_position_effect(self) -> bool:
        """Whether the model learns what the position of an impression does."""
        return self.impression.position is not None and not isinstance(self.model.position, NoPosition)

    @property
    def training_seed(self) -> int:
        """The seed of the initial weights, dropout and order of the rows."""
        return self.seed if self.training.seed is None else self.training.seed

    @property
    def longest_maturity(self) -> int:
        """The maturity of the slowest task: the gap between training and test, in microseconds."""
        return max(self.maturity(task.name) for task in self.tasks)


RESERVED = frozenset(
    {"day", "impression_id", "ts", "ingest_ts", "user", "session", "position", "traffic", "propensity", "impression"}
)
"""Columns of the impressions table that no feature may be called."""

__all__ = ["RESERVED", "Spec"]
