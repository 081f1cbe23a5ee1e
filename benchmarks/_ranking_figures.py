"""The figures of ranking.py: metrics of each side over training seeds, and paired differences between sides.

The intervals are 95 % ones of a Poisson bootstrap over the users of the test rows: each replicate gives every user the
same weight for all sides, so what they share cancels. They hold the error of the test rows; the spread over training
seeds stands beside them.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ctr_pipeline.calibration.labelled import labelled
from ctr_pipeline.evaluation.intervals import cluster_codes
from ctr_pipeline.evaluation.metrics import (
    Interval,
    ap_of,
    auc_of,
    entropy,
    rank,
    row_losses,
    with_error_of_slice,
)

METRICS = ("AUC", "AP", "NE", "O/E")
OE = METRICS.index("O/E")
FEWEST_USERS = 10
"""With fewer users with a positive there is no interval."""

Draws = NDArray[np.float64]
"""[R + 1, 4] of :data:`METRICS`: first of the rows as they are, then of each replicate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One side, trained once: its calibrated logits of the test rows."""

    side: str
    position: str
    """``neutral``: as rows are ranked, where the position is unknown; ``logged``: with the logged position."""
    logits: NDArray[np.float64]
    """[N, T]."""
    calibrated_on: Mapping[int, int]
    """By task, positives of the calibration slice."""
    seconds: float
    """Of the training, scoring included."""
    peak_mib: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One side on one task, over its training seeds."""

    side: str
    position: str
    draws: Draws
    """Mean over the seeds."""
    points: NDArray[np.float64]
    """[seeds, 4]."""
    calibrated: int
    """Seeds whose interval of O/E holds 1."""
    captured: float | None
    """Mean share captured of what can be known, where the truth is."""
    seconds: float
    peak_mib: float | None


def resampled(
    logits: NDArray[np.float64], labels: NDArray[np.int8], users: NDArray[np.int64], *, seed: int, replicates: int
) -> Draws:
    """The metrics of the rows with a label, as they are and in each replicate; NaN where they are not defined.

    Replicates of one seed are the same for all ``logits`` of the same rows.
    """
    rows = labelled(logits, labels)
    codes, count = cluster_codes(users[rows.kept], len(rows))
    ranking, positive = rank(rows.logits), rows.positive.astype(np.float64)
    amounts = (row_losses(rows.logits, rows.positive), positive, special.expit(rows.logits), np.ones(len(rows)))
    sums = np.stack([np.bincount(codes, weights=amount, minlength=count) for amount in amounts], axis=1)
    generator = np.random.default_rng(seed)
    enough = np.count_nonzero(sums[:, 1]) >= FEWEST_USERS
    found = np.full((1 + replicates * enough, len(METRICS)), np.nan)
    for number in range(len(found)):
        weights = generator.poisson(1.0, count) if number else np.ones(count, dtype=np.int64)
        loss, positives, expected, total = weights @ sums
        if not 0 < positives < total:
            continue
        weighted = replace(rows, weights=weights[codes].astype(np.float64))
        ranked = auc_of(weighted, ranking), ap_of(weighted, ranking)
        found[number] = (*ranked, loss / total / entropy(positives / total), positives / expected)
    return found


def figures(
    runs: Sequence[Run],
    task: int,
    labels: NDArray[np.int8],
    users: NDArray[np.int64],
    captured: Sequence[float] | None,
    *,
    replicates: int,
) -> Figures:
    """The figures of the runs of one side at one position."""
    draws = [resampled(run.logits[:, task], labels, users, seed=7, replicates=replicates) for run in runs]
    holding = 0
    for run, own in zip(runs, draws, strict=True):
        ratio = with_error_of_slice(interval(own[:, OE], logarithmic=True), run.calibrated_on[task])
        holding += ratio.low <= 1 <= ratio.high
    peaks = [run.peak_mib for run in runs if run.peak_mib is not None]
    return Figures(
        side=runs[0].side,
        position=runs[0].position,
        draws=np.mean(draws, axis=0),
        points=np.stack([own[0] for own in draws]),
        calibrated=holding,
        captured=None if captured is None else float(np.mean(captured)),
        seconds=float(np.mean([run.seconds for run in runs])),
        peak_mib=max(peaks) if peaks else None,
    )


