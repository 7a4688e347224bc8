"""What RNNForecaster promises: every method, every form of data, every combination of parameters.

The same data in any form give the same numbers, bit for bit; what is not known yet changes nothing;
what does not go together, or was not asked for, is said before anything is trained.
"""

import copy
import itertools
import pickle
from dataclasses import replace

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit

from numbarnn import RNNForecaster
from numbarnn.forecasting import CrossValidation

N = 180
DAYS = np.datetime64("2024-01-01", "us") + np.arange(260) * np.timedelta64(1, "D")
LIBRARIES = {
    "dict": dict,
    "pandas": pd.DataFrame,
    "polars": lambda columns: pl.DataFrame(
        {key: values.tolist() if values.dtype == object else values for key, values in columns.items()}
    ),
}


def quick(horizon=4, context_length=12, **options):
    """Return a forecaster that is fitted in a moment; the season does not hang on there being times."""
    given = {"max_iter": 2, "n_jobs": 1, "random_state": 0, "hidden_size": 8, "season_length": 1}
    return RNNForecaster(horizon, context_length, **given | {"samples_per_epoch": None} | options)


def waves(n_timesteps=260):
    """Two noisy sines of different periods and levels."""
    t, periods = np.arange(n_timesteps)[:, np.newaxis], np.array([12, 17])
    noise = np.random.default_rng(0).standard_normal((n_timesteps, 2))
    return 3 * periods + np.sin(2 * np.pi * t / periods) + 0.1 * noise


Y, X = waves(), np.random.default_rng(1).standard_normal((260, 2))


class Data:
    """The steps `first` to `last` of two series, in one form, with a past and a future covariate."""

    def __init__(self, kind, library=None):
        self.kind, self.table = kind, LIBRARIES.get(library)
        self.index = library == "index"
        names = (["p"], ["f"]) if self.is_frame else ([0], [1])
        self.options = dict(zip(("past_covariates", "future_covariates"), names, strict=True))

    @property
    def is_frame(self):
        return self.kind in ("long", "wide")

    def frame(self, columns):
        return pd.DataFrame(columns).set_index("ds") if self.index else self.table(columns)

    def steps(self, first, last):
        """y and X of `fit`."""
        rows = slice(first, last)
        y, x = Y[rows], X[rows]
        if self.kind == "array":
            return y, x
        if self.kind == "list":
            return [y[:, 0], y[:, 1]], [x, x]
        if self.kind == "wide":
            columns = {"ds": DAYS[rows], "a": y[:, 0], "b": y[:, 1], "p": x[:, 0], "f": x[:, 1]}
        else:
            ids = np.repeat(np.array(["b", "a"], object), len(y))
            columns = {"unique_id": ids, "ds": np.tile(DAYS[rows], 2), "y": y.T.ravel(),
                       "p": np.tile(x[:, 0], 2), "f": np.tile(x[:, 1], 2)}  # fmt: skip
        return self.frame(columns), None

    def ahead(self, first, last, origin=None):
        """X of `predict`; arrays with a context begin with that."""
        if not self.is_frame:
            x = X[first:last] if origin is None else X[origin:last]
            return x if self.kind == "array" else [x, x]
        n, columns = last - first, {}
        if self.kind == "long":
            columns["unique_id"] = np.repeat(np.array(["a", "b"], object), n)
        columns["ds"] = np.tile(DAYS[first:last], 2 if columns else 1)
        columns["f"] = np.tile(X[first:last, 1], 2 if self.kind == "long" else 1)
        return self.frame(columns)

    def static(self):
        if self.kind == "long":
            return self.frame({"unique_id": np.array(["a", "b"], object), "size": np.array([2.0, 1.0])})
        return None if self.kind == "wide" else [[1.0]] if self.kind == "array" else [[1.0], [2.0]]

    def fit(self, **options):
        # a wide frame is one series, which has no use for a static covariate
        static = self.static() if self.kind in ("list", "long") else None
        return quick(**self.options, **options).fit(*self.steps(0, N), static=static)


