"""What labels and weights of the training rows say of causes, beside those of rows that are trusted."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.gradients.contracts.feature_profile import area_under_curve
from ctr_pipeline.gradients.triage.evidence import Clue
from ctr_pipeline.gradients.triage.row_sample import FEWEST, RowModel, Rows, auc_error, cross_scores

SHIFTS = (-5, -4, -3, -2, -1, 1, 2, 3, 4, 5)
MOVES = (-1, 1, -2, 2, -3, 3)
"""Moves of a feature's ids that are tried."""

SILENT = 0.2
"""Share of what a feature says of the outcome below which it is of other rows."""

LOST = 0.25
"""Share of what features say of the outcome, below which labels have nothing to do with them."""

LESS, KEPT = 0.75, 0.85
"""Shares of what one feature says, up to which it is less than it should be, and from which that of another is as it should be."""

WEAKENED = 0.8
"""Share below which it is suspicious."""


def label_clues(train: Rows, neighbours: Rows, trusted: Rows, last: Rows | None = None) -> Iterator[Clue]:
    """Clues from how well a model of the trusted rows predicts the training labels, as they are and shifted.

    Args:
        train: Training rows, evenly spread.
        neighbours: Training rows that stand side by side.
        trusted: Rows of another part of the dataset.
        last: Of the last part of the training rows; a feature that says nothing is of other rows only if it is so here too.
    """
    yield from _rate_clues(train, trusted)
    found: list[Clue] = []
    for task in range(len(train.tasks)):
        if _enough(train, task) and _enough(trusted, task):
            # The tasks share their rows: what the first one tells, later ones tell again with less certainty.
            known = {clue.cause for clue in found}
            own = [clue for clue in _task_clues(train, neighbours, trusted, task, last) if clue.cause not in known]
            found += [_of_one_task(clue) if task else clue for clue in own]
    yield from found


def _of_one_task(clue: Clue) -> Clue:
    """A clue that a later task gives and the tasks before it do not.

    Rows that are joined wrongly are so for all tasks. What is wrong of one alone may also be made so: by the mask of its
    funnel, or by what counts as its outcome.
    """
    if clue.cause not in ("label_flip", "label_permute", "label_noise", "row_shift"):
        return clue
    text = f"{clue.text}; of the tasks before it nothing is wrong"
    return replace(clue, weight=round(0.85 * clue.weight, 4), text=text, separating=False)


def weight_clues(train: Rows) -> Iterator[Clue]:
    """Clues from the weights: their mean is 1, and no few rows have most of them."""
    for at, task in enumerate(train.tasks):
        own = train.weights[train.labels[:, at] >= 0, at]
        if len(own) < 100:
            continue
        if not np.isfinite(own).all() or (own < 0).any():
            text = f"weights of task {task} are negative or not finite"
            yield Clue(cause="bad_weight", weight=0.95, text=text, location=task, separating=True)
            continue
        mean, middle = float(own.mean()), float(np.median(own))
        share = float(own.sum() ** 2 / (len(own) * max((own**2).sum(), 1e-300)))
        largest = float(own.max() / max(middle, 1e-300))
        if share < 0.5 and largest > 10:
            text = (
                f"the largest weight of task {task} is {largest:.3g} times the median, and {share:.0%} of the rows are effective: "
                "weights look like inverse propensities without a limit"
            )
            yield Clue(
                cause="ips_unclipped",
                weight=0.6 if share > 0.1 else 0.9,
                text=text,
                location=task,
                separating=share < 0.05,
            )
        if not 0.67 < mean < 1.5:
            text = f"the mean weight of task {task} is {mean:.3g}, and that of training rows is meant to be 1"
            yield Clue(cause="weights_scaled", weight=0.6, text=text, location=task)


def _enough(rows: Rows, task: int) -> bool:
    known = rows.labels[:, task]
    return min(int((known == 1).sum()), int((known == 0).sum())) >= FEWEST


