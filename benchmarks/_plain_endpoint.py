"""The peer of serving.py: a bundle behind FastAPI as its tutorial has it, rows and a pydantic model in a `def` endpoint.

Started by serving.py as ``python benchmarks/_plain_endpoint.py BUNDLE PORT``.
"""

import sys
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, create_model

from ctr_pipeline.serving import Bundle

KINDS: dict[str, Any] = {
    "double": float | None,
    "string": str | None,
    "timestamp": int | None,
    "[double]": list[float] | None,
    "[string]": list[str] | None,
}


def plain_service(bundle: Bundle) -> FastAPI:
    """The service: `POST /predict` with ``rows``, one object of features a candidate."""
    features: dict[str, Any] = {name: (KINDS[kind], None) for name, kind in bundle.inputs.items()}
    row: Any = create_model("Row", **features)
    asked: Any = create_model("Asked", rows=(list[row], ...))

    class Answer(BaseModel):
        scores: dict[str, list[float]]

    app = FastAPI()

    def predict(request):  # type: ignore[no-untyped-def]
        found = bundle.score(*bundle.encode([one.model_dump() for one in request.rows])).probabilities
        return Answer(scores={task: found[:, at].tolist() for at, task in enumerate(bundle.tasks)})

    predict.__annotations__ = {"request": asked, "return": Answer}
    app.post("/predict")(predict)
    return app


if __name__ == "__main__":
    uvicorn.run(
        plain_service(Bundle.open(Path(sys.argv[1]))), port=int(sys.argv[2]), log_level="warning", timeout_keep_alive=75
    )