METHODS = {
    "fewer steps": lambda f, d: f.predict(2, X=d.ahead(N, N + 2)),
    "more steps, levels": lambda f, d: f.predict(6, X=d.ahead(N, N + 6), level=[50, 80]),
    "context": lambda f, d: f.predict(X=d.ahead(120, 124, 100), context=d.steps(100, 120)[0])
    if not d.is_frame
    else f.predict(X=d.ahead(120, 124), context=d.steps(100, 120)[0]),
    "predict_quantiles": lambda f, d: f.predict_quantiles([0.2, 0.5, 0.7], X=d.ahead(N, N + 4)),
    "sample_paths": lambda f, d: f.sample_paths(3, X=d.ahead(N, N + 4)),
    "update": lambda f, d: f.update(*d.steps(N, N + 9)).predict(X=d.ahead(N + 9, N + 13), level=[50]),
    "partial_fit": lambda f, d: f.partial_fit(*d.steps(N, N + 20)).predict(X=d.ahead(N + 20, N + 24)),
    "score": lambda f, d: f.score(*d.steps(N, N + 10)),
    "feature_importance": lambda f, d: f.feature_importance(*d.steps(0, N), n_repeats=1, random_state=0),
    "cross_validation": lambda f, d: clone(f).cross_validation(*d.steps(0, N), n_windows=2, level=[80]),
    "backtest": lambda f, d: clone(f).backtest(*d.steps(0, N), n_windows=2, level=[80]),
    "validation": lambda f, d: clone(f).fit(*beside(d), validation=d.steps(150, N)[0]).predict(
        X=d.ahead(N, N + 4)
    ),
}  # fmt: skip


def beside(data):
    """y before the data to validate on; covariates in arrays are of both."""
    return data.steps(0, 150)[0], data.steps(0, N)[1]


def numbers_of(answer):
    """All numbers of an answer that were reckoned, sorted."""
    if isinstance(answer, CrossValidation):
        answer = answer[2:]
    if isinstance(answer, pd.Series | pd.DataFrame | pl.DataFrame | dict):
        left_out = ("unique_id", "ds", "cutoff", "y", "sample", "step", "covariate")
        answer = [np.asarray(answer[key]) for key in list(answer) if key not in left_out] \
            if isinstance(answer, dict) else \
            [answer[key].to_numpy() for key in answer.columns if key not in left_out]  # fmt: skip
    if isinstance(answer, list | tuple):
        return np.sort(np.concatenate([numbers_of(part) for part in answer]))
    return np.sort(np.ravel(answer))


FORMS = [("list", form) for form in (("long", "dict"), ("long", "pandas"), ("long", "polars"))]
FORMS += [("array", ("wide", library)) for library in ("dict", "pandas", "polars", "index")]
KNOWN = {}


def reference(kind, options):
    """The fitted forecaster and the numbers of all methods, of arrays."""
    key = kind, tuple(options)
    if key not in KNOWN:
        data = Data(kind)
        fitted = data.fit(**options)
        KNOWN[key] = {name: numbers_of(call(copy.deepcopy(fitted), data)) for name, call in METHODS.items()}
    return KNOWN[key]


@pytest.mark.parametrize(
    "options", [{}, {"decoder": "recursive", "loss": "gaussian"}], ids=["point", "paths"]
)
@pytest.mark.parametrize(("arrays", "form"), FORMS, ids=lambda form: "-".join(form))
def test_every_method_gives_the_same_numbers_in_every_form(arrays, form, options):
    data, expected = Data(*form), reference(arrays, options)
    fitted = data.fit(**options)
    for name, call in METHODS.items():
        found = numbers_of(call(copy.deepcopy(fitted), data))
        np.testing.assert_array_equal(found, expected[name], err_msg=name)
        assert len(found) and np.isfinite(found).all(), name


POINTS = ["squared_error", "absolute_error", "huber"]
LIKELIHOODS = ["gaussian", "student_t", "negative_binomial"]
ALLOWED = {"segment": [*POINTS, "quantile"], "direct": [*POINTS, "quantile"],
           "recursive": [*POINTS, *LIKELIHOODS]}  # fmt: skip
PAIRS = list(itertools.product(ALLOWED, [*POINTS, "quantile", *LIKELIHOODS]))


