"""Fills the features of the past that a request does not give, from a store."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from ctr_pipeline.features.layout import FromTime
from ctr_pipeline.features.local_time import time_part_of
from ctr_pipeline.serving.bundle import Bundle
from ctr_pipeline.serving.category_rows import CategoryRows
from ctr_pipeline.serving.history_lookup import EventSink, HistoryStore, StoreState
from ctr_pipeline.serving.http.pseudonym_features import hashed_values, pseudonym_features
from ctr_pipeline.serving.request_encoding import TIME
from ctr_pipeline.serving.request_values import BundleError, category_text, instant
from ctr_pipeline.sources.missing import null_texts
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.null_values import null_values_of

USER = "user"
"""In a request: the user's raw id, for the store. A feature that is read from the same column does as well."""


@dataclass(frozen=True, slots=True)
class KeySource:
    """Where a request has the values of a key column."""

    fields: tuple[str, ...]
    """Fields that may hold them; the first that is there does."""
    nulls: frozenset[str]
    """Texts that mean a missing value."""
    hashed: bool
    """Whether the store knows them as keyed hashes."""
    known: CategoryRows | None = None
    """Values that need no other spelling are among its texts."""
    made_of_time: FromTime | None = None
    """Set where it is a part of the request's time, unless the request has it."""


@dataclass(frozen=True, slots=True)
class FilledHistory:
    """What the store adds to a request."""

    shared: Mapping[str, list[Any]] = field(default_factory=dict)
    """By feature a list of the one value that all candidates have."""
    candidates: Mapping[str, list[Any]] = field(default_factory=dict)
    """By feature N values."""
    unknown: Mapping[str, int] = field(default_factory=dict)
    """By key column the number of keys without a past."""
    absent: tuple[str, ...] = ()
    """Key columns that the request does not have, so that what is looked up with them is missing."""
    late: int = 0
    """Rows that were looked up in a snapshot of an earlier day, or in none."""
    snapshot: str = ""
    """Id of the snapshot that was looked up, several with commas between them; empty for none."""
    now: int | None = None
    """The instant (microseconds since 1970 UTC) that rows without a time of their own were given; None where all have one."""


