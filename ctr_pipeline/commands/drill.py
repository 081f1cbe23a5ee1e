"""`ctr drill`: a fault in a real training, and how well faults are noticed, named and placed."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def make_drill(name: str, seed: int, output: Path, contracts: bool) -> dict[str, Any]:
    """Runs the fault ``name`` and writes its tarball into ``output``.

    Raises:
        DrillError: there is no such fault.
    """
    import hashlib

    from ctr_pipeline.gradients.drills import fault_named
    from ctr_pipeline.training.drilling import write_tarball

    file = output / f"drill-{name}-{seed}{'' if contracts else '-unchecked'}.tar.gz"
    drill = write_tarball(fault_named(name), seed, file, contracts=contracts)
    return {
        "file": str(file),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "found_by": drill.found_by,
        "found_at": drill.found_at,
        "message": "" if drill.cause is None else drill.cause.message,
    }


def score_drills(
    seeds: int,
    half: str = "development",
    *,
    faults: Iterable[str] = (),
    baselines: bool = True,
    healthy: bool = True,
    replay: bool = False,
    processes: int = 1,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """How faults are noticed, named and placed, and what healthy trainings make of it. The same each time.

    Args:
        seeds: Seeds of each fault, from 1 on, and of each healthy variant.
        half: ``development``, ``scored`` or ``all``.
        faults: Names of the faults that are run; all of the half when empty.
        baselines: Whether generic alarms and default rules watch the same trainings without contracts.
        healthy: Whether healthy variants are run too, of which false alarms are counted.
        replay: Whether triage tries remedies.
        processes: Processes that run drills.
        progress: Receives the name of each drill once it is scored.

    Returns:
        ``drills`` and ``healthy_drills``: a row for each; ``halves``: the score of each half that was run; ``healthy``.

    Raises:
        DrillError: there is no such half, or no such fault in it.
    """
    from ctr_pipeline.gradients.drills import registered_faults
    from ctr_pipeline.gradients.drills.benign_variants import BENIGN
    from ctr_pipeline.gradients.drills.fault import DrillError
    from ctr_pipeline.training.drilling.score_summary import half_score, healthy_score
    from ctr_pipeline.training.drilling.scored_drill import DrillTask, score_drill

    if half not in ("development", "scored", "all"):
        raise DrillError(f"there is no half {half!r}: development, scored or all")
    known = [fault.name for fault in registered_faults() if half in ("all", fault.half)]
    if unknown := set(faults) - set(known):
        raise DrillError(f"no fault {', '.join(sorted(unknown))} in half {half}; known: {', '.join(known)}")
    wanted = [(name, False) for name in known if not faults or name in set(faults)]
    tasks = [
        DrillTask(fault=name, healthy=benign, seed=seed, baselines=baselines, replay=replay)
        for name, benign in (*wanted, *((variant.name, True) for variant in BENIGN if healthy))
        for seed in range(1, seeds + 1)
    ]
    drills: list[Any] = []
    well: list[Any] = []
    with _mapped(processes) as mapped:
        for drill in mapped(score_drill, tasks):
            (well if drill.half == "healthy" else drills).append(drill)
            progress(f"{drill.fault}, seed {drill.seed}: {', '.join(drill.causes[:3]) or 'unknown'}")
    halves = [name for name in ("development", "scored") if any(drill.half == name for drill in drills)]
    return {
        "drills": [drill.to_dict() for drill in drills],
        "healthy_drills": [drill.to_dict() for drill in well],
        "halves": [half_score(name, drills, well).to_dict() for name in halves],
        "healthy": healthy_score(well).to_dict(),
    }


@contextmanager
def _mapped(processes: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """``map`` in this process, or over several: results come in the order of the tasks."""
    if processes == 1:
        yield map
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    # Not forked: torch's threads do not survive it.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield pool.map
