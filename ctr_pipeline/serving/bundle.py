"""A served model: one folder with everything that scoring needs, opened without torch.

Files of a bundle:

- ``model.onnx``: raw numbers and embedding rows in, logits and calibrated probabilities out, weights inside; what the candidates of a
  request share is an input of its own; above 2 GiB the weights are in ``model.onnx.data``;
- ``vocabulary.parquet``: feature, key, row: how a category becomes an embedding row;
- ``layout.json``: order and meaning of the inputs and outputs;
- ``spec.yaml``: the spec that the model was built from;
- ``calibration.json``: the calibrator of each task, for people (the graph holds it too);
- ``golden.json``: made-up inputs, never real rows, and the outputs that the trained model gives for them;
- ``manifest.json``: format version, name, tasks and the SHA-256 of every other file.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr_pipeline.features.layout import Layout, LayoutError
from ctr_pipeline.features.request_columns import RequestColumns
from ctr_pipeline.serving.candidate_encoding import CandidateEncoder
from ctr_pipeline.serving.category_rows import Vocabulary
from ctr_pipeline.serving.request_encoding import TIME, RequestEncoder
from ctr_pipeline.serving.request_inputs import RequestInputs
from ctr_pipeline.serving.request_values import BundleError

if TYPE_CHECKING:
    from ctr_pipeline.calibration import Calibrator

FORMAT = 2
"""Version of the bundle format that is written."""

FORMATS = (1, 2)
"""Versions that are read. In the first, candidates shared nothing but events."""

OUTPUTS = ["logits", "probabilities"]
"""Outputs of the graph that are read."""

MANIFEST = "manifest.json"
GRAPH = "model.onnx"
WEIGHTS = "model.onnx.data"
"""Weights of a graph that has more of them than its file can hold; other bundles do without."""
FILES = (GRAPH, "vocabulary.parquet", "layout.json", "spec.yaml", "calibration.json", "golden.json")
"""Every file of a bundle but the manifest and :data:`WEIGHTS`."""

MAX_LOGIT_DIFFERENCE = 1e-4
"""Largest difference in logit between the trained model and the bundle."""

MAX_PROBABILITY_DIFFERENCE = 1e-5
"""Largest difference in calibrated probability between the trained model and the bundle."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of N rows and T tasks."""

    logits: NDArray[np.float32]
    """[N, T] logits of P(task) before calibration."""
    probabilities: NDArray[np.float32]
    """[N, T] calibrated probabilities."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: its files are as they were exported and its golden rows score as they should."""

    directory: Path
    """Where the files lie."""
    name: str
    """Name of the spec."""
    layout: Layout
    """Order and meaning of inputs and outputs."""
    sha256: str
    """SHA-256 of the manifest, which holds those of all files: the identity of the model."""
    vocabulary: Vocabulary
    """Feature to key to embedding row."""
    session: Any
    """The ONNX Runtime session: one thread, no spinning; or what runs the graph on another device."""
    columns: RequestColumns
    """What the candidates of a request share: the graph reads that once a request."""
    input_names: Mapping[str, str]
    """What the graph calls the arrays of a request that it reads."""
    inputs: Mapping[str, str]
    """What a request may hold: each feature, and ``double`` or ``string``, in brackets where it is a list of them.

    Where features are made of the time of the impression, ``ts`` too.
    """
    history: str | None = None
    """Definition of the history features (:func:`~ctr_pipeline.features.history_definition.history_definition`) that it
    was trained with; None in bundles of earlier versions."""

    @classmethod
    def open(cls, directory: Path) -> Self:
        """The bundle in ``directory``, verified.

        Raises:
            BundleError: a file is absent or was changed, the format is another one, or the golden rows do not score
                as they did when the bundle was exported.
        """
        manifest = _verified_manifest(directory)
        try:
            layout = Layout.from_json((directory / "layout.json").read_text(encoding="utf-8"))
        except LayoutError as error:
            raise BundleError(f"{directory / 'layout.json'}: {error}") from error
        session = _open_session(directory / GRAPH)
        input_names = _input_names(session)
        vocabulary = _read_vocabulary(directory / "vocabulary.parquet", layout)
        bundle = cls(
            directory=directory,
            name=manifest["name"],
            layout=layout,
            sha256=_sha256(directory / MANIFEST),
            vocabulary=vocabulary,
            session=session,
            columns=RequestColumns.of(layout) if len(input_names) > 2 else RequestColumns.whole(layout),
            input_names=input_names,
            inputs=_inputs(layout),
            history=manifest.get("history"),
        )
        bundle.check_golden()
        return bundle

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in the order of the outputs."""
        return self.layout.tasks

    def score(self, numeric: NDArray[Any], ids: NDArray[Any]) -> Scores:
        """Scores N rows.

        Args:
            numeric: [N, D] raw numbers, NaN where missing.
            ids: [N, F] embedding rows; 0 = missing, 1 = unknown, -1 = after the end of a list.

        Raises:
            BundleError: a shape does not fit the layout, or a row lies outside its embedding table.
        """
        columns, tables = len(self.layout.numeric), self.layout.id_columns
        if numeric.ndim != 2 or ids.ndim != 2 or len(numeric) != len(ids):
            raise BundleError(
                f"score: expected numeric [N, {columns}] and ids [N, {len(tables)}]; "
                f"found {numeric.shape} and {ids.shape}"
            )
        if numeric.shape[1] != columns or ids.shape[1] != len(tables):
            raise BundleError(
                f"score: expected {columns} numbers and {len(tables)} ids a row, in the order of layout.json; "
                f"found {numeric.shape[1]} and {ids.shape[1]}"
            )
        if not np.issubdtype(ids.dtype, np.integer):
            raise BundleError(f"score: expected ids of an integer type; found {ids.dtype}, which may have lost digits")
        lowest, highest = self.layout.id_rows
        outside = np.argwhere((ids < lowest) | (ids > highest))
        if len(outside):
            row, column = outside[0]
            raise BundleError(
                f"score: row {row}: {tables[column].name} has embedding row {ids[row, column]}; "
                f"expected {lowest[column]} to {highest[column]}. Use the vocabulary of this bundle."
            )
        numbers, given = np.ascontiguousarray(numeric, dtype=np.float32), np.ascontiguousarray(ids, dtype=np.int64)
        return self.score_inputs(RequestInputs.of_rows(numbers, given, self.columns))

    def score_inputs(self, inputs: RequestInputs) -> Scores:
        """Scores the N rows of requests, as the encoder of this bundle made them; they are not checked again."""
        if inputs.ids.shape[1] == 0:
            empty = np.empty((0, len(self.tasks)), dtype=np.float32)
            return Scores(empty, empty)
        if self.columns.share:
            given = {name: getattr(inputs, field) for field, name in self.input_names.items()}
        else:
            given = {"numeric": inputs.numeric[0], "ids": inputs.ids[0]}
        logits, probabilities = self.session.run(OUTPUTS, given)
        return Scores(logits, probabilities)

    def calibrators(self) -> "dict[str, Calibrator]":
        """The calibrator of each task, to be applied to logits in double precision; scoring does without them.

        Raises:
            BundleError: calibration.json has no calibrator of a task, or one that is not known here; names the package
                that it comes from.
        """
        from ctr_pipeline.calibration import CalibrationError, calibrator_from_json

        path = self.directory / "calibration.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        absent = [task for task in self.tasks if task not in content]
        if absent:
            raise BundleError(f"{path}: task {absent[0]!r} is absent; found {sorted(content)}. Export the model again.")
        try:
            return {task: calibrator_from_json(content[task]) for task in self.tasks}
        except CalibrationError as error:
            raise BundleError(f"{path}: {error}") from error

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Raw feature values as model inputs.

        Args:
            rows: N mappings of feature name to value. An absent feature, None, NaN, empty text and what the spec declares
                as ``null_values`` are missing. A
                category may be text, a number or a boolean; a feature with ``list`` is a list of them, and one with
                ``width`` a list of numbers. Of the past, what is listed comes latest first, or the most weighty first; a
                list of events, of their kinds and of their ages in seconds are equally long. Features that are made of the time may be left out where ``ts`` is there: the
                time of the impression, with its zone, or in microseconds since 1970 UTC. Features that hold user ids, or that the spec lists under ``privacy``, must
                already be pseudonyms made with the key of the training log.

        Returns:
            numeric [N, D] with NaN for missing, and ids [N, F] with row 0 for missing and row 1 for unknown values, and
            -1 after the end of a list.

        Raises:
            BundleError: a row has a feature that the model does not know, or a value of a wrong type.
        """
        return self.encoder().rows(rows)

    def encoder(self) -> RequestEncoder:
        """What makes inputs of raw values; whoever encodes many requests keeps it."""
        return RequestEncoder.of(self.layout, self.vocabulary)

    def request_encoder(self) -> CandidateEncoder:
        """What makes the inputs of a request of candidates that share features; a server keeps it."""
        return CandidateEncoder(self.encoder(), self.columns)

    def check_golden(
        self, max_logit: float = MAX_LOGIT_DIFFERENCE, max_probability: float = MAX_PROBABILITY_DIFFERENCE
    ) -> None:
        """Scores the golden rows and compares.

        Args:
            max_logit: Largest difference in logit from the trained model.
            max_probability: Largest difference in calibrated probability.

        Raises:
            BundleError: a logit or a probability differs from the trained model's by more than the limit.
        """
        golden = json.loads((self.directory / "golden.json").read_text(encoding="utf-8"))
        rows = len(golden["logits"])
        numeric = np.array(
            [[np.nan if value is None else value for value in row] for row in golden["numeric"]], dtype=np.float32
        ).reshape(rows, len(self.layout.numeric))
        ids = np.array(golden["ids"], dtype=np.int64).reshape(rows, len(self.layout.id_columns))
        found = self.score(numeric, ids)
        for name, values, limit in (
            ("logit", found.logits, max_logit),
            ("probability", found.probabilities, max_probability),
        ):
            expected = np.array(golden["logits" if name == "logit" else "probabilities"])
            differences = np.abs(values - expected)
            if not np.all(differences <= limit):
                row, task = np.unravel_index(int(np.nanargmax(differences)), differences.shape)
                raise BundleError(
                    f"{self.directory}: golden row {row}: {name} of {self.tasks[task]} is {values[row, task]:.6g}, "
                    f"the trained model gave {expected[row, task]:.6g} (limit {limit:g}). Do not serve this bundle: "
                    "export it again, or use the ONNX Runtime version that it was tested with."
                )


