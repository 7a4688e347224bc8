"""Pictures: what is drawn, on which axes, and that nothing is imported before it is needed."""

import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from numbarnn.plotting import plot_forecast, plot_loss

matplotlib.use("Agg")


class Fitted:
    """As much of an estimator as plot_loss looks at."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.fixture
def ax():
    return Figure().add_subplot()


def test_lines_join_at_the_last_observation(ax):
    assert plot_forecast([1.0, 2.0, 3.0], [4.0, 5.0], [4.5, 5.5], ax, ylabel="CO2 (ppm)", title="T") is ax
    history, truth, forecast = ax.get_lines()[:3]
    assert history.get_xydata().tolist() == [[-2, 1], [-1, 2], [0, 3]]
    assert truth.get_xydata().tolist() == [[0, 3], [1, 4.5], [2, 5.5]]
    assert forecast.get_xydata().tolist() == [[0, 3], [1, 4], [2, 5]]
    assert labels(ax) == ["history", "truth", "forecast"]
    assert ax.get_ylabel() == "CO2 (ppm)" and ax.get_title("left") == "T" and ax.get_xlabel() == "time step"


def test_truth_may_be_unknown_and_a_column_is_a_channel(ax):
    plot_forecast(np.ones((3, 1)), np.ones((2, 1)), ax=ax)
    assert labels(ax) == ["history", "forecast"]


def test_times(ax):
    time = np.datetime64("2020-01-01T00") + np.arange(30)
    plot_forecast(np.ones(24), np.ones(6), ax=ax, time=time)
    ax.figure.canvas.draw()
    assert matplotlib.dates.num2date(ax.get_xlim()[1]).hour == 5


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([], [1.0]), {}, "history has shape"),
        (([1.0], np.ones((3, 2))), {}, "forecast has shape"),
        (([1.0], [1.0, 2.0], [1.0]), {}, "truth has length 1; expected that of the forecast: 2"),
        (([1.0], [1.0, 2.0]), {"time": [1, 2]}, "time has length 2; expected .*: 3"),
    ],
)
def test_what_does_not_fit_is_named(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        plot_forecast(*arguments, **options)


def test_plot_loss_shows_training_and_validation(ax):
    assert plot_loss(Fitted(loss_curve_=[3.0, 2.0], validation_scores_=[-2.0, -1.5]), ax) is ax
    assert labels(ax) == ["training", "validation"]
    assert ax.get_yscale() == "log" and ax.get_xlabel() == "epoch" and ax.get_ylabel() == "loss"


def test_plot_loss_of_a_loss_that_is_not_positive(ax):
    plot_loss(Fitted(loss_curve_=[1.0, -2.0]), ax)
    assert ax.get_yscale() == "linear" and ax.get_legend() is None


def test_plot_loss_needs_a_fitted_estimator(ax):
    with pytest.raises(ValueError, match="expected a fitted estimator"):
        plot_loss(Fitted(), ax)


def test_a_figure_is_made_where_no_axes_are_given():
    import matplotlib.pyplot as plt

    ax = plot_loss(Fitted(loss_curve_=[1.0]))
    assert plt.fignum_exists(ax.figure.number)
    plt.close(ax.figure)


def test_matplotlib_is_imported_when_it_is_needed_only():
    code = (
        "import sys; sys.modules['matplotlib.pyplot'] = None\n"
        "import numbarnn.plotting as p\n"
        "assert 'matplotlib' not in sys.modules\n"
        "try: p.plot_forecast([1.0], [1.0])\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'numbarnn[plot]'" in done.stdout, done.stderr
