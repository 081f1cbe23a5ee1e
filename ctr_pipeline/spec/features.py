"""What the model may look at, by group, and how missing values are treated."""

from collections import Counter
from collections.abc import Collection
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from ctr_pipeline.spec.cold_start import ColdStart
from ctr_pipeline.spec.encodings import AnyEncoding, Cyclic, EncodingSection, PiecewiseLinear, Standard
from ctr_pipeline.spec.fields import Column, Name, Section, TimeZone, added_field
from ctr_pipeline.spec.history import HistoryFeature, HistoryList, HistoryNumber, HistorySequence, HistoryTop
from ctr_pipeline.spec.time_parts import TimePart


class Missing(Section):
    """What a missing number becomes."""

    fill: Literal["median", "mean", "constant"] = Field(
        default="median", description="Fill value; median and mean are those of the training window."
    )
    value: float | None = Field(default=None, description="The constant, with `fill: constant`.")
    indicator: bool = Field(
        default=True, description="Also give the model a 0/1 input for whether the value was missing."
    )

    @model_validator(mode="after")
    def _constant_has_value(self) -> Self:
        if self.fill == "constant" and self.value is None:
            raise ValueError("`fill: constant` needs `value`: the number that a missing value becomes")
        if self.fill != "constant" and self.value is not None:
            raise ValueError(f"`value: {self.value:g}` goes with `fill: constant`, not with `fill: {self.fill}`")
        return self