def _inputs(layout: Layout) -> dict[str, str]:
    """As :attr:`Bundle.inputs`."""
    numbers = [(column.feature, "[double]" if column.is_element else "double") for column in layout.numeric]
    categories = [(column.name, "[string]" if column.pooled else "string") for column in layout.ids]
    times = [(TIME, "timestamp")] if any(column.from_time for column in layout.ids) else []
    return dict([*numbers, *categories, *times])


def _input_names(session: Any) -> dict[str, str]:
    """By attribute of :class:`RequestInputs`, the name of the graph's input, for those that it has."""
    found = {given.name for given in session.get_inputs()}
    # Before candidates could share other inputs than events, these had names of their own.
    earlier = {"shared_numeric": "ages", "shared_ids": "events"} if "events" in found else {}
    names = {name: earlier.get(name, name) for name in ("numeric", "ids", "shared_numeric", "shared_ids")}
    return {field: name for field, name in names.items() if name in found}


def write_manifest(directory: Path, name: str, tasks: Sequence[str], history: str | None = None) -> None:
    """Writes the manifest of the files in ``directory``, which must be complete.

    Args:
        directory: The bundle's folder.
        name: Name of the spec.
        tasks: Names of the tasks, in the order of the outputs.
        history: As :attr:`Bundle.history`; left out where it is None.
    """
    content = {
        "format": FORMAT,
        "name": name,
        "tasks": list(tasks),
        **({} if history is None else {"history": history}),
        "files": {file: _sha256(directory / file) for file in _files(directory)},
    }
    (directory / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def history_of(directory: Path) -> str | None:
    """As :attr:`Bundle.history`, without opening the bundle.

    Raises:
        BundleError: there is no bundle.
    """
    found: str | None = _verified_manifest(directory).get("history")
    return found


def _files(directory: Path) -> list[str]:
    """The files of the bundle in ``directory`` but the manifest."""
    return [*FILES, *([WEIGHTS] if (directory / WEIGHTS).exists() else [])]


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _verified_manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found, files = manifest["format"], dict(manifest["files"])
    except FileNotFoundError as error:
        raise BundleError(f"{directory}: no bundle here ({MANIFEST} is absent). Export the model first.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path}: not the manifest of a bundle. Export the model again.") from error
    if found not in FORMATS:
        known = " and ".join(map(str, FORMATS))
        raise BundleError(f"{path}: bundle format {found!r}; this version reads the formats {known}. Export again.")
    for file in (*FILES, *(name for name in files if name not in FILES)):
        if not (directory / file).is_file():
            raise BundleError(f"{directory / file}: absent; the bundle is incomplete. Copy or export it again.")
        if _sha256(directory / file) != files.get(file):
            raise BundleError(
                f"{directory / file}: its SHA-256 is not the manifest's: the file was changed or damaged. "
                "Copy or export the bundle again."
            )
    return manifest


def _read_vocabulary(path: Path, layout: Layout) -> Vocabulary:
    frame = pl.read_parquet(path)
    names = dict.fromkeys(column.vocabulary for column in layout.ids)
    features = {name: frame.filter(pl.col("feature") == name) for name in names}
    return Vocabulary(
        {name: dict(zip(rows["key"].to_list(), rows["row"].to_list(), strict=True)) for name, rows in features.items()}
    )


def _open_session(path: Path) -> Any:
    # Its builds for Linux report usage, and leave a file for that in the temporary directory, from the import on.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Requests differ in size: memory that is planned for one size, and kept, makes hundreds of candidates a tenth slower.
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BundleError(f"{path}: ONNX Runtime {onnxruntime.__version__} cannot load it: {error}") from error
