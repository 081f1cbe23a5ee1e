import datetime
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_pipeline.features.vocabulary import encode_ids, numeric_matrix
from ctr_pipeline.serving import Bundle, BundleError
from ctr_pipeline.serving.bundle import FILES, MANIFEST
from ctr_pipeline.serving.request_values import category_text, finite_number
from ctr_pipeline.sources.rows import RAW
from ctr_pipeline.sources.values import canonical_text
from ctr_pipeline_tests.serving.shop import Shop


def copied(bundle: Bundle, folder: Path) -> Path:
    return Path(shutil.copytree(bundle.directory, folder / "copy"))


def resign(directory: Path) -> None:
    """Makes the manifest fit changed files, as one would who wants to deceive."""
    import hashlib

    manifest = json.loads((directory / MANIFEST).read_text())
    manifest["files"] = {file: hashlib.sha256((directory / file).read_bytes()).hexdigest() for file in FILES}
    (directory / MANIFEST).write_text(json.dumps(manifest))


def test_opens_without_torch(bundle: Bundle) -> None:
    code = (
        "import sys; from pathlib import Path; from ctr_pipeline.serving import Bundle\n"
        "bundle = Bundle.open(Path(sys.argv[1]))\n"
        "bundle.score(*bundle.encode([{'price': 3.0}]))\n"
        "assert not {'torch', 'onnx', 'sklearn', 'dagster', 'mlflow'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(bundle.directory)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("file", FILES)
def test_a_changed_or_absent_file_is_refused(bundle: Bundle, tmp_path: Path, file: str) -> None:
    copy = copied(bundle, tmp_path)
    assert Bundle.open(copy).sha256 == bundle.sha256
    content = bytearray((copy / file).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / file).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{file}: its SHA-256 is not the manifest's"):
        Bundle.open(copy)
    (copy / file).unlink()
    with pytest.raises(BundleError, match=rf"{file}: absent"):
        Bundle.open(copy)


def test_other_manifests_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    copy = copied(bundle, tmp_path)
    manifest = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps({**manifest, "format": 3}))
    with pytest.raises(BundleError, match="bundle format 3; this version reads the formats 1 and 2"):
        Bundle.open(copy)
    (copy / MANIFEST).write_text("[]")
    with pytest.raises(BundleError, match="not the manifest of a bundle"):
        Bundle.open(copy)
    (copy / MANIFEST).unlink()
    with pytest.raises(BundleError, match="no bundle here"):
        Bundle.open(copy)


def test_golden_rows_catch_a_wrong_model(bundle: Bundle, tmp_path: Path) -> None:
    copy = copied(bundle, tmp_path)
    golden = json.loads((copy / "golden.json").read_text())
    golden["probabilities"][3][1] += 2e-5
    (copy / "golden.json").write_text(json.dumps(golden))
    resign(copy)
    with pytest.raises(BundleError, match="golden row 3: probability of buy"):
        Bundle.open(copy)
    golden["probabilities"][3][1] -= 2e-5
    golden["logits"][5][2] += 2e-4
    (copy / "golden.json").write_text(json.dumps(golden))
    resign(copy)
    with pytest.raises(BundleError, match="golden row 5: logit of like"):
        Bundle.open(copy)


def test_a_file_that_is_no_model_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    copy = copied(bundle, tmp_path)
    (copy / "model.onnx").write_bytes(b"nonsense")
    resign(copy)
    with pytest.raises(BundleError, match=r"model\.onnx: ONNX Runtime .* cannot load it"):
        Bundle.open(copy)


def test_a_row_scores_the_same_alone_and_in_any_batch(shop: Shop, bundle: Bundle) -> None:
    numeric, ids = shop.rows(257)
    together = bundle.score(numeric, ids)
    for size in (1, 2, 3, 64):
        pieces = [bundle.score(numeric[i : i + size], ids[i : i + size]) for i in range(0, 257, size)]
        apart = np.concatenate([piece.probabilities for piece in pieces])
        assert np.abs(apart - together.probabilities).max() <= 1e-6
    assert bundle.score(numeric[:0], ids[:0]).probabilities.shape == (0, 3)


