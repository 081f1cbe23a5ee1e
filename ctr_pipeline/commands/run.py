"""`ctr run`: brings tables and model up to date."""

import logging
from datetime import date
from typing import Any

from ctr_pipeline.commands.report import save_report
from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import process_environment, set_variables
from ctr_pipeline.deployment.key import key_has_changed
from ctr_pipeline.deployment.lock import exclusive
from ctr_pipeline.orchestration.instance import dagster_variables
from ctr_pipeline.orchestration.pipeline import execute_pipeline
from ctr_pipeline.orchestration.report_content import build_report

_log = logging.getLogger(__name__)


def run_and_report(deployment: Deployment, first: date, last: date) -> dict[str, Any]:
    """Runs the pipeline for the days ``first`` to ``last`` and returns its report (see docs/report.md).

    The report is also that of a run in which a step failed: its `outcome` gives the reason.

    Raises:
        PipelineError: the days cannot be run.
        DataRootBusyError: another run is at work on the same data root.
    """
    with exclusive(deployment.data_root):
        deployment.save()
        if key_has_changed(deployment.data_root, process_environment()):
            _log.warning(
                "The key of the hashes is another one than that of the tables: every day is read again, and models made "
                "so far know none of the new hashes (docs/privacy.md)."
            )
        set_variables(dagster_variables(deployment.paths))
        facts = execute_pipeline(deployment, first, last)
        report = build_report(deployment, facts, first, last)
    save_report(deployment.paths, report)
    return report
