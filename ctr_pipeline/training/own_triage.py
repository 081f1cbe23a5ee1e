"""The triage that a training writes itself at its end, while its rows and its code are still those that it ran with."""

import json
import logging
from pathlib import Path

from ctr_pipeline.features.layout import Layout
from ctr_pipeline.gradients import Diagnosis, HealthReport
from ctr_pipeline.gradients.triage.hypothesis import Triage
from ctr_pipeline.gradients.triage.left_behind import evidence_of, with_settings
from ctr_pipeline.training.job_spec import TrainingJob
from ctr_pipeline.training.triaging import builder_of, triage_of

FILE = "triage.json"

MOST_PARAMETERS = 200_000_000
"""Size of the tables up to which a training is built once more."""

_log = logging.getLogger("ctr_pipeline.training")


def own_triage(
    job: TrainingJob, layout: Layout, health: HealthReport, cause: Diagnosis | None = None, *, build: bool = True
) -> tuple[Triage | None, str]:
    """Looks for what is wrong with a training that just ended, and writes triage.json into the job's output directory.

    Args:
        job: The job.
        layout: Its packed layout.
        health: Its findings.
        cause: Why it was stopped; None where it went to its end.
        build: Whether the training is built once more and measured, as far as its size allows; else files alone are looked at.

    Returns:
        The triage; or None and why there is none. That must not hide how the training ended.
    """
    # Of an earlier start of a training that went on from its checkpoint.
    (job.output / FILE).unlink(missing_ok=True)
    try:
        settings = job.training.model_dump(mode="json")
        evidence = with_settings(evidence_of(job.output, cause, health), settings)
        small = sum(column.rows * column.dim for column in layout.ids) <= MOST_PARAMETERS
        found = triage_of(evidence, builder_of(job) if build and small else None)
    except Exception as error:
        _log.exception("triage failed")
        return None, f"no triage: {type(error).__name__}: {error}"
    _write(job.output / FILE, json.dumps(found.to_dict(), indent=1))
    top = found.top
    _log.info("triage: %s", f"{'surely' if found.sure else 'likely'} {top.cause}" if top else "nothing is named")
    return found, ""


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)