def _rate_clues(train: Rows, trusted: Rows) -> Iterator[Clue]:
    shifts: list[tuple[float, Clue]] = []
    for at, task in enumerate(train.tasks):
        own, there = train.labels[:, at], trusted.labels[:, at]
        known, known_there = float((own >= 0).mean()), float((there >= 0).mean())
        if known < 0.2 * known_there:
            text = f"labels of task {task} are known for {known:.0%} of the training rows and {known_there:.0%} of the trusted ones"
            yield Clue(cause="mask_drops_labels", weight=0.6, text=text, location=task)
        if min(int((own >= 0).sum()), int((there >= 0).sum())) < 200:
            continue
        odds = _log_odds(_rate(train, at)) - _log_odds(_rate(trusted, at))
        text = f"{_rate(train, at):.2%} of the known labels of task {task} are 1, and {_rate(trusted, at):.2%} among trusted rows"
        if abs(odds) > 0.4 and (other := _exchanged(train, trusted, at)) is not None:
            text += f"; this is the share of task {other} there, and the other way round"
            yield Clue(cause="mask_inverted", weight=0.9, text=text, location=task, separating=True)
            return
        if abs(odds) > 0.4 and _moved(train, trusted, at) > 4:
            weight = 0.75 if abs(odds) > 0.8 else 0.5
            shifts.append((abs(odds), Clue(cause="base_rate_shift", weight=weight, text=text, location=task)))
    # The tasks of a funnel move together: one of them tells it.
    if shifts:
        yield max(shifts, key=lambda item: item[0])[1]


def _moved(train: Rows, trusted: Rows, task: int) -> float:
    """How many standard errors the share of positives is from that of the trusted rows."""
    there = _rate(trusted, task)
    n, m = (int((rows.labels[:, task] >= 0).sum()) for rows in (train, trusted))
    error = np.sqrt(max(there * (1 - there), 1e-6) * (1 / max(n, 1) + 1 / max(m, 1)))
    return float(abs(_rate(train, task) - there) / error)


def _exchanged(train: Rows, trusted: Rows, task: int) -> str | None:
    """The task that has this one's share of positives among trusted rows, and whose share this one has."""
    own, there = [
        [_rate(rows, at) if (rows.labels[:, at] == 1).sum() >= 10 else 0.0 for at in range(len(rows.tasks))]
        for rows in (train, trusted)
    ]
    for other in range(len(own)):
        apart = abs(there[task] - there[other])
        crossed = max(abs(own[task] - there[other]), abs(own[other] - there[task]))
        if other != task and min(own[task], own[other]) > 0 and crossed < 0.2 * apart:
            return train.tasks[other]
    return None


def _task_clues(train: Rows, neighbours: Rows, trusted: Rows, task: int, last: Rows | None) -> Iterator[Clue]:
    model, label = RowModel(trusted, task), train.tasks[task]
    there = _quality(cross_scores(trusted, task), trusted, task)
    here = _quality(model.scores(train), train, task)
    error = np.hypot(_error(trusted, task), _error(train, task))
    reference = there["all"] - 0.5
    yield from _leak_clues(train, trusted, task, float(error))
    if reference < 4 * error:
        yield from _skew_clues(train, trusted, task, float(error))
        return
    kept = (here["all"] - 0.5) / reference
    numbers = f"a model of the trusted rows has an AUC of {there['all']:.3f} on them and of {here['all']:.3f} on the training rows (task {label})"
    if kept < -0.4:
        yield Clue(cause="label_flip", weight=0.95, text=numbers, location=label, separating=True)
        return
    if kept < 0.6 and (shifted := _best_shift(model, neighbours, task)) is not None:
        shift, found, as_is = shifted
        if found - as_is > 4 * error and found - 0.5 > 0.5 * reference:
            text = f"with labels shifted by {shift} rows that model has an AUC of {found:.3f}, and of {as_is:.3f} as they are"
            yield Clue(cause="row_shift", weight=0.95, text=text, location=label, separating=True)
            return
    shares = {
        name: (here[name] - 0.5) / (value - 0.5)
        for name, value in there.items()
        if name != "all" and value - 0.5 > 5 * error
    }
    worst = min(shares, key=lambda name: shares[name], default="")
    if shares and shares[worst] < 0.35 and max(shares.values()) > 0.75:
        text = f"feature {worst} alone predicts task {label} with an AUC of {there[worst]:.3f} among trusted rows and of {here[worst]:.3f} here; other features keep theirs"
        if (moved := _moved_ids(model, train, worst, task, there[worst])) is not None:
            text += f"; with its ids {moved[0]:+d} it has {moved[1]:.3f}"
            yield Clue(cause="ids_misplaced", weight=0.95, text=text, location=worst, separating=True)
            return
        cause = "feature_drift" if shares[worst] < -0.5 else "feature_permuted"
        # A feature that says nothing at all, and much elsewhere, has no other reason.
        silent = abs(shares[worst]) < SILENT and there[worst] - 0.5 > max(10 * error, 0.05)
        if silent and last is not None:
            silent = _is_silent(model, last, worst, task, there[worst])
        yield Clue(cause=cause, weight=0.93 if silent else 0.85, text=text, location=worst, separating=silent)
    elif (clue := _weakened_feature(train, task, there, here, float(error))) is not None:
        yield clue
    elif kept < WEAKENED and here["all"] < there["all"] - 4 * error:
        yield from _weakened(train, trusted, task, kept, numbers)


