from dataclasses import replace

import pytest

from ctr_pipeline.features import Encoding, IdColumn, Layout, LayoutError, NumericColumn
from ctr_pipeline.features.layout import Frequency, Pooled

PRICE = NumericColumn(
    name="price", group="dense", transform="signed_log1p", fill=0.1, indicator=True, mean=1 / 3, std=2.0
)
BINS = Encoding("piecewise_linear", (0.0, 0.1, 7.0), (0.3, 0.7))
AD = IdColumn(name="ad_id", group="categorical", rows=7, dim=4)


def layout(**changes: object) -> Layout:
    parts: dict[str, object] = {"numeric": (PRICE,), "ids": (AD,), "tasks": ("click", "buy"), "parents": (-1, 0)}
    return Layout(**(parts | changes))  # type: ignore[arg-type]


def test_json_round_trip_is_exact() -> None:
    assert Layout.from_json(layout().to_json()) == layout()
    assert Layout.from_json(layout().to_json()).to_json() == layout().to_json()
    assert "null_values" not in layout().to_json()
    assert "encoding" not in layout().to_json()
    encoded = layout(numeric=(replace(PRICE, encoding=BINS),))
    assert Layout.from_json(encoded.to_json()) == encoded
    declared = layout(null_values={"price": ("-1",)})
    assert Layout.from_json(declared.to_json()) == declared
    frequent = layout(ids=(replace(AD, frequency=Frequency(1 / 3, 0.7)), replace(AD, name="other")))
    assert Layout.from_json(frequent.to_json()) == frequent
    assert (layout().to_json().count("frequency"), frequent.to_json().count("frequency")) == (0, 1)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"numeric": [{"name": "x"}], "ids": [], "tasks": [], "parents": []}']
)
def test_text_that_is_no_layout_is_refused(text: str) -> None:
    with pytest.raises(LayoutError, match="layout"):
        Layout.from_json(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"tasks": ()},
        {"tasks": ("click", "click")},
        {"parents": (-1, 1)},
        {"parents": (0, -1)},
        {"parents": (-1,)},
        {"numeric": (PRICE, PRICE)},
        {"numeric": (NumericColumn("x", "dense", "none", 0.0, True, 0.0, 0.0),)},
        {"numeric": (NumericColumn("x", "dense", "none", float("nan"), True, 0.0, 1.0),)},
        *(
            {"numeric": (replace(PRICE, encoding=replace(BINS, **wrong)),)}
            for wrong in ({"edges": (0.0, 0.0, 7.0)}, {"edges": (0.0, float("inf"), 7.0)}, {"means": (float("nan"),)})
        ),
        {"numeric": (replace(PRICE, encoding=Encoding("cyclic", period=0.0)),)},
        {"ids": (IdColumn("x", "categorical", 1, 4),)},
        {"ids": (IdColumn("x", "categorical", 2, 0),)},
        {"ids": (replace(AD, frequency=Frequency(float("nan"), 1.0)),)},
        {"ids": (replace(AD, frequency=Frequency(0.0, 0.0)),)},
        {"ids": (replace(AD, frequency=Frequency(0.0, 1.0), pooled=Pooled(3, "mean", "last")),)},
    ],
)
def test_contradictions_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(LayoutError, match="layout"):
        layout(**changes)