class TestCombinations:
    @pytest.mark.parametrize(("decoder", "loss"), [pair for pair in PAIRS if pair[1] in ALLOWED[pair[0]]])
    def test_what_goes_together(self, decoder, loss):
        y, x = (np.round(Y[:80]) if loss == "negative_binomial" else Y[:80]), X[:86]
        choices = itertools.product(["last", "window", "standard", None], ["independent", "joint"], [0, 1])
        for normalize, multivariate, covariates in choices:
            options = {"past_covariates": [0]} if covariates else {}
            forecaster = quick(
                decoder=decoder, loss=loss, normalize=normalize, multivariate=multivariate, **options
            ).fit(y, x[:80] if covariates else None, static=[[1.0]] if covariates else None)

            def ahead(first, last, used=covariates):
                return x[first:last] if used else None

            more = forecaster.predict(6, X=ahead(80, 86), level=[50])
            assert all(np.isfinite(part).all() for part in more)
            assert (more.lower[..., 0] <= more.forecast).all() and (more.forecast <= more.upper[..., 0]).all()
            assert forecaster.sample_paths(3, X=ahead(80, 84)).shape == (3, 4, 2)
            context = y[50:80]
            windows = np.stack([ahead(50, 84)] * 2) if covariates else None
            one = forecaster.predict(X=ahead(50, 84), context=context)
            both = forecaster.predict(X=windows, context=np.stack([context, context]))
            assert one.shape == (4, 2) and both.shape == (2, 4, 2)
            np.testing.assert_array_equal(one, forecaster.predict(X=ahead(80, 84)))

    @pytest.mark.parametrize(("decoder", "loss"), [pair for pair in PAIRS if pair[1] not in ALLOWED[pair[0]]])
    def test_what_does_not_is_said_before_training(self, decoder, loss):
        events = []
        with pytest.raises(ValueError, match=f"loss='{loss}' was given with decoder='{decoder}'; expected"):
            quick(decoder=decoder, loss=loss, callbacks=events.append).fit(Y)
        assert not events

    @pytest.mark.parametrize("options", [{}, {"decoder": "direct"}, {"decoder": "recursive"},
                                         {"decoder": "recursive", "loss": "student_t"},
                                         {"quantiles": [0.1, 0.9]}, {"dtype": "float64"},
                                         {"num_layers": 2, "multivariate": "joint"}])  # fmt: skip
    def test_the_same_bits_again(self, options, tmp_path):
        fitted = quick(**options).fit(Y[:N])
        expected = numbers_of(fitted.predict(9, level=[50]))
        joblib.dump(fitted, tmp_path / "forecaster")
        again = [
            quick(**options).fit(Y[:N]), quick(n_jobs=2, **options).fit(Y[:N]), clone(fitted).fit(Y[:N]),
            pickle.loads(pickle.dumps(fitted)), joblib.load(tmp_path / "forecaster"),
        ]  # fmt: skip
        later = numbers_of(fitted.partial_fit(Y[:100]).update(Y[100:110]).predict(level=[50]))
        for other in again:
            np.testing.assert_array_equal(numbers_of(other.predict(9, level=[50])), expected)
            other.partial_fit(Y[:100]).update(Y[100:110])
            np.testing.assert_array_equal(numbers_of(other.predict(level=[50])), later)


def gaps():
    """Y with gaps: inside, at the beginning, over a whole context, at an origin."""
    y = Y[:N].copy()
    y[20:40, 0] = y[:30, 1] = y[120:135] = y[170, 0] = np.nan
    return y


KINDS = [{}, {"decoder": "recursive", "loss": "student_t"}, {"multivariate": "joint", "normalize": "window"},
         {"decoder": "direct", "quantiles": [0.25, 0.75]}]  # fmt: skip


@pytest.mark.parametrize("options", KINDS)
class TestTime:
    """Past covariate 0, known-future covariate 1."""

    @pytest.mark.parametrize("refit", [False, 2])
    def test_what_is_not_known_yet_changes_nothing(self, options, refit):
        origin, before = 168, gaps()
        after, x = before.copy(), X[:N].copy()
        after[origin:] = 3 * after[origin:] - 70
        x[origin:, 0] += 100
        x[origin + 4 :, 1] -= 50
        one, other = (
            quick(past_covariates=[0], **options).cross_validation(
                *data, n_windows=5, step_size=3, level=[50], refit=refit
            )
            for data in ((before, X[:N]), (after, x))
        )
        seen = one.cutoff <= origin
        assert seen.tolist() == [True, True, False, False, False]
        for a, b in zip(one[2:], other[2:], strict=True):
            np.testing.assert_array_equal(a[seen], b[seen])
            assert np.isfinite(a).all() and (a[~seen] != b[~seen]).any()

    def test_cross_validation_is_fit_update_and_predict(self, options):
        found = quick(**options).cross_validation(gaps(), n_windows=3, step_size=5, level=[50])
        by_hand = quick(**options).fit(gaps()[: found.cutoff[0]])
        for k, cutoff in enumerate(found.cutoff):
            if k:
                by_hand.update(gaps()[found.cutoff[k - 1] : cutoff])
            for ours, theirs in zip(by_hand.predict(level=[50]), found[2:], strict=True):
                np.testing.assert_allclose(ours, theirs[k], rtol=1e-12)

    def test_updates_in_pieces_are_one_update(self, options):
        y, fitted = gaps(), quick(past_covariates=[0], **options).fit(gaps()[:110], X[:110])
        whole = copy.deepcopy(fitted).update(y[110:], X[110:N])
        pieces = copy.deepcopy(fitted)
        for first, last in itertools.pairwise([110, 115, 116, 150, N]):
            pieces.update(y[first:last], X[first:last])
        ahead = X[N : N + 6]
        np.testing.assert_array_equal(numbers_of(whole.predict(6, X=ahead, level=[50])),
                                      numbers_of(pieces.predict(6, X=ahead, level=[50])))  # fmt: skip
        joined = fitted.predict(6, X=X[: N + 6], context=y)
        np.testing.assert_array_equal(whole.predict(6, X=ahead), joined)

    def test_the_first_steps_are_those_of_a_longer_forecast(self, options):
        fitted = quick(**options).fit(Y[:N])
        longest = fitted.predict(10, level=[50])
        np.testing.assert_array_equal(fitted.predict(7), longest.forecast[:7])
        for h in (1, 4):  # beyond the horizon intervals are of the errors of so many steps
            for long, short in zip(longest, fitted.predict(h, level=[50]), strict=True):
                np.testing.assert_array_equal(long[:h], short)


