"""DuckDB, Polars or Spark over the lake's tables; all three give the same rows to the bit."""

from ctr_pipeline.engines.base import Engine, EngineError, EngineName
from ctr_pipeline.engines.factory import engine_session, require_engine

__all__ = ["Engine", "EngineError", "EngineName", "engine_session", "require_engine"]