def _weakened_feature(
    train: Rows, task: int, there: Mapping[str, float], here: Mapping[str, float], error: float
) -> Clue | None:
    """A feature that says less than among trusted rows while another one keeps what it says: it is not the labels.

    Where the training rows alone tell what its ids mean, and otherwise than trusted rows do, some of them are numbered
    otherwise; where they tell no more either, some stand beside rows that are not theirs.
    """
    usual = {name: value - 0.5 for name, value in there.items() if name != "all" and value - 0.5 > 8 * error}
    shares = {name: (here[name] - 0.5) / value for name, value in usual.items()}
    worst = min(shares, key=lambda name: shares[name], default="")
    lost = there[worst] - here[worst] if worst else 0.0
    # What is made of the past says less while a log begins.
    if not worst or worst in train.from_past or lost < 4 * error:
        return None
    if shares[worst] > LESS or max(shares.values()) < KEPT:
        return None
    own = _quality(cross_scores(train, task), train, task)[worst]
    text = (
        f"feature {worst} alone predicts task {train.tasks[task]} with an AUC of {there[worst]:.3f} among trusted rows, and of "
        f"{here[worst]:.3f} here by what it means there"
    )
    if worst in train.id_names and own - here[worst] > 3 * error:
        text += f"; by what its ids mean here it has {own:.3f}: some of them are numbered otherwise"
        return Clue(cause="ids_misplaced", weight=0.8, text=text, location=worst)
    text += "; other features keep theirs"
    return Clue(cause="feature_permuted", weight=0.78, text=text, location=worst)


def _is_silent(model: RowModel, last: Rows, feature: str, task: int, there: float) -> bool:
    """Whether ``feature`` says nothing of the last training rows either, beyond doubt."""
    if not _enough(last, task):
        return False
    here, error = _quality(model.scores(last), last, task)[feature], float(_error(last, task))
    return abs(here - 0.5) < SILENT * (there - 0.5) + 2 * error and there - 0.5 > 8 * error


def _moved_ids(model: RowModel, train: Rows, feature: str, task: int, there: float) -> tuple[int, float] | None:
    """By how much the ids of ``feature`` are moved, where moving them back lets it predict again; and its AUC then."""
    if feature not in train.id_names:
        return None
    place = list(train.id_names).index(feature)
    known = train.labels[:, task] >= 0
    for by in MOVES:
        ids = train.ids.copy()
        ids[:, place] += by
        scores = model.scores(replace(train, ids=ids))[feature]
        auc = area_under_curve(scores[known], train.labels[known, task] == 1)
        if auc - 0.5 > 0.7 * (there - 0.5):
            return by, auc
    return None