class TestSeries:
    def test_contexts_bring_no_static_covariates_or_bring_them(self):
        data = Data("long", "dict")
        fitted = data.fit()
        rows, expected = data.steps(100, N)[0], fitted.predict(X=data.ahead(N, N + 4))
        found = fitted.predict(X=data.ahead(N, N + 4), context=rows)
        np.testing.assert_array_equal(found["RNNForecaster"], expected["RNNForecaster"])
        new = rows | {"unique_id": np.where(rows["unique_id"] == "a", "c", "b").astype(object)}
        ahead = data.ahead(N, N + 4)
        ahead["unique_id"] = np.where(ahead["unique_id"] == "a", "c", "b").astype(object)
        fitted = data.fit(series_embedding=None)
        with pytest.raises(
            ValueError, match="the id 'c' was not in fit and has no static covariates; expected 'size'"
        ):
            fitted.predict(X=ahead, context=new)
        both = rows | {"size": np.ones(160), "kind": np.ones(160)}
        fitted = quick(static_covariates=["size", "kind"], **data.options).fit(both)
        del both["kind"]
        with pytest.raises(ValueError, match="static_covariates names the column 'kind'; y has"):
            fitted.predict(X=data.ahead(N, N + 4), context=both)
        with pytest.raises(ValueError, match="static was None; expected the static covariates 'size'"):
            quick(static_covariates=["size"]).fit(Y)

    def test_contexts_of_different_lengths_with_covariates(self):
        data = Data("list")
        fitted = data.fit()
        together = fitted.predict(X=[X[:104], X[50:104]], context=[Y[:100, 0], Y[50:100, 1]])
        same = fitted.predict(X=[X[50:104]] * 2, context=[Y[50:100, 0], Y[50:100, 1]])
        np.testing.assert_array_equal(together, same)

    @pytest.mark.parametrize("past", [[], ["c"]])
    def test_arrays_after_a_fit_on_a_frame(self, past):
        """Columns of an array: past covariates, then those of the future, in the order of their names."""
        rng = np.random.default_rng(1)
        frame = pd.DataFrame({"ds": DAYS[: N + 4], **{name: rng.normal(size=N + 4) for name in "zcay"}})
        columns = [*past, "z", "a"]
        known, ahead = frame[["ds", "y", *columns]][:N], frame[["ds", "z", "a"]][N:]
        fitted = quick(past_covariates=past, future_covariates=["z", "a"]).fit(known)
        expected = fitted.predict(X=ahead)["RNNForecaster"]
        alone = fitted.predict(X=ahead[["z", "a"]].to_numpy())["RNNForecaster"]
        np.testing.assert_array_equal(alone, expected)
        x, y = frame[columns].to_numpy()[N - 20 :], known["y"].to_numpy()[N - 20 :]
        np.testing.assert_array_equal(fitted.predict(X=x[20:])["RNNForecaster"], expected)
        np.testing.assert_array_equal(fitted.predict(X=x, context=y), expected)
        several = fitted.predict(X=np.stack([x, x]), context=np.stack([y, y])[..., np.newaxis])
        np.testing.assert_array_equal(several, np.stack([expected, expected])[..., np.newaxis])

    def test_a_list_of_windows_of_one_series(self):
        fitted = quick(normalize="standard").fit(Y[:N, 0])
        windows = [Y[: N - 50, 0], Y[60:90, 0], Y[80:90, 0]]
        for window, found in zip(windows, fitted.predict(context=windows), strict=True):
            np.testing.assert_array_equal(found, fitted.predict(context=window))

    def test_a_table_of_covariates_beside_an_array(self):
        fitted = [
            quick().fit(Y[:150, 0], kind(X[:N]), validation=Y[150:N, 0]).predict(X=X[N : N + 4])
            for kind in (np.asarray, pd.DataFrame)
        ]
        np.testing.assert_array_equal(*fitted)

    @pytest.mark.parametrize("multivariate", ["independent", "joint"])
    def test_paths_of_channels_belong_together(self, multivariate):
        walk = np.random.default_rng(0).normal(size=400).cumsum()
        fitted = quick(multivariate=multivariate).fit(np.stack([walk, -walk], axis=1))
        paths = fitted.sample_paths(300)
        assert np.corrcoef(paths[:, 3, 0], paths[:, 3, 1])[0, 1] < -0.9

    def test_paths_of_a_series_with_holes(self):
        holes = np.where(np.random.default_rng(0).random(N) < 0.3, np.nan, Y[:N, 0])
        assert np.isfinite(quick().fit(holes).sample_paths(20)).all()

    @pytest.mark.parametrize("options", [{}, {"decoder": "recursive"}, {"quantiles": [0.1, 0.9]}], ids=str)
    def test_what_is_missing_at_the_end_is_forecast_too(self, options):
        fitted = quick(**options).fit(Y[:N])
        late, usual = Y[100:N].copy(), Y[100 : N - 3].copy()
        late[-3:, 1] = np.nan
        expected = fitted.predict(7, context=usual, level=80)
        found = fitted.predict(4, context=late, level=80)
        np.testing.assert_array_equal(found.forecast[:, 1], expected.forecast[3:, 1])
        np.testing.assert_array_equal(found.forecast[:, 0], fitted.predict(context=Y[100:N])[:, 0])
        width, before = found.upper - found.lower, fitted.predict(4, context=usual, level=80)
        assert (width[0, 1] >= (before.upper - before.lower)[0, 1]).all()
        assert np.isfinite(fitted.sample_paths(3, context=late)).all()

    @pytest.mark.parametrize("options", [{}, {"decoder": "recursive"}, {"multivariate": "joint"}], ids=str)
    def test_an_end_that_is_missing_for_longer_than_a_context(self, options):
        """It is gone through from the last observed value on, also when that came in an earlier update."""
        fitted = quick(**options).fit(Y[:N])
        gap = fitted.context_length_ + 9
        expected = fitted.predict(gap + 4)[gap:]
        nothing = np.full((gap, 2), np.nan)
        for found in (
            fitted.predict(context=np.concatenate([Y[:N], nothing])),
            fitted.update(nothing[:5]).update(nothing[5:]).predict(),
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-6)
        later = fitted.update(Y[N : N + 1]).predict()
        assert np.isfinite(later).all() and not np.isnan(fitted.history_.values).all()

    @pytest.mark.parametrize("pieces", [[100], [101], [101, 105], [50, 101, 102, 103, 104, 110]], ids=str)
    def test_intervals_after_a_long_gap_do_not_hang_on_how_the_data_came(self, pieces):
        y = np.concatenate([Y[:N], np.full((100, 2), np.nan), Y[N : N + 40]])
        whole, parts = (quick(validation_fraction=0.1).fit(Y[:N]) for _ in range(2))
        whole.update(y[N:])
        for part in np.split(y[N:], pieces):
            parts.update(part)
        for each, other in zip(whole.conformal_._history, parts.conformal_._history, strict=True):
            np.testing.assert_allclose(each, other, rtol=1e-5)
        expected, found = (each.predict(7, level=50).upper for each in (whole, parts))
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    def test_gaps_longer_than_a_context_are_none_that_the_network_knows(self):
        y = np.where(np.arange(240) % 24 < 14, np.nan, Y[:240, 0])
        fitted = quick().fit(y)
        fitted.model_ = replace(fitted.model_, usual_gap=40)
        long = np.append(Y[:240, 0], np.full(20, np.nan))
        expected = fitted.predict(24, context=Y[:240, 0])[20:]
        np.testing.assert_allclose(fitted.predict(context=long), expected, rtol=1e-6)

    def test_quantiles_without_a_part_held_out_are_there_within_the_horizon(self):
        fitted = quick(quantiles=[0.1, 0.9], early_stopping=False).fit(Y[:N])
        late = np.where(np.arange(80)[:, np.newaxis] < 77, Y[100:N], np.nan)
        assert np.isfinite(fitted.predict(context=late, level=80).upper).all()
        with pytest.raises(ValueError, match="intervals need errors of forecasts of a part held out"):
            fitted.predict(7, level=80)

    def test_paths_are_as_wide_as_each_channel_is_late(self):
        walk = np.random.default_rng(0).normal(size=(400, 2)).cumsum(axis=0)
        fitted, late = quick().fit(walk), walk[300:].copy()
        late[-3:, 1] = np.nan
        spread = fitted.sample_paths(400, context=late).std(axis=0) / fitted.sample_paths(400).std(axis=0)
        np.testing.assert_allclose(spread[:, 0], 1, rtol=1e-6)
        assert spread[0, 1] > 1.2

    def test_covariates_of_steps_that_are_missing_at_the_end(self):
        data = Data("list")
        fitted = data.fit()
        late = Y[100:N, 0].copy()
        late[-2:] = np.nan
        found = fitted.predict(3, X=[X[100 : N + 3]], context=[late])
        expected = fitted.predict(5, X=[X[100 : N + 3]], context=[late[:-2]])
        np.testing.assert_array_equal(found[0], expected[0][2:])

    def test_gaps_that_training_has_often_are_left_to_the_network(self):
        holes = Y[:N, 0].copy()
        holes[::4] = np.nan
        fitted = quick().fit(holes)
        assert fitted.model_.usual_gap == 1
        assert quick().fit(np.where(np.arange(N) // 20 == 4, np.nan, Y[:N, 0])).model_.usual_gap == 0

    def test_the_calendar_is_known_beyond_the_end(self):
        """So forecasts of the part held out count whose truth is known in part, as without a calendar."""
        months = pd.date_range("2014-01", periods=84, freq="MS")
        table = pd.DataFrame({"ds": months, "y": np.sin(np.arange(84) * np.pi / 6) + np.arange(84) / 30})
        counts = []
        for calendar in (None, "auto"):
            fitted = quick(horizon=6, calendar=calendar, validation_fraction=0.3).fit(table[:-12])
            assert fitted.predict(level=80).notna().all(axis=None)
            counts.append(np.isfinite(fitted.conformal_._history[0]).sum(axis=0).tolist())
            again = fitted.update(table[-12:-6]).update(table[-6:])
            counts.append(np.isfinite(again.conformal_._history[0]).sum(axis=0).tolist())
        assert counts[:2] == counts[2:]

    def test_constants_do_not_depend_on_the_unit(self):
        series = [Y[:N, 0], np.full(N, 20.0), np.zeros(N)]
        one, other = (quick(dtype="float64").fit([u * s for s in series]).predict() for u in (1, 2.0**-20))
        np.testing.assert_allclose(np.stack(other) * 2.0**20, np.stack(one), rtol=1e-9, atol=1e-9)

    def test_importance_is_that_of_whole_covariates(self):
        data = Data("long", "dict")
        rows = data.steps(0, N)[0] | {"kind": np.repeat(["u", "v"], N)}
        fitted = quick(static_covariates=["kind"], calendar=["dayofweek"], **data.options).fit(rows)
        del rows["kind"]  # they are known
        names = [name for name in fitted.feature_importance(rows, n_repeats=1)["covariate"]]
        assert names[-2:] == ["dayofweek", "kind"]

    def test_periods_stay_periods(self):
        series = pd.Series(Y[:N, 0], pd.period_range("2000-01", periods=N, freq="M"))
        found = quick().cross_validation(series, n_windows=2)
        assert found["ds"].dtype == "period[M]" and found["cutoff"].dtype == "period[M]"

    def test_errors_of_a_new_series_are_in_its_own_unit(self):
        long = {"unique_id": np.repeat(["a", "b"], N), "y": np.concatenate([Y[:N, 0], 1e3 * Y[:N, 1]])}
        long["ds"] = np.tile(DAYS[:N], 2)
        fitted = quick(series_embedding=None, dtype="float64").fit(long)
        widths = []
        for unit in (1.0, 1e6):
            new = {"unique_id": np.repeat(["c"], N), "ds": DAYS[:N], "y": unit * Y[:N, 0]}
            table = fitted.predict(context=new, level=[80])
            paths = fitted.sample_paths(50, context=new)["RNNForecaster"]
            widths.append([table["RNNForecaster-hi-80"][0] - table["RNNForecaster-lo-80"][0], np.ptp(paths)])
        np.testing.assert_allclose(widths[1], 1e6 * np.array(widths[0]), rtol=1e-6)

    def test_importances_have_names_of_their_own(self):
        data = Data("list")
        fitted, (y, x) = data.fit(), data.steps(0, N)
        table = fitted.feature_importance(y, x, n_repeats=1)
        assert table["covariate"].tolist() == ["0", "1", "static 0"]
        with pytest.raises(ValueError, match="n_repeats was 0; expected an integer from 1"):
            fitted.feature_importance(y, x, n_repeats=0)

    def test_what_a_likelihood_scores_is_its_forecast(self):
        fitted = quick(decoder="recursive", loss="gaussian").fit(Y[:N])
        error = np.abs(fitted.predict() - Y[N : N + 4]).mean()
        assert fitted.score(Y[N : N + 4], metric="mae") == pytest.approx(error)

    def test_a_wide_frame_without_times(self):
        table = pd.DataFrame(Y[:N], columns=["a", "b"])
        found = quick().cross_validation(table, n_windows=2, level=[80])
        assert found["cutoff"].unique().tolist() == [172, 176]
        assert found["ds"][:8].tolist() == [173, 174, 175, 176, 177, 178, 179, 180]  # counted from 1
        with pytest.raises(ValueError, match="make_future needs times, and y had none"):
            quick().fit(table).make_future()

    def test_a_search_finds_the_smallest_error(self):
        search = GridSearchCV(
            quick(max_iter=6), {"learning_rate_init": [1e-6, 0.02]},
            scoring=lambda forecaster, y, _=None: -forecaster.score(y), cv=TimeSeriesSplit(2, test_size=8),
        )  # fmt: skip
        assert search.fit(Y).best_params_ == {"learning_rate_init": 0.02}


LONG = pd.DataFrame({"unique_id": np.repeat(["a", "b"], N), "ds": np.tile(DAYS[:N], 2), "y": Y[:N].T.ravel()})
NEXT = pd.DataFrame({"unique_id": ["a", "b"], "ds": DAYS[[N, N]], "y": [1.0, 2.0]})


def in_zone(frame, zone):
    return frame.assign(ds=frame["ds"].dt.tz_localize(zone))


def test_an_index_of_ids_is_a_column():
    expected = quick().fit(LONG).predict()
    static = pd.DataFrame({"size": [1.0, 2.0]}, pd.Index(["a", "b"], name="unique_id"))
    pd.testing.assert_frame_equal(quick().fit(LONG.set_index("unique_id")).predict(), expected)
    fitted = quick().fit(LONG, static=static)
    pd.testing.assert_frame_equal(fitted.predict(), quick().fit(LONG, static=static.reset_index()).predict())


def test_lists_of_numbers_are_series_as_in_fit():
    fitted = quick().fit([Y[:N, 0], Y[:150, 1]])
    contexts = [Y[:30, 0].tolist(), Y[:30, 1].tolist()]
    found = fitted.predict(context=contexts)
    np.testing.assert_array_equal(found, fitted.predict(context=[Y[:30, 0], Y[:30, 1]]))
    fitted.update([[1.0, 2.0], [3.0, 4.0]])
    windows = Y[:40].reshape(2, 20, 2)[..., :1]  # an array's channels have an axis
    fitted = quick().fit([Y[:N, 0]])
    np.testing.assert_array_equal(fitted.predict(context=windows.tolist()), fitted.predict(context=windows))


class TestErrors:
    def test_what_is_no_count(self):
        counts = np.random.default_rng(0).poisson(5.0, 80).astype(float)
        options = {"decoder": "recursive", "loss": "negative_binomial"}
        fitted = quick(**options).fit(counts)
        for wrong in ([1.0, -1.0], [1.0, 0.5]):
            message = f"had the value {wrong[1]}; loss='negative_binomial' expects counts"
            for method in (quick(**options).fit, fitted.update, fitted.partial_fit):
                with pytest.raises(ValueError, match=f"^y {message}"):
                    method(np.append(counts, wrong))
            with pytest.raises(ValueError, match=f"^context {message}"):
                fitted.predict(context=np.append(counts, wrong))
        fitted.update([np.nan, 3.0])

    def test_what_contexts_and_covariates_must_have(self):
        fitted = quick().fit(Y[:N])
        with pytest.raises(ValueError, match="context has no observed value in the series 1; expected at"):
            fitted.predict(context=np.stack([Y[:30], np.full((30, 2), np.nan)]))
        with pytest.raises(ValueError, match="the column 0 of X was named twice"):
            quick(past_covariates=[0], future_covariates=[0, 1]).fit(Y[:N], X[:N])

    @pytest.mark.filterwarnings("ignore:.*has times at multiples of 24 steps")
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: quick().fit([Y[:80]] * 2, [X[:90]], validation=[Y[80:]] * 2),
             "^X was 1 arrays; expected a list of 2"),
            (lambda: quick().fit(Y[:80], X[:80], validation=Y[80:]), "^X had 80 rows; expected those of y"),
            (lambda: quick().fit(Y, X).predict(), "of the next 4 steps; X is an array of 4 rows"),
            (lambda: quick().fit(pd.DataFrame(Y[:N], DAYS[:N]), static=pd.DataFrame({"s": [1.0]})),
             "^static was a DataFrame; expected an array of shape .1, n_static., as y has no ids"),
            (lambda: quick(freq="h").fit(LONG[:60]), "horizon: 96% of all steps .frequency h. are missing"),
            (lambda: quick().fit(Y).sample_paths(3, random_state=-1), "^random_state was -1; expected"),
            (lambda: quick(future_covariates=["p"]).fit(LONG.assign(p=1.0).drop(index=7)),
             "'p' lacks 1 of 360 values.* expected one for every step, in y or in X"),
        ],
    )  # fmt: skip
    def test_what_does_not_fit_together(self, call, message):
        with pytest.raises((ValueError, TypeError), match=message):
            call()

    def test_values_beyond_the_dtype(self):
        fitted = quick().fit(Y[:N])
        for method in (fitted.update, lambda y: fitted.predict(context=y)):
            with pytest.raises(ValueError, match="the value 1e[+]300 is too far for float32 from those of"):
                method(np.full((3, 2), 1e300))
        assert np.isfinite(fitted.predict()).all()

    def test_texts_are_no_numbers(self):
        for library in LIBRARIES.values():
            with pytest.raises(TypeError, match="expected numbers"):
                quick().fit(library({"ds": DAYS[:N], "y": Y[:N, 0].astype(str)}))

    def test_too_much_held_out(self):
        message = r"was 0.99, which leaves less than 5 of 180 time steps .*; expected at most 0.97"
        with pytest.warns(UserWarning, match=f"^validation_fraction {message}: nothing is held out"):
            quick(validation_fraction=0.99).fit(Y[:N])
        with pytest.raises(ValueError, match=f"^validation {message}"):
            quick().fit(Y[:N], validation=0.99)

    def test_update_with_an_array_after_a_wide_frame(self):
        fitted = quick().fit(pd.DataFrame({"a": Y[:N, 0], "b": Y[:N, 1]}))
        with pytest.raises(ValueError, match="^y was a ndarray; expected a wide frame, as in fit"):
            fitted.update(np.zeros(2))

    @pytest.mark.parametrize(
        ("level", "message"),
        [(0.8, "level was 0.8; expected .*: percent, from 1"), ("a", "^level had dtype"),
         ([80, np.nan], "level was"), ([], "level was"), ([[80]], "level was")],
    )  # fmt: skip
    def test_level(self, level, message):
        with pytest.raises((ValueError, TypeError), match=message):
            quick().fit(Y).predict(level=level)

    def test_quantiles_that_are_no_numbers(self):
        with pytest.raises(TypeError, match="^quantiles had dtype"):
            quick(quantiles=["low"]).fit(Y)
        with pytest.raises(TypeError, match="^quantiles had dtype"):
            quick().fit(Y).predict_quantiles("low")

    @pytest.mark.parametrize(
        "call",
        [lambda f: f.predict(X=np.ones((4, 1))), lambda f: f.update(Y[:2], np.ones((2, 1))),
         lambda f: f.predict(context=Y[:20], X=np.ones((24, 1))), lambda f: f.score(Y[:4], np.ones((4, 1)))],
    )  # fmt: skip
    def test_covariates_that_nobody_asked_for(self, call):
        with pytest.raises(ValueError, match="X was given, but fit had neither past nor known-future"):
            call(quick().fit(Y))

    @pytest.mark.parametrize("options", [{"future_covariates": ["y"]}, {"static_covariates": ["unique_id"]},
                                         {"past_covariates": ["p"], "future_covariates": ["p"]}])  # fmt: skip
    def test_columns_of_two_roles(self, options):
        with pytest.raises(ValueError, match="was named twice; expected it to be one of id, time"):
            quick(**options).fit(LONG.assign(p=1.0))

    @pytest.mark.parametrize(("zone", "other"), [(None, "Asia/Tokyo"), ("Europe/Berlin", None),
                                                 ("Europe/Berlin", "UTC")])  # fmt: skip
    def test_zones(self, zone, other):
        fitted = quick().fit(in_zone(LONG, zone) if zone else LONG)
        here, there = (f"the zone {each}" if each else "no zone" for each in (other, zone))
        with pytest.raises(ValueError, match=f"the times 'ds' of y have {here}; expected {there}, as"):
            fitted.update(in_zone(NEXT, other) if other else NEXT)
        fitted.update(in_zone(NEXT, zone) if zone else NEXT)

    def test_frames_that_are_no_table_of_columns(self):
        with pytest.raises(ValueError, match="y has a MultiIndex; expected columns, as reset_index"):
            quick().fit(LONG.set_index(["unique_id", "ds"]))
        with pytest.raises(TypeError, match="'day' of y had .* \\(time_col='day' makes it"):
            quick().fit(pd.DataFrame({"day": LONG["ds"].astype(str), "y": LONG["y"]}))

    def test_whatever_fails_leaves_the_forecaster_as_it_was(self):
        def interrupt(info):
            raise KeyboardInterrupt

        fitted = quick().fit(Y[:N])
        before, state = numbers_of(fitted.predict(level=[50])), dict(vars(fitted))
        bad = [np.ones((4, 3)), np.full((4, 2), np.inf), "words", np.ones(4)]
        for method, y in itertools.product((fitted.update, fitted.partial_fit, fitted.score), bad):
            with pytest.raises((ValueError, TypeError)):
                method(y)
        fitted.callbacks = interrupt
        for method in (fitted.fit, fitted.partial_fit, fitted.cross_validation):
            with pytest.raises(KeyboardInterrupt):
                method(Y[:100])
        fitted.callbacks = None
        assert vars(fitted) == state
        np.testing.assert_array_equal(numbers_of(fitted.predict(level=[50])), before)
