"""`ctr drill`: a fault in a real training, and how many faults are noticed."""

import tempfile
from collections.abc import Callable, Sequence
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
    seeds: Sequence[int], half: str = "development", progress: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """How each fault of a half was noticed, and healthy trainings of the same seeds.

    Args:
        seeds: Seeds of each fault.
        half: ``development``, ``scored`` or ``all``.
        progress: Receives the name of each drill before it runs.

    Returns:
        A row for each drill: fault (empty for a healthy training), family, seed, found_by, found_at, stopped, validation.
    """
    from ctr_pipeline.gradients.drills import registered_faults
    from ctr_pipeline.training.drilling import run_drill

    rows = []
    for fault in (None, *(f for f in registered_faults() if half in ("all", f.half))):
        for seed in seeds:
            progress(f"{'healthy' if fault is None else fault.name}, seed {seed}")
            with tempfile.TemporaryDirectory() as folder:
                drill = run_drill(fault, seed, Path(folder))
            rows.append(
                {
                    "fault": drill.fault,
                    "family": "" if fault is None else fault.family,
                    "seed": seed,
                    "found_by": drill.found_by,
                    "found_at": drill.found_at,
                    "stopped": drill.stopped,
                    "validation": drill.validation,
                }
            )
    return rows