def _skew_clues(train: Rows, later: Rows, task: int, error: float) -> Iterator[Clue]:
    """Where features predict the training labels, and by the same model not at all those of later rows."""
    own = _quality(cross_scores(train, task), train, task)["all"] - 0.5
    there = _quality(RowModel(train, task).scores(later), later, task)["all"] - 0.5
    if own > max(8 * error, 0.08) and there < LOST * own:
        text = f"a model of the training rows has an AUC of {own + 0.5:.3f} on them and of {there + 0.5:.3f} on later rows (task {train.tasks[task]})"
        yield Clue(cause="train_serving_skew", weight=0.7, text=text, location=train.tasks[task])


def _weakened(train: Rows, trusted: Rows, task: int, kept: float, numbers: str) -> Iterator[Clue]:
    """All features say less than they should: labels are permuted, or wrong for a share of the rows.

    Permuted ones leave the share of positives; exchanged ones draw it towards a half.
    """
    label = train.tasks[task]
    rate, there = _rate(train, task), _rate(trusted, task)
    drawn = _moved(train, trusted, task) > 4 and abs(rate - 0.5) < abs(there - 0.5)
    weight = 0.9 if kept < LOST else 0.8
    if drawn and abs(_log_odds(rate) - _log_odds(there)) > 0.1:
        text = f"{numbers}; {rate:.1%} of the labels are 1 and {there:.1%} there"
        yield Clue(cause="label_noise", weight=weight, text=text, location=label)
        yield Clue(cause="label_permute", weight=0.3, text=numbers, location=label)
    else:
        text = f"{numbers}, with about the same share of positives"
        yield Clue(cause="label_permute", weight=weight, text=text, location=label, separating=kept < LOST)
        yield Clue(cause="label_noise", weight=0.3, text=numbers, location=label)


def _leak_clues(train: Rows, trusted: Rows, task: int, error: float) -> Iterator[Clue]:
    own, there = (_quality(cross_scores(rows, task), rows, task) for rows in (train, trusted))
    telling = [name for name, value in own.items() if name != "all" and value - 0.5 > 5 * error]
    # Where no feature predicts the later rows, these are the odd ones, or what leaks is all that there is.
    kept = any(there[name] - 0.5 > 0.5 * (own[name] - 0.5) for name in telling)
    for name, value in own.items():
        # Ids of which more rows are known tell more: only of numbers a small difference is strange.
        least = 0.05 if name in train.number_names else 0.1
        risen = value - there[name]
        if name != "all" and risen > max(4 * error, least) and value > 0.7:
            text = f"feature {name} alone predicts task {train.tasks[task]} with an AUC of {value:.3f} here and of {there[name]:.3f} among trusted rows"
            yield Clue(
                cause="leak",
                weight=0.45 if not kept else 0.9 if risen > 0.1 else 0.75,
                text=text,
                location=name,
                separating=kept and risen > 0.1,
            )


def _quality(scores: Mapping[str, NDArray[np.float64]], rows: Rows, task: int) -> dict[str, float]:
    """The AUC of each feature's score, and of their sum as ``all``."""
    known = rows.labels[:, task] >= 0
    positive = rows.labels[known, task] == 1
    total = np.sum(list(scores.values()), axis=0)
    return {name: area_under_curve(values[known], positive) for name, values in ({"all": total} | dict(scores)).items()}


def _best_shift(model: RowModel, neighbours: Rows, task: int) -> tuple[int, float, float] | None:
    total = np.sum(list(model.scores(neighbours).values()), axis=0)
    labels = neighbours.labels[:, task]
    if min(int((labels == 1).sum()), int((labels == 0).sum())) < FEWEST:
        return None

    def of(shift: int) -> float:
        moved = np.roll(labels, shift)
        return area_under_curve(total[moved >= 0], moved[moved >= 0] == 1)

    best = max(SHIFTS, key=of)
    return best, of(best), of(0)


def _error(rows: Rows, task: int) -> float:
    known = rows.labels[:, task] >= 0
    return auc_error(rows.labels[known, task] == 1)


def _rate(rows: Rows, task: int) -> float:
    known = rows.labels[:, task] >= 0
    return float((rows.labels[known, task] == 1).mean())


def _log_odds(rate: float) -> float:
    rate = min(max(rate, 1e-6), 1 - 1e-6)
    return float(np.log(rate / (1 - rate)))
