"""Pictures: what is drawn, on which axes, and that nothing is imported before it is needed."""

import io
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from numbarnn.plotting import plot_backtest, plot_forecast, plot_horizon_error, plot_loss

matplotlib.use("Agg")


class Fitted:
    """As much of an estimator as plot_loss looks at."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def drawn(collections):
    return [each for each in collections if sum(len(path.vertices) for path in each.get_paths())]


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


@pytest.mark.parametrize("name", ["$\\frac{$", "US$ 5 and US$ 6"])
def test_dollars_in_names_are_dollars(name):
    forecast, backtest, error = Figure().subplots(3)
    plot_forecast([1.0, 2.0], [3.0], ax=forecast, ylabel=name, title=name)
    table = {name if key == "y" else key: values for key, values in long_table(["a"]).items()}
    plot_backtest(table, backtest)
    plot_horizon_error({"step": [1, "all"], name: [1.0, 1.0]}, error, metric=name)
    forecast.figure.savefig(io.BytesIO())
    words = [forecast.yaxis.label, backtest.yaxis.label, error.yaxis.label, error.get_legend().get_texts()[0]]
    assert [text.get_text() for text in words] == [name] * 4 and forecast.get_title("left") == name
    assert not any(text.get_parse_math() for text in words)


def test_truth_may_be_unknown_and_a_column_is_a_channel(ax):
    plot_forecast(np.ones((3, 1)), np.ones((2, 1)), ax=ax)
    assert labels(ax) == ["history", "forecast"]


def test_times(ax):
    time = np.datetime64("2020-01-01T00") + np.arange(30)
    plot_forecast(np.ones(24), np.ones(6), ax=ax, time=time)
    ax.figure.canvas.draw()
    assert matplotlib.dates.num2date(ax.get_xlim()[1]).hour == 5


@pytest.mark.parametrize("kind", ["zone", "period"])
def test_times_of_pandas(ax, kind):
    pandas = pytest.importorskip("pandas")
    time = pandas.date_range("2024-03-30", periods=30, freq="h", tz="Europe/Berlin")
    if kind == "period":
        time = pandas.period_range("2024-03-30", periods=30, freq="h")
    plot_forecast(np.ones(24), np.ones(6), ax=ax, time=time)
    ax.figure.canvas.draw()
    assert ax.get_xlabel() == "" and matplotlib.dates.num2date(ax.get_xlim()[0]).hour == 0


def test_fan_has_the_narrowest_interval_darkest_and_begins_at_the_last_observation(ax):
    lower, upper = [[0.0, 1.0], [0.5, 2.0]], [[6.0, 5.0], [9.0, 7.0]]  # 95 first, then 80
    plot_forecast([1.0, 2.0, 3.0], [4.0, 5.0], ax=ax, lower=lower, upper=upper, level=[95, 80])
    assert labels(ax) == ["history", "forecast", "80 %", "95 %"]
    narrow, wide = ax.collections
    assert narrow.get_alpha() > wide.get_alpha()
    edges = wide.get_paths()[0].vertices
    assert edges[:, 0].min() == 0 and edges[edges[:, 0] == 0][:, 1].tolist() == [3.0] * sum(edges[:, 0] == 0)
    assert edges[:, 1].max() == 9


@pytest.mark.parametrize(("width", "n_columns"), [(9, 6), (5, 3), (0.5, 1)])
def test_the_legend_has_as_few_rows_as_fit_below_the_title(width, n_columns):
    figure = Figure(figsize=(width, 3))
    bounds = {"lower": np.zeros((2, 3)), "upper": np.ones((2, 3)), "level": [50, 80, 95]}
    ax = plot_forecast([1.0, 2.0], [3.0, 4.0], [3.0, 4.0], figure.add_subplot(), title="T", **bounds)
    legend = ax.get_legend()
    assert legend._ncols == n_columns
    if n_columns > 1:
        assert legend.get_window_extent().width <= ax.get_window_extent().width
    figure.savefig(io.BytesIO())
    title = next(child for child in ax.get_children() if getattr(child, "get_text", str)() == "T")
    assert title.get_window_extent().y0 >= legend.get_window_extent().y1


MONTHS = np.arange("2023-01", "2025-01", dtype="M8[M]").astype("M8[D]")
WORKDAYS = np.busday_offset("2024-03-04", np.arange(24), roll="forward")


@pytest.mark.parametrize(
    "time",
    [
        np.arange(24), 0.25 * np.arange(24), np.datetime64("2024-03-01T00") + np.arange(24), MONTHS, WORKDAYS,
        (WORKDAYS[:, np.newaxis] + np.arange(24).astype("m8[h]")).ravel(),
    ],
    ids=["steps", "numbers", "hours", "months", "workdays", "hours of workdays"],
)  # fmt: skip
def test_the_history_has_a_gap_where_times_are_missing(time):
    whole, broken = Figure().subplots(2)
    plot_forecast(np.ones(len(time) - 4), np.ones(4), ax=whole, time=time)
    assert len(whole.lines[0].get_xdata()) == len(time) - 4
    kept = np.delete(time, [7, 12, 13])
    plot_forecast(np.arange(len(kept) - 4), np.ones(4), ax=broken, time=kept)
    x, y = broken.lines[0].get_data()
    assert np.flatnonzero(np.isnan(y)).tolist() == [7, 12]
    assert (x[~np.isnan(y)] == kept[:-4]).all() and (y[~np.isnan(y)] == np.arange(len(kept) - 4)).all()


def test_uneven_times_have_no_gaps(ax):
    plot_forecast(np.ones(50), [1.0], ax=ax, time=np.random.default_rng(0).random(51).cumsum())
    assert not np.isnan(ax.lines[0].get_ydata()).any()


class Windows:
    """As much of a CrossValidation as plot_backtest looks at: 3 windows of 4 steps, 2 channels, 2 levels."""

    cutoff = np.array([10, 12, 14])
    y = (cutoff[:, None, None] + np.arange(1, 5)[:, None] + np.array([0, 100])).astype(float)
    forecast = y + 1
    lower, upper = y[..., None] - [1.0, 2.0], y[..., None] + [3.0, 4.0]


def test_backtest_of_arrays(ax):
    assert plot_backtest(Windows, ax, series=1) is ax
    truth = ax.get_lines()[0]
    assert truth.get_xdata().tolist() == list(range(11, 19))  # overlapping windows are one line
    assert (truth.get_ydata() == truth.get_xdata() + 100).all()
    assert labels(ax) == ["truth", "forecast"] and len(drawn(ax.collections)) == 6
    with pytest.raises(ValueError, match="series was 2; expected the number of a channel, 0 to 1"):
        plot_backtest(Windows, ax, series=2)


def test_backtest_of_arrays_names_the_levels_it_is_told(ax):
    plot_backtest(Windows, ax, level=[80, 95])
    assert labels(ax) == ["truth", "forecast", "80 %", "95 %"]
    with pytest.raises(ValueError, match="level has length 1; expected one for each interval: 2"):
        plot_backtest(Windows, ax, level=80)
    with pytest.raises(ValueError, match="level was 80; expected None: the columns of result name"):
        plot_backtest(long_table(["a"]), ax, level=80)


def test_windows_that_overlap_are_lighter_and_the_legend_is_not():
    def windows(step):
        y = np.ones((40, 24, 1))
        bounds = {"lower": y[..., np.newaxis] - [1.0, 2.0], "upper": y[..., np.newaxis] + [1.0, 2.0]}
        return Fitted(cutoff=step * np.arange(40), y=y, forecast=y, **bounds)

    apart, dense = (plot_backtest(windows(step), Figure().add_subplot(), level=[80, 95]) for step in (24, 1))
    assert 0 < drawn(dense.collections)[0].get_alpha() < 0.1 < drawn(apart.collections)[0].get_alpha()
    assert dense.get_lines()[2].get_alpha() < 0.5 < apart.get_lines()[2].get_alpha()
    apart, dense = ([each.get_alpha() for each in ax.get_legend().legend_handles] for ax in (apart, dense))
    assert apart == dense


def test_backtest_of_one_step(ax):
    y = np.ones((3, 1, 1))
    result = Fitted(cutoff=[4, 5, 6], y=y, forecast=y, lower=y[..., np.newaxis] - 1, upper=y[..., np.newaxis])
    plot_backtest(result, ax)
    assert ax.get_lines()[2].get_marker() == "." and drawn(ax.collections)[0].get_linewidth() > 0


def test_the_truth_of_a_backtest_has_a_gap_between_windows(ax):
    y = np.ones((3, 4, 1))
    plot_backtest(Fitted(cutoff=[10, 20, 30], y=y, forecast=y, lower=None, upper=None), ax)
    assert np.flatnonzero(np.isnan(ax.lines[0].get_ydata())).tolist() == [4, 9]


def test_steps_are_counted_in_whole_numbers(ax):
    plot_forecast([1.0], [2.0], ax=ax)
    assert ticks(ax) == [0, 1]


def long_table(ids):
    time = np.datetime64("2020-01-05") + np.array([1, 2, 2, 3])
    table = {"ds": time, "cutoff": time[[0, 0, 1, 1]] - 1, "y": np.arange(4.0), "RNNForecaster": np.ones(4)}
    table |= {"RNNForecaster-lo-80": np.zeros(4), "RNNForecaster-hi-80": np.full(4, 2.0)}
    table = {name: np.tile(values, len(ids)) for name, values in table.items()}
    return {"unique_id": np.repeat(ids, 4), **table} if len(ids) > 1 else table


@pytest.mark.parametrize("library", [dict, "pandas", "polars"])
def test_backtest_of_frames(ax, library):
    frame = dict if library is dict else pytest.importorskip(library).DataFrame
    plot_backtest(frame(long_table(["a", "b"])), ax, series="b")
    assert labels(ax) == ["truth", "forecast", "80 %"] and ax.get_ylabel() == "y of b"
    assert len(drawn(ax.collections)) == 2
    with pytest.raises(ValueError, match="series was 'c'; expected one of 'a', 'b'"):
        plot_backtest(frame(long_table(["a", "b"])), ax, series="c")


def test_backtest_of_one_series(ax):
    plot_backtest(long_table(["a"]), ax)
    assert ax.get_ylabel() == "y"
    with pytest.raises(ValueError, match="expected None: result has one series"):
        plot_backtest(long_table(["a"]), ax, series="a")


@pytest.mark.parametrize(("result", "message"), [({"y": [1]}, "columns y; expected"), (3, "result was int")])
def test_backtest_of_something_else(ax, result, message):
    with pytest.raises(ValueError, match=message):
        plot_backtest(result, ax)


@pytest.mark.parametrize("steps", [[1, 2, 0], ["1", "2", "all"], [1, 2, None], [1.0, 2.0, np.nan]])
def test_horizon_error(ax, steps):
    assert plot_horizon_error({"step": steps, "rmse": [1.0, 3.0, 2.0]}, ax, metric="rmse") is ax
    curve, mean = ax.get_lines()
    assert curve.get_xydata().tolist() == [[1, 1], [2, 3]] and set(mean.get_ydata()) == {2.0}
    assert ax.get_xlabel() == "steps ahead" and ax.get_ylim()[0] == 0
    with pytest.raises(ValueError, match="no column 'mae'; expected one of step, rmse"):
        plot_horizon_error({"step": steps, "rmse": [1.0, 3.0, 2.0]}, ax)


def test_horizon_errors_of_several_tables_on_the_same_axes(ax):
    plot_horizon_error({"step": [1, 2, "all"], "mae": [1.0, 3.0, 2.0]}, ax, label="GRU")
    far = {"step": [1, 2, 3, "all"], "mae": [1.0, 3.0, 50.0, 18.0], "rmse": [1.0, 4.0, 60.0, 20.0]}
    plot_horizon_error(far, ax, label="linear")
    assert ax.get_ylim()[0] == 0 and ax.get_ylim()[1] > 50 and ax.get_xlim()[1] > 3
    assert labels(ax) == ["GRU", "all steps", "linear"] and ax.get_ylabel() == "mae"
    plot_horizon_error(far, ax, metric="rmse")
    assert labels(ax)[-1] == "rmse" and ax.get_ylabel() == "mae, rmse" and ax.get_ylim()[1] > 60


def ticks(ax):
    return [tick for tick in ax.get_xticks() if ax.get_xlim()[0] <= tick <= ax.get_xlim()[1]]


def test_one_step_and_one_epoch_are_a_point_at_one():
    error, loss = Figure().subplots(2)
    plot_horizon_error({"step": ["1", "all"], "mae": [1.0, 1.0]}, error)
    plot_loss(Fitted(loss_curve_=[1.0]), loss)
    for ax in (error, loss):
        assert ticks(ax) == [1] and ax.lines[0].get_marker() == "."
    plot_horizon_error({"step": ["1", "2", "3"], "mae": [1.0, 1.0, 1.0]}, error)
    assert ticks(error) == [1, 2, 3]


def test_horizon_errors_below_zero(ax):
    plot_horizon_error({"step": [1, 2], "bias": [1.0, -3.0]}, ax, metric="bias")
    assert ax.get_ylim()[0] < -3


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([], [1.0]), {}, "history has shape"),
        (([1.0], np.ones((3, 2))), {}, "forecast has shape"),
        (([1.0], [1.0, 2.0], [1.0]), {}, "truth has length 1; expected that of the forecast: 2"),
        (([1.0], [1.0, 2.0]), {"time": [1, 2]}, "time has length 2; expected .*: 3"),
        (([1.0], [1.0, 2.0]), {"lower": [1, 2]}, "upper was None; expected both"),
        (([1.0], [1.0, 2.0]), {"lower": [1, 2, 3], "upper": [1, 2, 3]}, r"lower has shape \(3,\)"),
        (([1.0], [1.0, 2.0]), {"lower": [0, 0], "upper": np.ones((2, 2))}, r"upper has shape \(2, 2\)"),
        (([1.0], [1.0, 2.0]), {"lower": [0, 0], "upper": [3, 3], "level": [80, 95]}, "level has length 2"),
    ],
)
def test_what_does_not_fit_is_named(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        plot_forecast(*arguments, **options)


def test_plot_loss_shows_training_and_validation(ax):
    assert plot_loss(Fitted(loss_curve_=[3.0, 2.0], validation_scores_=[-2.0, -1.5]), ax) is ax
    assert labels(ax) == ["training", "validation"]
    assert ax.get_xlabel() == "epoch" and ax.get_ylabel() == "loss"


def test_plot_loss_where_partial_fit_went_on(ax):
    plot_loss(Fitted(loss_curve_=[0.5, 0.4, 0.35, 0.3], validation_scores_=[-0.6, -0.5]), ax)
    assert [line.get_xdata().tolist() for line in ax.lines] == [[1, 2, 3, 4], [1, 2]]


def test_plot_loss_of_a_loss_that_is_not_positive(ax):
    plot_loss(Fitted(loss_curve_=[1.0, -2.0]), ax)
    assert ax.get_yscale() == "linear" and ax.get_legend() is None


@pytest.mark.parametrize(("last", "scale"), [(54.5, "linear"), (2.0, "log")])
def test_plot_loss_has_logarithms_where_the_range_asks_for_them(ax, last, scale):
    plot_loss(Fitted(loss_curve_=[54.9, last]), ax)
    assert ax.get_yscale() == scale


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
