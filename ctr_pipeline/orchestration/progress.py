"""A console logger that people can read: what each step does, not what Dagster does."""

import logging

import dagster as dg

SHOWN_EVENTS = {"STEP_START": "started", "STEP_SUCCESS": "done", "STEP_FAILURE": "failed"}
"""Dagster events worth a line; everything that our own code logs is shown too."""


class _ProgressFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        meta = getattr(record, "dagster_meta", {})
        event = meta.get("dagster_event")
        message = SHOWN_EVENTS[event.event_type_value] if event is not None else meta.get("orig_message")
        return (
            f"{self.formatTime(record, '%H:%M:%S')}  {meta.get('step_key') or '':<20} {message or record.getMessage()}"
        )


class _Readable(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        event = getattr(record, "dagster_meta", {}).get("dagster_event")
        return record.levelno >= logging.INFO if event is None else event.event_type_value in SHOWN_EVENTS


@dg.logger({}, description="One short line for each step and for each message of the pipeline.")
def progress_logger(context: dg.InitLoggerContext) -> logging.Logger:  # noqa: ARG001
    """Logs to stderr, so that a command's own output stays clean."""
    logger = logging.Logger("ctr_pipeline", level=logging.DEBUG)
    handler = logging.StreamHandler()
    handler.setFormatter(_ProgressFormatter())
    handler.addFilter(_Readable())
    logger.addHandler(handler)
    return logger
