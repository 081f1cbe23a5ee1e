"""What leaving a part of a model out does, as a picture."""

from collections.abc import Mapping

from ctr_pipeline.evaluation.drawing import BLUE, GREY, ORANGE, empty, new_figure, png


def ablation_plot(intervals: Mapping[str, Mapping[str, float | None]], *, title: str) -> bytes:
    """A PNG with a line for each variant: its difference to the whole model with the interval, the largest at the top.

    Args:
        intervals: By the variant's name ``value``, ``low`` and ``high``; a bound that is not known is None.
        title: Title of the picture.
    """
    figure, axes = new_figure(title, "difference", "", size=(6.4, 1.6 + 0.32 * len(intervals)))
    if not intervals:
        return png(empty(figure, axes, "No variant was measured."))
    ordered = sorted(intervals.items(), key=lambda item: item[1]["value"] or 0.0)
    for at, (_, found) in enumerate(ordered):
        value, low, high = (found[name] for name in ("value", "low", "high"))
        assert value is not None
        # One whose interval holds 0 may be no difference at all.
        clear = low is not None and high is not None and (low > 0 or high < 0)
        colour = ORANGE if clear and value > 0 else BLUE if clear else GREY
        if low is not None and high is not None:
            axes.plot([low, high], [at, at], color=colour, linewidth=1.6)
        axes.plot([value], [at], color=colour, marker="o", markersize=5)
    axes.axvline(0.0, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_yticks(range(len(ordered)), [name for name, _ in ordered])
    return png(figure)
