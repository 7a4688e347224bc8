"""Pictures of forecasts and of training. Matplotlib is imported only when a function is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_forecast", "plot_loss"]

# after Okabe and Ito: told apart by colour-blind readers, and in grey print
_HISTORY, _FORECAST, _TRUTH, _MUTED = "#444444", "#D55E00", "#0072B2", "#999999"


def plot_forecast(
    history: ArrayLike,
    forecast: ArrayLike,
    truth: ArrayLike | None = None,
    ax: Axes | None = None,
    *,
    time: ArrayLike | None = None,
    ylabel: str | None = None,
    title: str | None = None,
) -> Axes:
    """Draw a history, the forecast that follows it and, where it is known, what really came.

    Parameters
    ----------
    history : array-like of shape (n_timesteps,)
        Last observed values of one channel; show a few horizons of them.
    forecast : array-like of shape (horizon,)
    truth : array-like of shape (horizon,), default=None
    ax : matplotlib Axes, default=None
        Where to draw; None makes a new figure.
    time : array-like of shape (n_timesteps + horizon,), default=None
        Times of history and forecast together, datetime64 or numbers. None counts steps, the forecast from 1.
    ylabel : str, default=None
        What is shown, with its unit: ``"demand in GW"``.
    title : str, default=None

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If the lengths do not fit or an argument has more than one channel.

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> from numbarnn.plotting import plot_forecast
    >>> ax = plot_forecast(np.arange(10.0), [10.0, 11.0], truth=[10.0, 12.0], ax=Figure().add_subplot())
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['history', 'truth', 'forecast']
    """
    history = _one_channel("history", history)
    forecast = _one_channel("forecast", forecast)
    n_total = len(history) + len(forecast)
    time = np.arange(n_total) - len(history) + 1 if time is None else np.asarray(time)
    if len(time) != n_total:
        raise ValueError(f"time has length {len(time)}; expected history and forecast together: {n_total}")
    if truth is not None:
        truth = _one_channel("truth", truth)
        if len(truth) != len(forecast):
            raise ValueError(f"truth has length {len(truth)}; expected that of the forecast: {len(forecast)}")
    ax = _axes(ax)
    # lines of the future begin at the last observed value, so that there is no hole between the two
    joined = slice(len(history) - 1, None)
    ax.plot(time[: len(history)], history, color=_HISTORY, linewidth=1.3, label="history")
    if truth is not None:
        ax.plot(time[joined], np.append(history[-1], truth), color=_TRUTH, linewidth=1.6, label="truth")
    ax.plot(time[joined], np.append(history[-1], forecast), color=_FORECAST, linewidth=1.8, label="forecast")
    ax.axvline(time[len(history) - 1], color=_MUTED, linewidth=0.8, linestyle=":")
    ax.set_xlim(time[0], time[-1])
    if np.issubdtype(time.dtype, np.datetime64):
        _date_axis(ax)
    else:
        ax.set_xlabel("time step")
    _finish(ax, ylabel, title)
    return ax


def plot_loss(estimator: Any, ax: Axes | None = None) -> Axes:
    """Draw the training loss of every epoch, and the loss of the validation part if there was one.

    Parameters
    ----------
    estimator : RNNRegressor, RNNClassifier or RNNForecaster
        Fitted: it has `loss_curve_` and perhaps `validation_scores_`, which are minus the loss.
    ax : matplotlib Axes, default=None
        Where to draw; None makes a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If the estimator is not fitted.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from matplotlib.figure import Figure
    >>> from numbarnn.plotting import plot_loss
    >>> fitted = SimpleNamespace(loss_curve_=[1.0, 0.5, 0.3])
    >>> plot_loss(fitted, Figure().add_subplot()).get_xlabel()
    'epoch'
    """
    losses = getattr(estimator, "loss_curve_", None)
    if losses is None:
        raise ValueError(f"estimator {estimator!r} has no loss_curve_; expected a fitted estimator")
    ax = _axes(ax)
    epochs = np.arange(1, len(losses) + 1)
    ax.plot(epochs, losses, color=_HISTORY, linewidth=1.6, label="training")
    validation = [-score for score in getattr(estimator, "validation_scores_", None) or ()]
    if validation:
        ax.plot(epochs, validation, color=_FORECAST, linewidth=1.6, label="validation")
    ax.set_xlabel("epoch")
    ax.xaxis.get_major_locator().set_params(integer=True)
    if min([*losses, *validation]) > 0:
        ax.set_yscale("log")
    _finish(ax, "loss", None)
    return ax


def _one_channel(name: str, values: ArrayLike) -> np.ndarray:
    """Return the values as a vector, or say what is wrong with them."""
    values = np.asarray(values, dtype=float)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or not len(values):
        raise ValueError(f"{name} has shape {values.shape}; expected one channel, shape (n_timesteps,)")
    return values


def _axes(ax: Axes | None) -> Axes:
    """Make a figure where none was given."""
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'numbarnn[plot]'") from error
    return plt.subplots(figsize=(9, 4), layout="constrained")[1]


def _date_axis(ax: Axes) -> None:
    """Label times briefly: the day where it changes, the year once."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=4, maxticks=9)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _finish(ax: Axes, ylabel: str | None, title: str | None) -> None:
    """Give the axes their words and take away what is not read."""
    if ylabel:
        ax.set_ylabel(ylabel)
    names = ax.get_legend_handles_labels()[1]
    if len(names) > 1:  # above the axes, where it hides no line
        ax.legend(frameon=False, ncols=len(names), loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    if title:
        ax.set_title(title, loc="left", fontsize="medium", pad=24 if len(names) > 1 else None)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    ax.set_axisbelow(True)
