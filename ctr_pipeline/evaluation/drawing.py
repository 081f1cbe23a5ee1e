"""What all pictures have in common: colours that are told apart without colour vision, text, legends, PNG files.

The same data gives the same bytes. Plots of a report are :data:`NARROW` and have :data:`SHARP` dots an inch: on a phone their
text is still read, and a screen with two dots a pixel shows them sharp.
"""

import io
from collections.abc import Sequence
from functools import lru_cache
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

BLUE, ORANGE, GREEN, PURPLE, SKY, RED = "#0072b2", "#d55e00", "#009e73", "#aa4499", "#56b4e9", "#c1272d"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
MARKERS = ("o", "s", "^", "D", "v", "P")
"""Beside the colours, for readers who see none."""
INK, GREY, GRID = "#222222", "#777777", "#e3e3e3"
FONT = "DejaVu Sans"
SHARP = 160
NARROW = (4.3, 3.7)
DASHED = (0, (4, 3))
MOST_LETTERS = 40
"""Letters of a name in a legend, and of a line of a title."""
LEGEND_LETTERS_A_POINT = 1 / 5.12
"""Mean width of the legend's letters."""


def new_figure(title: str, x: str, y: str, *, size: tuple[float, float], dpi: int = 90) -> tuple[Figure, Axes]:
    """A figure of ``size`` inches with one plot: its title, and the labels of its axes."""
    figure = Figure(figsize=size, dpi=dpi, facecolor="white")
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_facecolor("white")
    axes.set_title(plain(title), fontproperties=font(12, bold=True), color=INK, loc="left", pad=30)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#9a9a9a")
    axes.grid(visible=True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axis_text(axes, x, y)
    return figure, axes


def report_figure(title: str, x: str, y: str, *, height: float = NARROW[1]) -> tuple[Figure, Axes]:
    """A figure of a report."""
    lines = "\n".join(shortened(line, MOST_LETTERS) for line in wrap(title, MOST_LETTERS - 4))
    return new_figure(lines, x, y, size=(NARROW[0], height), dpi=SHARP)


def font(size: float, *, bold: bool = False) -> FontProperties:
    """The font of all text, ``size`` points high."""
    return FontProperties(family=[FONT], size=size, weight="bold" if bold else "normal")


def shortened(text: str, most: int) -> str:
    """Text of at most ``most`` letters, cut in the middle: the ends of names tell them apart."""
    if len(text) <= most:
        return text
    half = (most - 1) // 2
    return f"{text[:half]}…{text[-(most - 1 - half) :]}"


def plain(text: str) -> str:
    """Text that is drawn as it is: without the signs of formulas, and with a question mark for what the font lacks."""
    return "".join(letter if _is_drawn(letter) else "?" for letter in text).replace("$", r"\$")


@lru_cache(maxsize=4096)
def _is_drawn(letter: str) -> bool:
    return letter == "\n" or bool(get_font(findfont(font(10))).get_char_index(ord(letter)))


def axis_text(axes: Any, x: str, y: str | None) -> None:
    """Labels of the axes, and the text of their ticks."""
    axes.set_xlabel(plain(x), fontproperties=font(10.5), color=INK)
    if y is not None:
        axes.set_ylabel(plain(y), fontproperties=font(10.5), color=INK)
    axes.tick_params(which="both", labelsize=9.5, labelcolor=INK, color="#9a9a9a", labelfontfamily=FONT)


def legend(axes: Axes) -> None:
    """A legend between title and plot, where it hides no data; the title moves up.

    In a report's figure both begin at the left edge, however wide the labels of the axis are.
    """
    handles, names = axes.get_legend_handles_labels()
    labels = [shortened(name, MOST_LETTERS) for name in names]
    letters = (72 * axes.figure.get_figure(root=True).get_figwidth() - 48) * LEGEND_LETTERS_A_POINT
    columns = next((n for n in (5, 4, 3, 2) if n <= len(labels) and _legend_width(labels, n) <= letters), 1)
    left = _left_edge(axes)
    drawn = axes.legend(
        handles,
        [plain(label) for label in labels],
        loc="lower left",
        bbox_to_anchor=(left - 0.012, 1.0),
        ncols=columns,
        prop=font(9.5),
        frameon=False,
        labelcolor=INK,
        handlelength=1.6,
        columnspacing=1.4,
        borderaxespad=0.2,
    )
    drawn.set_in_layout(False)
    lines = -(-len(labels) // columns)
    title, pad = axes.get_title("left"), 14 + 16 * lines
    axes.set_title(title, fontproperties=font(12, bold=True), color=INK, loc="left", pad=pad, x=left)


def _left_edge(axes: Axes) -> float:
    """Where the text above a plot begins, in widths of the plot from its left side."""
    figure = axes.figure.get_figure(root=True)
    if figure.dpi != SHARP:
        return 0.0
    figure.draw_without_rendering()
    place = axes.get_position()
    return float((0.03 - place.x0) / place.width)


def _legend_width(labels: Sequence[str], columns: int) -> int:
    """Characters that a legend is wide, with seven for each handle."""
    return sum(7 + max(map(len, column)) for column in np.array_split(labels, columns))


def empty(figure: Figure, axes: Axes, message: str) -> Figure:
    """The figure with a sentence in place of data."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(
        0.5, 0.5, plain(message), transform=axes.transAxes, ha="center", fontproperties=font(11), color=GREY, wrap=True
    )
    return figure


def percent(value: float, _: int | None = None) -> str:
    """A share as text: 0.0123 is ``1.23%``."""
    return f"{100 * value:.3g}%"


def png(figure: Figure) -> bytes:
    """The figure as a PNG with a palette of 256 colours and no metadata."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})
    drawn.seek(0)
    with Image.open(drawn) as image:
        reduced = image.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    packed = io.BytesIO()
    reduced.save(packed, format="PNG", optimize=True)
    return packed.getvalue()