def test_integer_types_and_memory_order_do_not_matter(shop: Shop, bundle: Bundle) -> None:
    numeric, ids = shop.rows(20)
    expected = bundle.score(numeric, ids).logits
    for other in (ids.astype(np.int32), np.asfortranarray(ids), ids.astype(np.uint16)):
        assert np.array_equal(bundle.score(np.asfortranarray(numeric).astype(np.float64), other).logits, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n, i: (n[:, :1], i), "expected 2 numbers and 3 ids a row"),
        (lambda n, i: (n[:2], i), "expected numeric"),
        (lambda n, i: (n[0], i[0]), "expected numeric"),
        (lambda n, i: (n, i.astype(np.float32)), "found float32, which may have lost digits"),
        (lambda n, i: (n, i + np.array([0, 99, 0])), "row 0: device has embedding row .* expected 0 to 3"),
        (lambda n, i: (n, i - np.array([0, 0, 99])), "row 0: hour has embedding row -"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(shop: Shop, bundle: Bundle, change, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        bundle.score(*change(*shop.rows(5)))


def test_encode_uses_the_vocabulary(bundle: Bundle) -> None:
    numeric, ids = bundle.encode(
        [
            {"price": 3, "rating": 4.5, "ad": "a1", "device": "desk", "hour": 13},
            {"price": None, "rating": True, "ad": 7, "device": "", "hour": True},
            {"price": float("nan"), "ad": "é", "device": "toaster", "hour": 1.0},
            {},
        ]
    )
    assert np.array_equal(numeric, [[3, 4.5], [np.nan, 1], [np.nan, np.nan], [np.nan, np.nan]], equal_nan=True)
    assert ids.tolist() == [[2, 3, 4], [5, 0, 5], [4, 1, 3], [0, 0, 0]]
    assert bundle.encode([])[1].shape == (0, 3)


def test_values_that_the_spec_takes_for_missing(bundle: Bundle) -> None:
    declared = {"price": ("-1", "NA"), "device": ("desk",), "hour": ("13",)}
    served = replace(bundle, layout=replace(bundle.layout, null_values=declared))
    numeric, ids = served.encode(
        [
            {"price": -1.0, "rating": -1, "device": "desk", "hour": 13},
            {"price": "NA", "device": " desk", "hour": "13.0"},
            {"price": -2, "device": "phone", "hour": 1},
        ]
    )
    assert np.array_equal(numeric, [[np.nan, -1], [np.nan, np.nan], [-2, np.nan]], equal_nan=True)
    assert ids.tolist() == [[0, 0, 0], [0, 0, 0], [0, 2, 3]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"pirce": 1.0}, "row 1: feature 'pirce': the model has no such feature; did you mean 'price'"),
        ({"zzz": 1.0}, "it knows price, rating, ad, device, hour"),
        ({"price": "3"}, "row 1: feature 'price': found str; expected a number or null"),
        ({"price": float("inf")}, "expected a finite number"),
        ({"ad": ["a1"]}, "row 1: feature 'ad': found list"),
    ],
)
def test_encode_says_what_is_wrong(bundle: Bundle, row: dict[str, object], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        bundle.encode([{}, row])


def test_encode_agrees_with_packing(shop: Shop, bundle: Bundle) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {
            "price": [None, float(rng.lognormal()), 1e300, -1e-46, 3.5e38][rng.integers(5)],
            "rating": [None, float("nan"), float(rng.normal())][rng.integers(3)],
            "ad": [None, "a1", "a2", "é", "7", "e", "A1"][rng.integers(7)],
            "device": [None, "desk", "phone", "Desk"][rng.integers(4)],
            "hour": [None, "0", "13", "true", "00"][rng.integers(5)],
        }
        for _ in range(300)
    ]
    numbers, categories = (
        dict.fromkeys(["price", "rating"], pl.Float64),
        dict.fromkeys(["ad", "device", "hour"], pl.String),
    )
    frame = pl.DataFrame(rows, schema={**numbers, **categories})
    numeric, ids = bundle.encode(rows)
    assert np.array_equal(numeric, numeric_matrix(shop.layout, frame), equal_nan=True)
    assert np.array_equal(ids, encode_ids(shop.layout, pl.read_parquet(shop.vocabulary), frame))


TYPES = {
    str: pl.String(),
    bool: pl.Boolean(),
    int: pl.Int64(),
    float: pl.Float64(),
    datetime.date: pl.Date(),
    Decimal: pl.Decimal(38, 4),
}


@given(
    st.one_of(
        st.text(st.characters(codec="utf-8")),
        st.text("-+0123.eE \t\xa0"),
        st.sampled_from(["True", " TRUE", "true", "False", "FALSE ", "-0", "-0.0", "007.0", "3.00", "1.10", "tRUE"]),
        st.decimals(-(10**12), 10**12, places=4),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(),
        st.integers(-(2**60), 2**60).map(float),
        st.dates(),
    )
)
@settings(max_examples=500, deadline=None)
def test_category_text_is_that_of_the_training_log(value: object) -> None:
    kind = TYPES[type(value)]
    expected = (
        pl.DataFrame({f"{RAW}x": pl.Series([value], dtype=kind)}).select(canonical_text("x", kind, "here")).item()
    )
    assert category_text(value, "here") == expected


def test_finite_number() -> None:
    assert finite_number(2**70, "here") == float(2**70)
    assert np.isnan(finite_number(None, "here"))
