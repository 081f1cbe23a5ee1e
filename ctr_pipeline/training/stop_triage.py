"""The triage that a stopped training writes itself, while its rows and its code are still those that broke."""

import json
import logging
from pathlib import Path

from ctr_pipeline.features.layout import Layout
from ctr_pipeline.gradients.triage.left_behind import evidence_of, with_settings
from ctr_pipeline.training.job_spec import TrainingJob
from ctr_pipeline.training.stopping import Stopped
from ctr_pipeline.training.triaging import builder_of, triage_of

FILE = "triage.json"

MOST_PARAMETERS = 200_000_000
"""Size of the tables up to which a training is built once more beside the one that stopped."""

_log = logging.getLogger("ctr_pipeline.training")


def write_triage(job: TrainingJob, layout: Layout, stopped: Stopped) -> str | None:
    """Writes triage.json into the job's output directory.

    Args:
        job: The job.
        layout: Its packed layout.
        stopped: How it ended.

    Returns:
        None; or why there is no triage. That must not hide why the training stopped.
    """
    # Of an earlier start of a training that went on from its checkpoint.
    (job.output / FILE).unlink(missing_ok=True)
    try:
        settings = job.training.model_dump(mode="json")
        evidence = with_settings(evidence_of(job.output, stopped.cause, stopped.health), settings)
        small = sum(column.rows * column.dim for column in layout.ids) <= MOST_PARAMETERS
        found = triage_of(evidence, builder_of(job) if small else None)
    except Exception as error:
        _log.exception("triage failed")
        return f"no triage: {type(error).__name__}: {error}"
    _write(job.output / FILE, json.dumps(found.to_dict(), indent=1))
    top = found.top
    _log.info("triage: %s", f"{'surely' if found.sure else 'likely'} {top.cause}" if top else "unknown")
    return None


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)
