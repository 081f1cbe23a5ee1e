"""`ctr …`: run the pipeline, check a spec, simulate logs, open the pages, read a report."""

from ctr_pipeline.cli.app import app, main

__all__ = ["app", "main"]
