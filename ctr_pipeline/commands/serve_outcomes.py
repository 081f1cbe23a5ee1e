"""The outcomes of a canary in `ctr serve`: what watches them in a process of the service."""

import time
from typing import TYPE_CHECKING

from ctr_pipeline.commands.serving_folder import ServingFolder
from ctr_pipeline.deployment.environment import Environment
from ctr_pipeline.deployment.key import existing_pseudonymiser, has_key

if TYPE_CHECKING:
    from ctr_pipeline.online.outcome_watch import OutcomeWatch
    from ctr_pipeline.serving.http import ServedModels, ServiceMetrics


def watched_outcomes(
    models: "ServedModels", folder: ServingFolder, metrics: "ServiceMetrics", environment: Environment
) -> "OutcomeWatch | None":
    """What watches the outcomes of canaries, at work; None where ids cannot be hashed.

    Args:
        models: Those that answer.
        folder: Of the service.
        metrics: Where impressions are counted.
        environment: Holds the key.
    """
    from ctr_pipeline.online.outcome_ledger import CountedTasks
    from ctr_pipeline.online.outcome_watch import OutcomeWatch
    from ctr_pipeline.spec import parse_spec

    if not has_key(environment):
        return None
    read: dict[str, CountedTasks] = {}

    def counted() -> CountedTasks:
        text = models.current.champion.spec_text
        if text not in read:
            read.clear()
            read[text] = CountedTasks.of(parse_spec(text, where="spec of the champion"))
        return read[text]

    watch = OutcomeWatch(
        folder.outcomes,
        counted,
        pseudonym=existing_pseudonymiser(environment).of_text,
        trial=lambda: models.current.trial,
        ended=lambda trial, reason: models.end_trial(reason, trial),
        count=metrics.canary_impressions,
        now=lambda: time.time_ns() // 1000,
        clock=time.monotonic,
    )
    watch.start()
    return watch
