"""A console logger that people can read: what each step does, not what Dagster does."""

import logging

import dagster as dg

SHOWN_EVENTS = {"STEP_START", "STEP_SUCCESS", "STEP_FAILURE"}
"""Dagster events worth a line; everything that our own code logs is shown too."""


class _ProgressFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        meta = getattr(record, "dagster_meta", {}) or {}
        step = meta.get("step_key") or ""
        event = getattr(record, "dagster_event", None) or meta.get("dagster_event")
        message = meta.get("orig_message") or record.getMessage()
        if event is not None:
            message = {
                "STEP_START": "started",
                "STEP_SUCCESS": "done",
                "STEP_FAILURE": "FAILED",
            }.get(event.event_type_value, message)
        return f"{self.formatTime(record, '%H:%M:%S')}  {step:<20} {message}"


class _Readable(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        meta = getattr(record, "dagster_meta", {}) or {}
        event = getattr(record, "dagster_event", None) or meta.get("dagster_event")
        if event is None:
            return record.levelno >= logging.INFO
        return event.event_type_value in SHOWN_EVENTS


@dg.logger(
    {"log_level": dg.Field(str, default_value="INFO", is_required=False)},
    description="One short line for each step and for each message of the pipeline.",
)
def progress_logger(context: dg.InitLoggerContext) -> logging.Logger:
    """Logs to stderr, so that a command's own output stays clean."""
    logger = logging.Logger("ctr_pipeline", level=context.logger_config["log_level"])
    handler = logging.StreamHandler()
    handler.setFormatter(_ProgressFormatter())
    handler.addFilter(_Readable())
    logger.addHandler(handler)
    return logger
