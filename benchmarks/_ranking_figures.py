"""The figures of ranking.py: metrics of each side over training seeds, and paired differences between sides.

The intervals are 95 % ones of a Poisson bootstrap over the users of the test rows: each replicate gives every user the
same weight for all sides, so what they share cancels. They hold the error of the test rows; the spread over training
seeds stands beside them.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.evaluation.metrics import Interval, with_error_of_slice
from ctr_pipeline.evaluation.paired_draws import METRICS, Draws, interval, resampled

OE = METRICS.index("O/E")


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
