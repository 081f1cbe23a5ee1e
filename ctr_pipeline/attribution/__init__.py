"""Why a model says what it says, and why another one says something else."""

from ctr_pipeline.attribution.encoded_rows import EncodedRows, reference_of
from ctr_pipeline.attribution.integrated_gradients import Attribution, integrated_gradients

__all__ = ["Attribution", "EncodedRows", "integrated_gradients", "reference_of"]