def interval(draws: NDArray[np.float64], *, logarithmic: bool = False) -> Interval:
    """Student interval of the first of ``draws``, from the spread of the others; infinite without enough of them."""
    values = np.log(draws) if logarithmic else draws
    known = values[1:][np.isfinite(values[1:])]
    margin = special.stdtrit(len(known) - 1, 0.975) * np.std(known, ddof=1) if len(known) >= 20 else np.inf
    low, high = values[0] - margin, values[0] + margin
    return Interval(float(draws[0]), *(map(float, np.exp([low, high]) if logarithmic else (low, high))))


def metrics_table(found: Iterable[Figures]) -> Iterator[str]:
    """Markdown: a row a side and position; mean ± spread over training seeds, and the interval of the mean."""
    yield "| side | position | seeds | AUC | AP | NE | O/E | O/E holds 1 | captured | seconds | peak MiB |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for own in found:
        cells = [own.side, own.position, len(own.points)]
        for column in range(len(METRICS)):
            spread = f" ± {np.std(own.points[:, column], ddof=1):.4f}" if len(own.points) > 1 else ""
            bounds = interval(own.draws[:, column], logarithmic=column == OE)
            cells.append(f"{bounds.value:.4f}{spread} [{bounds.low:.3f}, {bounds.high:.3f}]")
        cells.append(f"{own.calibrated} of {len(own.points)}")
        cells.append("–" if own.captured is None else f"{own.captured:.3f}")
        cells += [f"{own.seconds:.1f}", "–" if own.peak_mib is None else f"{own.peak_mib:,.0f}"]
        yield row(cells)


def differences(found: Sequence[Figures], reference: str) -> Iterator[tuple[Figures, Mapping[str, Interval]]]:
    """For each other side the reference's metrics minus its own at the same position, but for O/E."""
    by_position = {own.position: own for own in found if own.side == reference}
    for own in found:
        base = by_position.get(own.position)
        if own.side != reference and base is not None:
            yield own, {name: interval(base.draws[:, n] - own.draws[:, n]) for n, name in enumerate(METRICS) if n != OE}


def differences_table(found: Sequence[Figures], reference: str, only: Collection[str] = ()) -> Iterator[str]:
    """Markdown: the reference minus each other side, or each of ``only``, paired by user."""
    yield f"| {reference} minus | position | AUC | AP | NE |"
    yield "|---|---|---|---|---|"
    for own, by_metric in differences(found, reference):
        if not only or own.side in only:
            cells = (f"{of.value:+.4f} [{of.low:+.4f}, {of.high:+.4f}]" for of in by_metric.values())
            yield row([own.side, own.position, *cells])


def worlds_table(worlds: Sequence[Sequence[Figures]], reference: str) -> Iterator[str]:
    """Markdown: each side's mean over worlds ± their spread, and in how many of them the reference has the lower NE."""
    yield f"| side | position | worlds | AUC | AP | NE | O/E | NE of {reference} is lower |"
    yield "|---|---|---|---|---|---|---|---|"
    better = [{(own.side, own.position): of["NE"].value < 0 for own, of in differences(w, reference)} for w in worlds]
    for key in dict.fromkeys((own.side, own.position) for world in worlds for own in world):
        means = np.stack([own.draws[0] for world in worlds for own in world if (own.side, own.position) == key])
        won = [world[key] for world in better if key in world]
        spread = np.std(means, axis=0, ddof=1) if len(means) > 1 else np.full(len(METRICS), np.nan)
        cells = [f"{mean:.4f} ± {own:.4f}" for mean, own in zip(means.mean(axis=0), spread, strict=True)]
        yield row([*key, len(means), *cells, f"{sum(won)} of {len(won)}" if won else "–"])


def row(cells: Iterable[object]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
