"""How the pictures look: colours, fans, axes, words and legends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

# after Okabe and Ito: told apart by colour-blind readers, and in grey print
HISTORY, FORECAST, TRUTH, MUTED = "#444444", "#D55E00", "#0072B2", "#999999"


def axes_of(ax: Axes | None) -> Axes:
    """Make a figure where none was given."""
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'numbarnn[plot]'") from error
    return plt.subplots(figsize=(9, 4), layout="constrained")[1]


def fan(ax: Axes, time: np.ndarray, bounds: list, start: float | None = None, layers: float = 1) -> None:
    """Fill the intervals, the narrowest darkest; they begin in a point where there is a start."""
    shades = np.linspace(0.38, 0.16, max(len(bounds), 2))
    linewidth = 3 if len(time) == 1 else 0  # there is nothing to fill at one time: its intervals are bars
    for (label, low, high), shade in zip(bounds, shades, strict=False):
        if start is not None:
            low, high = np.append(start, low), np.append(start, high)
        alpha = lighter(shade, layers)
        ax.fill_between(time, low, high, color=FORECAST, alpha=alpha, linewidth=linewidth, label=label)


def lighter(alpha: float, layers: float) -> float:
    """Return the opacity of layers that together are as dark as one; below 2 % colours are rounded away."""
    return max(1 - (1 - alpha) ** (1 / layers), 0.02)


def time_axis(ax: Axes, time: np.ndarray) -> None:
    """Label times briefly: the day where it changes, the year once; name steps that are only counted."""
    if np.issubdtype(time.dtype, np.integer):
        count_axis(ax, "time step")
    elif not np.issubdtype(time.dtype, np.datetime64):
        ax.set_xlabel("time step")
    else:
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        locator = AutoDateLocator(minticks=4, maxticks=9)
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def count_axis(ax: Axes, xlabel: str) -> None:
    """Label whole numbers only, and leave room on both sides where there is but one."""
    from matplotlib.ticker import MaxNLocator

    ax.set_xlabel(xlabel)
    if isinstance(locator := ax.xaxis.get_major_locator(), MaxNLocator):  # else the user has set ticks
        locator.set_params(integer=True, min_n_ticks=1)
    left, right = ax.get_xlim()
    if right - left < 1:
        ax.set_xlim(left - 0.5, right + 0.5, auto=None)


def finish(ax: Axes, ylabel: str | None, title: str | None) -> None:
    """Give the axes their words, names from the data as they are spelt, and take away what is not read."""
    words = [ax.set_ylabel(ylabel)] if ylabel else []
    n_rows = _legend(ax)
    if title:
        pad = 8 + 16 * n_rows if n_rows else None  # above the legend
        words.append(ax.set_title(title, loc="left", fontsize="medium", pad=pad))
    _spell(words)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    ax.set_axisbelow(True)


def _legend(ax: Axes) -> int:
    """Put a legend above the axes, where it hides no line, in as few rows as fit; return how many."""
    n_names = len(ax.get_legend_handles_labels()[1])
    if n_names < 2:
        return 0
    for n_rows in range(1, n_names + 1):
        n_columns = -(-n_names // n_rows)
        legend = ax.legend(
            frameon=False, ncols=n_columns, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2
        )
        _spell(legend.get_texts())
        if legend.get_window_extent().width <= ax.get_window_extent().width:
            break
    return n_rows


def _spell(texts: Iterable[Text]) -> None:
    """Have texts drawn as they are spelt: dollars in names from the data are no formulas."""
    for text in texts:
        text.set_parse_math(False)