@dataclass(frozen=True, slots=True)
class RequestHistory:
    """A store as the requests of one model use it."""

    store: HistoryStore
    sources: Mapping[str, KeySource]
    """By key column of the store, and by what its sequences list."""
    pseudonym: Callable[[str], str] | None
    """The deployment's hash of an id; None only where no key column is hashed."""
    now: Callable[[], int]
    """Microseconds since 1970 UTC: the time of requests that have none."""
    keeps_time: bool
    """Whether the model makes features of a request's time."""
    events: EventSink | None = None
    """Where events go that arrive since; None where no feature is made of them."""
    shared: frozenset[str] = frozenset()
    """Features that the candidates of a request cannot differ in."""

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        spec: Spec,
        store: HistoryStore,
        pseudonym: Callable[[str], str] | None,
        now: Callable[[], int],
        shared: frozenset[str] = frozenset(),
        events: EventSink | None = None,
    ) -> Self:
        """The store for the requests of a bundle.

        Args:
            bundle: The model.
            spec: The spec that it was built from.
            store: A store for the same spec.
            pseudonym: The deployment's hash of an id.
            now: Microseconds since 1970 UTC.
            shared: Features that the candidates of a request cannot differ in.
            events: Where events go that arrive since.

        Raises:
            BundleError: keys are hashed and there is no hash.
        """
        keys = {*store.inputs, *(events.keys if events is not None else ())}
        sources = {key: _source(key, bundle, spec) for key in sorted(keys)}
        hashed = [key for key, source in sources.items() if source.hashed]
        if hashed and pseudonym is None:
            raise BundleError(
                f"{bundle.directory}: the keys {', '.join(hashed)} are hashed, and there is no key for that"
            )
        keeps_time = any(column.from_time is not None for column in bundle.layout.ids)
        return cls(store, sources, pseudonym, now, keeps_time, events, shared)

    @property
    def hashes(self) -> bool:
        """Whether a key column is hashed, or ids of events are."""
        return self.events is not None or any(source.hashed for source in self.sources.values())

    @property
    def fields(self) -> frozenset[str]:
        """Fields of a request that are for the store alone."""
        return frozenset((USER,) if self.keeps_time else (USER, TIME))

    def state(self) -> StoreState:
        """What would be used for a request of now."""
        return self.store.state(self.now())

    def fill(self, shared: Mapping[str, Any], candidates: Mapping[str, Sequence[Any]], rows: int) -> FilledHistory:
        """Looks up what the request does not have.

        Args:
            shared: Feature to the value that all candidates have.
            candidates: Feature to a list of N values.
            rows: N.

        Raises:
            BundleError: a key or a time cannot be read; names its field, not its value.
        """
        to_shared: dict[str, list[Any]] = {}
        to_candidates: dict[str, list[Any]] = {}
        unknown: dict[str, int] = {}
        absent: list[str] = []
        late, snapshots = 0, dict[str, None]()
        self.store.refresh()
        times, now = self._times(shared, candidates)
        given = {*shared, *candidates}
        for key, groups in self.store.inputs.items():
            wanted = [name for group in groups if given.isdisjoint(group) for name in group]
            if not wanted:
                continue
            texts = self._texts(key, shared, candidates, times)
            if texts is None:
                absent.append(key)
                continue
            by = self._field(key, candidates) or (TIME if TIME in candidates else None)
            own = by is not None
            if own and (alike := [name for name in wanted if name in self.shared]):
                raise BundleError(
                    f"{by!r} makes {alike[0]!r} another for each candidate, which is the same for all of them in this "
                    f"model: give {by!r} in `shared`"
                )
            together = rows if own else 1
            texts = texts if len(texts) == together else texts * together
            instants = times if len(times) == together else times * together
            found = self.store.look_up(key, texts, instants, wanted)
            (to_candidates if own else to_shared).update(found.columns)
            unknown[key] = found.unknown
            late = max(late, found.late)
            snapshots |= dict.fromkeys(found.snapshots)
        return FilledHistory(to_shared, to_candidates, unknown, tuple(absent), late, ",".join(snapshots), now)

    def _field(self, key: str, given: Mapping[str, Any]) -> str | None:
        for name in self.sources[key].fields:
            if name in given:
                return name
        return None

    def _times(
        self, shared: Mapping[str, Any], candidates: Mapping[str, Sequence[Any]]
    ) -> tuple[list[int], int | None]:
        """[N] or [1]: the time of each row, or of all; and that of now, where it is one of them."""
        given = candidates[TIME] if TIME in candidates else [shared.get(TIME)]
        found = [instant(value, f"row {at}: {TIME!r}") for at, value in enumerate(given)]
        now = self.now()
        return [now if time is None else time for time in found], now if None in found else None

    def _texts(
        self,
        key: str,
        shared: Mapping[str, Any],
        candidates: Mapping[str, Sequence[Any]],
        times: list[int],
    ) -> list[str | None] | None:
        """[N] or [1] values of a key column as the store knows them; None where the request has none."""
        name = self._field(key, candidates)
        values = list(candidates[name]) if name is not None else []
        if name is None:
            name = self._field(key, shared)
            if name is None:
                form = self.sources[key].made_of_time
                return None if form is None else [time_part_of(t, form.part, form.zone) for t in times]
            values = [shared[name]]
        return self._read(key, name, values)

    def key_text(self, key: str, given: Mapping[str, Any], time: int) -> str | None:
        """The value of a key column as the store knows it; None where it is missing.

        Args:
            key: The key column.
            given: Raw values by field.
            time: Microseconds since 1970 UTC, of which the value is made where it is a part of the time and not given.

        Raises:
            BundleError: it cannot be read; names its field, not its value.
        """
        name, form = self._field(key, given), self.sources[key].made_of_time
        if name is not None:
            return self._read(key, name, [given[name]])[0]
        return None if form is None else time_part_of(time, form.part, form.zone)

    def _read(self, key: str, name: str, values: list[Any]) -> list[str | None]:
        """[N] values of a key column, given in the field ``name``, as the store knows them."""
        source, where = self.sources[key], f"feature {name!r}"
        if list in set(map(type, values)):
            raise BundleError(f"{where}: found a list; expected one value")
        if source.hashed:
            assert self.pseudonym is not None, "refused when it was made"
            return hashed_values(values, source.nulls, self.pseudonym, where)
        known: Mapping[Any, int] = source.known or {}
        nulls = source.nulls
        texts = [
            value if type(value) is str and value in known else category_text(value, f"row {at}: {where}")
            for at, value in enumerate(values)
        ]
        return [None if not text or text in nulls else text for text in texts]


def _source(key: str, bundle: Bundle, spec: Spec) -> KeySource:
    if key == USER:
        assert spec.impression.user is not None, "the spec requires it of a history of users"
        features = [f.name for f, column in spec.features_of() if column == spec.impression.user]
        nulls = null_texts(null_values_of(spec.source.impressions.null_values, spec.impression.user))
        return KeySource((USER, *features), frozenset(nulls), hashed=True)
    hashed = pseudonym_features(spec)
    if key in hashed:
        return KeySource((key,), hashed[key], hashed=True)
    column = next((column for column in bundle.layout.ids if column.name == key), None)
    nulls = bundle.layout.null_values.get(key, ())
    known = bundle.vocabulary.rows(column.vocabulary, nulls) if column is not None else None
    made = column.from_time if column is not None else None
    return KeySource((key,), frozenset(nulls), hashed=False, known=known, made_of_time=made)
