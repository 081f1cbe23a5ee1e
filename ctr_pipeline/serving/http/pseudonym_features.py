"""Which features of a request hold ids that training knows as keyed hashes only."""

from collections.abc import Callable, Mapping
from typing import Any

from ctr_pipeline.serving.request_values import BundleError, category_text
from ctr_pipeline.sources.missing import null_texts
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.null_values import null_values_of

_EXACT = 2**53


def pseudonym_features(spec: Spec) -> dict[str, frozenset[str]]:
    """Each feature whose values are hashed at ingestion, with the texts that mean a missing value before that.

    They are those read from a private column, and the lists that are made of their values.
    """
    found = {
        feature.name: frozenset(null_texts(null_values_of((table or spec.source.impressions).null_values, column)))
        for table in (None, *spec.source.tables)
        for feature, column in spec.features_of(table)
        if feature.source_column in spec.private_columns
    }
    for made in spec.features.history_embedded:
        kinds = getattr(made.source, "event", None)
        if made.source.item in found and made.feature.name != kinds:
            found[made.feature.name] = found[made.source.item]
    return found


def hashed_values(values: list[Any], nulls: frozenset[str], pseudonym: Callable[[str], str], where: str) -> list[Any]:
    """Values of an id as ingestion would store them: the hash of the canonical text, None where it is missing.

    Args:
        values: Texts, numbers, booleans, None, or lists of these.
        nulls: Texts that mean a missing value.
        pseudonym: Hash of a text.
        where: What the feature is called in a message.

    Raises:
        BundleError: a value has no text, or is a float that stands for several whole numbers; without the value.
    """

    def one(value: Any, at: int) -> str | None:
        if isinstance(value, float) and abs(value) >= _EXACT:
            raise BundleError(f"row {at}: {where}: found a number that is no exact id; send it as text")
        text = category_text(value, f"row {at}: {where}")
        return None if text is None or not text.strip() or text in nulls else pseudonym(text)

    return [
        [one(part, at) for part in value] if isinstance(value, list) else one(value, at)
        for at, value in enumerate(values)
    ]


def hashed_columns(
    columns: Mapping[str, list[Any]], features: Mapping[str, frozenset[str]], pseudonym: Callable[[str], str]
) -> dict[str, list[Any]]:
    """The columns, those of ``features`` hashed.

    Raises:
        BundleError: as for :func:`hashed_values`.
    """
    return {
        name: hashed_values(values, features[name], pseudonym, f"feature {name!r}") if name in features else values
        for name, values in columns.items()
    }
