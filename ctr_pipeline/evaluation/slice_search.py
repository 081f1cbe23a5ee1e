"""Parts of the rows whose rates are off, found by search over features and pairs of features.

A search over thousands of parts finds some that are off by chance. So it proposes parts on one half of the users, and only what
the other half confirms is reported, with the figures of that half: they are not chosen for being large.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ctr_pipeline.calibration.labelled import Float64s, Indices, Integers, Labelled, Reals, labelled
from ctr_pipeline.evaluation.intervals import PairedDifference, cluster_codes, paired_difference
from ctr_pipeline.evaluation.metrics import Z95, EvaluationError, Interval
from ctr_pipeline.evaluation.slices import FALSE_DISCOVERY_RATE, benjamini_hochberg, poisson_p_value

SMALLEST_SHARE = 0.01
"""Share of the rows that a part needs."""

FEWEST_EXPECTED = 25.0
"""Outcomes that have to be expected of a part in each half."""

MOST_VALUES = 20
"""Values of a feature that are looked at, the most frequent ones."""

MOST_PROPOSED = 40
"""Parts that the first half proposes."""

MOST_SEARCHED_ROWS = 200_000
"""Rows of the first half that are searched: a bound on time. All rows of the second half confirm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """A feature of few values.

    Attributes:
        codes: [N] which of ``values`` a row has.
        values: What the codes mean.
    """

    codes: NDArray[np.integer[Any]]
    values: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSlice:
    """A part of the rows that was proposed by one half of the users; figures of the other half.

    Attributes:
        conditions: Features and their values, one or two.
        rows: Labelled rows.
        positives: Positive ones.
        oe: Observed over expected positives, with an interval over users.
        relative: This over that of all rows: what a wrong rate of all rows does not explain.
        p_value: Chance of a relative figure at least this far from 1, were the part like all rows.
        ne_against_champion: Difference in NE to the champion in this part; None without one.
    """

    conditions: tuple[tuple[str, str], ...]
    rows: int
    positives: int
    oe: Interval
    relative: float
    p_value: float
    ne_against_champion: PairedDifference | None

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        champion = self.ne_against_champion
        return {
            "conditions": [{"feature": feature, "value": value} for feature, value in self.conditions],
            "rows": self.rows,
            "positives": self.positives,
            "oe": self.oe.to_json(),
            "relative": self.relative,
            "p_value": self.p_value,
            "ne_against_champion": None if champion is None else champion.to_json(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceSearch:
    """What a search found.

    Attributes:
        searched: Parts that one half of the users was searched for.
        proposed: Those whose rates were most off there, which the other half was asked about.
        found: Those that it confirmed (Benjamini-Hochberg over all that were proposed), the surest first.
    """

    searched: int
    proposed: int
    found: tuple[FoundSlice, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {
            "searched": self.searched,
            "proposed": self.proposed,
            "found": [found.to_json() for found in self.found],
        }


def search_slices(
    logits: Reals,
    labels: Integers,
    features: Mapping[str, Feature],
    clusters: Integers | None = None,
    *,
    seed: int,
    compared: tuple[Reals, Reals] | None = None,
) -> SliceSearch:
    """Looks for values of features, and of pairs of features, whose rates are off by more than those of all rows.

    Args:
        logits: [N] calibrated.
        labels: [N] in {0, 1, -1}.
        features: By name.
        clusters: [N] users, -1 for none; a user's rows are in one half.
        seed: Of the halves.
        compared: [N] logits of this model and of the champion, for the difference in NE.

    Raises:
        EvaluationError: an array has another length than the logits.
    """
    lengths = {name: feature.codes.shape for name, feature in features.items()}
    lengths |= {} if clusters is None else {"clusters": clusters.shape}
    for name, shape in lengths.items():
        if shape != logits.shape:
            raise EvaluationError(f"{name}: expected shape {logits.shape}; found {shape}")
    rows = labelled(logits, labels)
    codes, count = cluster_codes(None if clusters is None else clusters[rows.kept], len(rows))
    second = np.random.default_rng(seed).permutation(count)[codes] % 2 == 1
    halves = [_Half.of(rows, codes, np.flatnonzero(half)) for half in (~second, second)]
    if min(half.expected.sum() for half in halves) < FEWEST_EXPECTED or min(len(half.rows) for half in halves) == 0:
        return SliceSearch(searched=0, proposed=0, found=())
    searched, proposed = _propose(halves[0].first(MOST_SEARCHED_ROWS), rows.kept, features)
    confirmed = [part for of in proposed if (part := halves[1].part(of, rows.kept, features)) is not None]
    marked = benjamini_hochberg(np.array([part.p_value for part in confirmed]), FALSE_DISCOVERY_RATE)
    found = sorted((part for part, mark in zip(confirmed, marked, strict=True) if mark), key=lambda of: of.p_value)
    beside = [_against_champion(part, rows.kept, labels, clusters, compared, seed) for part in found]
    return SliceSearch(
        searched=searched,
        proposed=len(confirmed),
        found=tuple(part.described(features, other) for part, other in zip(found, beside, strict=True)),
    )


Part = tuple[tuple[str, int], ...]
"""Features and codes."""


@dataclass(frozen=True, slots=True)
class _Confirmed:
    """A part in the second half."""

    part: Part
    at: Indices
    """Its rows among the labelled ones."""
    positives: int
    oe: Interval
    relative: float
    p_value: float

    def described(self, features: Mapping[str, Feature], champion: PairedDifference | None) -> FoundSlice:
        return FoundSlice(
            conditions=tuple((name, features[name].values[code]) for name, code in self.part),
            rows=len(self.at),
            positives=self.positives,
            oe=self.oe,
            relative=self.relative,
            p_value=self.p_value,
            ne_against_champion=champion,
        )


@dataclass(frozen=True, slots=True)
class _Half:
    """The labelled rows of half of the users; expected positives are scaled to as many as there are."""

    rows: Indices
    owners: Indices
    positive: NDArray[np.bool_]
    expected: Float64s
    scale: float

    @classmethod
    def of(cls, rows: Labelled, codes: Indices, chosen: Indices) -> "_Half":
        positive, expected = rows.positive[chosen], special.expit(rows.logits[chosen])
        total = float(expected.sum())
        scale = float(np.count_nonzero(positive)) / total if total > 0 else 1.0
        _, owners = np.unique(codes[chosen], return_inverse=True)
        return cls(chosen, owners, positive, expected * scale, scale)

    def first(self, rows: int) -> "_Half":
        """Some of the users, with about as many rows at most."""
        if len(self.rows) <= rows:
            return self
        kept = np.flatnonzero(self.owners < (int(self.owners.max()) + 1) * rows / len(self.rows))
        return _Half(self.rows[kept], self.owners[kept], self.positive[kept], self.expected[kept], self.scale)

    def part(self, part: Part, kept: Indices, features: Mapping[str, Feature]) -> _Confirmed | None:
        """The figures of a part; None where too few outcomes are expected of it."""
        inside = np.ones(len(self.rows), dtype=np.bool_)
        for name, code in part:
            inside &= features[name].codes[kept[self.rows]] == code
        expected, observed = float(self.expected[inside].sum()), int(np.count_nonzero(self.positive[inside]))
        if expected < FEWEST_EXPECTED or np.count_nonzero(inside) < SMALLEST_SHARE * len(self.rows) / 2:
            return None
        # What the scale takes from each user's deviation is a part of the deviation of all rows.
        residual, share = self.positive - self.expected, expected / float(self.expected.sum())
        deviation = np.bincount(self.owners, weights=residual * (inside - share))
        variance = float(np.sum(deviation**2)) * len(deviation) / max(len(deviation) - 1, 1)
        statistic = (observed - expected) / np.sqrt(max(variance, 1e-300))
        # The normal distribution understates how often few outcomes are many; the Poisson knows of no users.
        p_value = max(2.0 * float(special.ndtr(-abs(statistic))), poisson_p_value(observed, expected))
        relative = observed / expected
        return _Confirmed(part, self.rows[inside], observed, self._ratio(inside), relative, p_value)

    def _ratio(self, inside: NDArray[np.bool_]) -> Interval:
        observed, expected = float(self.positive[inside].sum()), float(self.expected[inside].sum()) / self.scale
        ratio = observed / expected
        residual = np.where(inside, self.positive - ratio * self.expected / self.scale, 0.0)
        error = float(np.sqrt(np.sum(np.bincount(self.owners, weights=residual) ** 2)))
        if observed == 0 or error == 0:
            return Interval(ratio, -np.inf, np.inf)
        factor = float(np.exp(Z95 * error / observed))
        return Interval(ratio, ratio / factor, ratio * factor)


def _propose(half: _Half, kept: Indices, features: Mapping[str, Feature]) -> tuple[int, list[Part]]:
    """How many parts were searched, and those whose rates are most off."""
    places = kept[half.rows]
    recoded = {name: _frequent(feature, places) for name, feature in features.items()}
    residual = half.positive - half.expected
    searched, found = 0, dict[Part, tuple[float, int, float]]()
    for names in _one_or_two([name for name, (_, values) in recoded.items() if len(values)]):
        code, size = np.zeros(len(places), dtype=np.intp), 1
        outside = np.zeros(len(places), dtype=np.bool_)
        for name in names:
            own, values = recoded[name]
            code, size = code * len(values) + own, size * len(values)
            outside |= own < 0
        code = np.where(outside, size, code)
        rows, off, expected = (
            np.bincount(code, weights=of, minlength=size + 1)[:size] for of in (None, residual, half.expected)
        )
        enough = np.flatnonzero((rows >= SMALLEST_SHARE * len(places)) & (expected >= FEWEST_EXPECTED / 2))
        searched += len(enough)
        for at in enough:
            score = float(off[at] / np.sqrt(expected[at]))
            part = _part(names, int(at), recoded)
            # A pair has to tell more than each of its features by itself.
            if all(abs(score) > abs(found[(single,)][0]) for single in part if len(part) > 1 and (single,) in found):
                found[part] = score, int(rows[at]), float(off[at])
    proposed, alike = list[Part](), set[tuple[int, float]]()
    for part, (_, size, deviation) in sorted(found.items(), key=lambda item: -abs(item[1][0])):
        # The same rows under another name.
        if (size, round(deviation, 9)) not in alike and len(proposed) < MOST_PROPOSED:
            proposed.append(part)
            alike.add((size, round(deviation, 9)))
    return searched, proposed


def _one_or_two(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    yield from ((name,) for name in names)
    yield from combinations(names, 2)


def _part(names: Sequence[str], at: int, recoded: Mapping[str, tuple[Indices, Indices]]) -> Part:
    """The features and codes of a combined code."""
    part = []
    for name in reversed(names):
        values = recoded[name][1]
        at, place = divmod(at, len(values))
        part.append((name, int(values[place])))
    return tuple(reversed(part))


def _frequent(feature: Feature, places: Indices) -> tuple[Indices, Indices]:
    """Places among its frequent codes, -1 for another, of some rows; and these codes."""
    codes = np.asarray(feature.codes[places])
    values, counts = np.unique(codes, return_counts=True)
    frequent = np.flatnonzero(counts >= SMALLEST_SHARE * len(places))
    chosen = values[np.sort(frequent[np.argsort(-counts[frequent], kind="stable")[:MOST_VALUES]])]
    if len(chosen) == 0 or len(values) < 2:
        return np.full(len(places), -1), chosen[:0]
    at = np.minimum(np.searchsorted(chosen, codes), len(chosen) - 1)
    return np.where(chosen[at] == codes, at, -1), chosen


def _against_champion(
    part: _Confirmed,
    kept: Indices,
    labels: Integers,
    clusters: Integers | None,
    compared: tuple[Reals, Reals] | None,
    seed: int,
) -> PairedDifference | None:
    if compared is None:
        return None
    at = kept[part.at]
    own, champion = compared
    return paired_difference(own[at], champion[at], labels[at], None if clusters is None else clusters[at], seed=seed)
