"""What the user declares: one YAML file, typed and validated. Imports no other package."""

from ctr_pipeline.spec.load import SpecError, load_spec, parse_spec, spec_hash
from ctr_pipeline.spec.spec import Spec

__all__ = ["Spec", "SpecError", "load_spec", "parse_spec", "spec_hash"]
