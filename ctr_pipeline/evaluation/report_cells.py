"""Figures of a report as text, and pictures with their texts."""

from collections.abc import Mapping
from html import escape
from typing import Any

from ctr_pipeline.evaluation.html_page import figure
from ctr_pipeline.evaluation.report_figures import Drawn

NONE = "–"


def interval(found: Any, digits: int = 3) -> str:
    """A value with its interval, ``0.811 [0.796, 0.825]``; a dash for none."""
    if not isinstance(found, Mapping):
        return NONE if found is None else f"{found:.{digits}f}"
    value, low, high = (found.get(name) for name in ("value", "low", "high"))
    if value is None:
        return NONE
    bounds = "" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{value:.{digits}f}{bounds}"


def change(found: Any) -> str:
    """A relative difference with its interval, in percent."""
    value, low, high = ((found or {}).get(name) for name in ("value", "low", "high"))
    if value is None:
        return NONE
    return f"{value:+.2%}" + ("" if low is None or high is None else f" [{low:+.2%}, {high:+.2%}]")


def difference(found: Mapping[str, Any] | None) -> str:
    """A difference with its interval and sign, ``+0.0012 [-0.0003, +0.0027]``; a dash for none."""
    value, low, high = ((found or {}).get(name) for name in ("value", "low", "high"))
    if value is None:
        return NONE
    return f"{value:+.4f}" + ("" if low is None or high is None else f" [{low:+.4f}, {high:+.4f}]")


def percent(value: float | None) -> str:
    """A share in percent, three digits; a dash for none."""
    return NONE if value is None else f"{100 * value:.3g} %"


def shown(drawn: Drawn, caption: str = "") -> str:
    """A picture, or the sentence that stands for it."""
    return f"<p>{escape(drawn.text)}</p>" if drawn.png is None else figure(drawn.png, drawn.text, caption)
