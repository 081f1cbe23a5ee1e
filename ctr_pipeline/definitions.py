"""The Dagster entry: `dg dev -w workspace.yaml`, or `ctr ui`."""

from ctr_pipeline.orchestration.build import build_definitions

defs = build_definitions()