class NumericFeature(Section):
    """A number, or with ``width`` that many of them: a vector, standardised element by element."""

    type: Literal["numeric"] = "numeric"
    name: Name = Field(description="Name of the feature.")
    column: Column | None = Field(
        default=None, description="Column of the impression log; by default the feature's name."
    )
    transform: Literal["none", "signed_log1p"] = Field(
        default="none",
        description="Applied before standardisation; signed_log1p is sign(x)·log(1 + |x|), for heavy tails.",
    )
    missing: Missing = Field(default=Missing(), description="What a missing value becomes.")
    minimum: float | None = Field(default=None, description="Smallest value allowed; a row below it is quarantined.")
    maximum: float | None = Field(default=None, description="Largest value allowed; a row above it is quarantined.")
    width: int | None = added_field(
        None,
        "Numbers in each value, where the column holds vectors: lists of a fixed length in Parquet or NDJSON.",
        ge=1,
        le=4096,
    )
    encoding: AnyEncoding | None = added_field(
        None, "How it reaches the model; by default as `features.encoding` says, and a vector standardised."
    )

    @model_validator(mode="after")
    def _angle_of_the_value_itself(self) -> Self:
        if isinstance(self.encoding, Cyclic) and self.transform != "none":
            raise ValueError(
                f"`encoding: cyclic` is of the value itself: remove `transform: {self.transform}` or the encoding"
            )
        return self

    @model_validator(mode="after")
    def _limits_in_order(self) -> Self:
        if self.minimum is not None and self.maximum is not None and self.maximum < self.minimum:
            raise ValueError(f"`maximum` {self.maximum:g} is below `minimum` {self.minimum:g}: swap or correct them")
        return self

    @property
    def source_column(self) -> str:
        """The column of the log that feeds this feature."""
        return self.column or self.name

    @property
    def holds_lists(self) -> bool:
        """Whether its column holds lists."""
        return self.width is not None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of its numbers: its own, or ``name[0]``, ``name[1]`` … of a vector."""
        return (self.name,) if self.width is None else tuple(f"{self.name}[{place}]" for place in range(self.width))


class Values(Section):
    """How a list of categories becomes one input: the embeddings of its values are pooled."""

    pooling: Literal["mean", "sum", "max"] = Field(
        default="mean", description="How the embeddings of the values become one; an empty list gives zeros."
    )
    max_length: int = Field(default=50, ge=1, le=1000, description="Values that the model reads of a list.")
    keep: Literal["last", "first"] = Field(
        default="last", description="Which values are read of a longer list: its end, or its beginning."
    )
    separator: str | None = Field(
        default=None, min_length=1, description="What stands between the values where the column holds text, as in CSV."
    )


class CategoricalFeature(Section):
    """A value from a set: text, a whole number or a boolean. With ``list`` any number of them, in one input.

    Missing and rare values have embedding rows of their own.
    """

    type: Literal["categorical"] = "categorical"
    name: Name = Field(description="Name of the feature.")
    column: Column | None = Field(
        default=None, description="Column of the impression log; by default the feature's name."
    )
    min_count: int = Field(default=2, ge=1, description="Training rows that a value needs to enter the vocabulary.")
    embedding_dim: int | None = Field(default=None, gt=0, description="Embedding width; by default that of the model.")
    list: Values | None = added_field(
        None, "The column holds lists: a Parquet list, a JSON array, or text with a `separator`."
    )
    time: TimePart | None = added_field(None, "Made of the time of the impression, and of no column: this part of it.")
    time_zone: TimeZone | None = added_field(
        None, "With `time`: the zone of that local time; by default that of the impression log, or of the spec."
    )
    frequency: bool = added_field(
        False, "Beside its embedding, a number: how frequent the value is among the training rows."
    )

    cold_start: ColdStart | None = added_field(
        None, "What a value that the training rows do not hold, or few of them, begins as."
    )

    @model_validator(mode="after")
    def _cold_start_of_one_value(self) -> Self:
        if self.cold_start is not None and (self.list is not None or self.time is not None):
            other = "list" if self.list is not None else "time"
            raise ValueError(f"`cold_start` is for ids that are new some day: remove it, or `{other}`")
        return self

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.time is None and self.time_zone is not None:
            raise ValueError("`time_zone` goes with `time`: which part of the local time is the feature?")
        if self.time is not None and (self.column is not None or self.list is not None):
            other = "column" if self.column is not None else "list"
            raise ValueError(f"a feature is made of the `time` or of a column: remove `time` or `{other}`")
        return self

    @model_validator(mode="after")
    def _frequency_of_one_value(self) -> Self:
        if self.frequency and self.list is not None:
            raise ValueError(
                "`frequency` is that of one value, and this feature has a `list` of them: remove one of both"
            )
        if self.frequency and self.time is not None:
            raise ValueError("how frequent a part of the `time` is says nothing of the impression: remove `frequency`")
        return self

    @property
    def source_column(self) -> str | None:
        """The column of the log that feeds this feature; None for one that is made of the time."""
        return None if self.time is not None else self.column or self.name

    @property
    def holds_lists(self) -> bool:
        """Whether its column holds lists."""
        return self.list is not None


ContextualFeature = Annotated[NumericFeature | CategoricalFeature, Field(discriminator="type")]


class MadeCategory(NamedTuple):
    """A category, or a list of them, that is made of the past."""

    feature: CategoricalFeature
    """How it is embedded: as its item is."""
    source: HistoryList
    """The feature of the past."""
    table: str | None
    """The item whose vocabulary and embeddings it shares; None where it has its own."""


class Features(Section):
    """The model's inputs by group. Columns of the log that no section names are dropped at ingestion."""

    dense: list[NumericFeature] = Field(default=[], description="Numbers about user, ad or query.")
    categorical: list[CategoricalFeature] = Field(default=[], description="Ids and categories, embedded.")
    contextual: list[ContextualFeature] = Field(
        default=[], description="The circumstances of the impression, numeric or categorical."
    )
    history: list[HistoryFeature] = Field(
        default=[], description="Aggregates of the past, computed point-in-time on a daily grid."
    )
    encoding: AnyEncoding = added_field(
        PiecewiseLinear(), "How numbers reach the model that say nothing else themselves; vectors are standardised."
    )

    @model_validator(mode="after")
    def _period_of_one_number(self) -> Self:
        if isinstance(self.encoding, Cyclic):
            raise ValueError("`encoding: cyclic` is for single numbers: each has a period of its own. Move it there")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [f.name for group in (self.dense, self.categorical, self.contextual, self.history) for f in group]
        names += [name for f in self.listing for name in f.stored]
        names += [name for f in self.sequences for name in (f.ages if f.events is None else (f.age, f"{f.name}_event"))]
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ValueError(f"each feature needs a name of its own; used twice: {', '.join(twice)}")
        if not names:
            raise ValueError("declare at least one feature")
        return self

    @property
    def numeric(self) -> tuple[NumericFeature, ...]:
        """Every number read from the log: dense, then contextual ones."""
        return (*self.dense, *(f for f in self.contextual if isinstance(f, NumericFeature)))

    @property
    def embedded(self) -> tuple[CategoricalFeature, ...]:
        """Every category read from the log: categorical, then contextual ones."""
        return (*self.categorical, *(f for f in self.contextual if isinstance(f, CategoricalFeature)))

    @property
    def listing(self) -> tuple[HistoryList, ...]:
        """The history features that list ids."""
        return tuple(f for f in self.history if isinstance(f, HistorySequence | HistoryTop))

    @property
    def sequences(self) -> tuple[HistorySequence, ...]:
        """The history features that list the last impressions or outcomes."""
        return tuple(f for f in self.history if isinstance(f, HistorySequence))

    @property
    def event_lists(self) -> tuple[HistorySequence, ...]:
        """The sequences that are lists, for a module to read. Their inputs stand behind all others."""
        return tuple(f for f in self.sequences if f.events is not None)

    @property
    def history_numbers(self) -> tuple[tuple[str, HistoryNumber | HistorySequence], ...]:
        """Every number made of the past, with its feature."""
        found: list[tuple[str, HistoryNumber | HistorySequence]] = []
        for feature in self.history:
            if isinstance(feature, HistoryTop) or feature in self.event_lists:
                continue
            names = feature.ages if isinstance(feature, HistorySequence) else (feature.name,)
            found.extend((name, feature) for name in names)
        return (*found, *((name, feature) for feature in self.event_lists for name in feature.ages))

    @property
    def history_embedded(self) -> tuple[MadeCategory, ...]:
        """Every category made of the past."""
        declared = {feature.name: feature for feature in self.embedded}
        nothing = {"column": None, "time": None, "time_zone": None, "frequency": False, "cold_start": None}
        found: list[MadeCategory] = []
        for source in self.listing:
            item = declared[source.item]
            if isinstance(source, HistoryTop):
                values = Values(pooling=source.pooling, max_length=source.length, keep="first")
                made = item.model_copy(update={**nothing, "name": source.name, "list": values})
                found.append(MadeCategory(made, source, item.name))
            elif source.events is None:
                copies = (item.model_copy(update={**nothing, "name": name}) for name in source.items)
                found.extend(MadeCategory(made, source, None) for made in copies)
        for source in self.event_lists:
            item, values = declared[source.item], Values(max_length=source.length, keep="first")
            made = item.model_copy(update={**nothing, "name": source.name, "list": values})
            found.append(MadeCategory(made, source, item.name))
            if source.event is not None:
                kinds = CategoricalFeature(
                    name=source.event, min_count=1, embedding_dim=item.embedding_dim, list=values
                )
                found.append(MadeCategory(kinds, source, None))
        return tuple(found)

    def encoding_of(self, feature: "NumericFeature | HistoryNumber | HistorySequence") -> EncodingSection:
        """How the numbers of ``feature`` reach the model."""
        if feature in self.event_lists:
            # A module of `model.sequences` encodes the ages itself.
            return Standard()
        if feature.encoding is not None:
            return feature.encoding
        # A vector has many numbers, and what made it has mostly scaled them already.
        return Standard() if isinstance(feature, NumericFeature) and feature.holds_lists else self.encoding

    @property
    def single(self) -> tuple[str, ...]:
        """Names of the categories that hold one value, so that rows can be grouped by them."""
        return tuple(f.name for f in self.embedded if f.list is None)

    def open_categories(self, hashed: Collection[str]) -> tuple[str, ...]:
        """Names of the categories of one value whose columns are not among the ``hashed`` ones."""
        return tuple(f.name for f in self.embedded if f.list is None and f.source_column not in hashed)

    @property
    def one_number(self) -> tuple[str, ...]:
        """Names of the features that are one number."""
        made = (name for name, feature in self.history_numbers if feature not in self.event_lists)
        return (*(f.name for f in self.numeric if f.width is None), *made)

    @property
    def embedded_inputs(self) -> tuple[str, ...]:
        """Names of the categories, and lists of them, that all modules read: event lists are for ``model.sequences`` alone."""
        made = (one.feature.name for one in self.history_embedded if one.source not in self.event_lists)
        return (*(feature.name for feature in self.embedded), *made)

    @property
    def lists(self) -> dict[str, str | None]:
        """Columns of the log that hold lists, each with what separates their values where they are text."""
        found = {f.column or f.name: f.list.separator for f in self.embedded if f.list is not None}
        return found | {f.source_column: None for f in self.numeric if f.width is not None}

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of all inputs of the model."""
        logged = (*(name for f in self.numeric for name in f.inputs), *(f.name for f in self.embedded))
        made = (*(name for name, _ in self.history_numbers), *(made.feature.name for made in self.history_embedded))
        return (*logged, *made)
