"""The log of `ctr serve`: what of it the spec decides, and opening it in a process of the service."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctr_pipeline.deployment.environment import Environment
from ctr_pipeline.deployment.key import existing_pseudonymiser
from ctr_pipeline.deployment.paths import DataRoot
from ctr_pipeline.spec import Spec

if TYPE_CHECKING:
    from ctr_pipeline.online.feature_log import FeatureLog

_MIB = 2**20


def log_settings(spec: Spec, paths: DataRoot) -> dict[str, Any]:
    """Where and how many requests are logged, as plain values; empty where the spec wants none."""
    log = spec.serving.log
    return {"folder": str(paths.serving_spool), "rate": log.rate, "spool_mb": log.spool_mb} if log.rate > 0 else {}


def opened_log(
    settings: Mapping[str, Any], environment: Environment, count: Callable[[str], None]
) -> "FeatureLog | None":
    """The log of this process; whoever opens it closes it.

    Args:
        settings: As :func:`log_settings` gives them.
        environment: Names the key with which ids are hashed.
        count: Receives what becomes of each request.

    Raises:
        KeyMissingError: there is no key.
    """
    if not settings:
        return None
    from ctr_pipeline.online.feature_log import FeatureLog, LogLimits

    return FeatureLog(
        Path(settings["folder"]),
        LogLimits(rate=settings["rate"], spool_bytes=settings["spool_mb"] * _MIB),
        pseudonym=existing_pseudonymiser(environment).of_text,
        now=lambda: time.time_ns() // 1000,
        clock=time.monotonic,
        count=count,
    )
