"""The Dagster entry: `dg dev -w workspace.yaml`, or `ctr ui`."""

from ctr_pipeline.orchestration.build import build_definitions
from ctr_pipeline.spec.extensions import load_extensions

load_extensions()
defs = build_definitions()
