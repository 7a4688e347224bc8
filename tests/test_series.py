"""Every form of the same series is read to the same numbers, and answered in its own form."""

import pickle
import sys
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest

from numbarnn.forecasting.native import Backend, frame_of
from numbarnn.forecasting.series import (
    Columns,
    Form,
    context_form,
    read,
    read_contexts,
    read_future,
    write,
)  # fmt: skip

LENGTHS = [7, 4, 12]
IDS = ["b", "a", "c"]
ARRAYS = ("values", "offsets", "starts", "past", "future", "static")
LIBRARIES = {"dict": dict, "pandas": pd.DataFrame, "polars": pl.DataFrame}
BOTH = Columns(past=("load",), future=("price",))


def assert_same(ours, theirs, *, times=True, names=True):
    for name in ARRAYS:
        a, b = getattr(ours, name), getattr(theirs, name)
        assert times is False and name == "starts" or (a is None) == (b is None), name
        if a is not None and b is not None:
            np.testing.assert_array_equal(a, b)
    assert ours.n_channels == theirs.n_channels
    if names:
        assert (ours.ids, ours.channels, ours.names) == (theirs.ids, theirs.channels, theirs.names)
        assert ours.frequency == theirs.frequency


def plain(columns):
    """Columns as lists."""
    return {key: np.asarray(values).tolist() for key, values in columns.items()}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def series(rng):
    return [rng.normal(size=n) for n in LENGTHS]


@pytest.fixture
def long(series, rng):
    """Columns of a long frame with covariates; each series begins on another day."""
    days = [np.datetime64("2024-02-20") + 3 * i + np.arange(n) for i, n in enumerate(LENGTHS)]
    n = sum(LENGTHS)
    return {
        "unique_id": np.repeat(IDS, LENGTHS).astype(object), "ds": np.concatenate(days).astype("M8[us]"),
        "y": np.concatenate(series), "load": rng.normal(size=n), "price": rng.normal(size=n),
    }  # fmt: skip


@pytest.fixture
def wide(rng):
    hours = np.datetime64("2024-03-01T00", "us") + np.arange(30) * np.timedelta64(1, "h")
    return {"ds": hours, "north": rng.normal(size=30), "south": rng.normal(size=30)}


def rows_of(columns, chosen):
    return {key: values[chosen] for key, values in columns.items()}


class TestArrays:
    def test_vector_is_a_view(self):
        y = np.arange(5.0)
        data, form = read(y)
        assert np.shares_memory(data.values, y) and form.kind == "vector"
        assert np.shares_memory(data.cut([3]).tail(2).row(0), y)

    @pytest.mark.parametrize("make", [list, tuple, np.float32, np.array, pd.Series, pl.Series])
    def test_forms_of_a_vector(self, make):
        data, form = read(make([1.0, 2.0, 4.0]))
        assert data.values.tolist() == [1, 2, 4] and data.values.dtype == np.float64 and form.kind == "vector"

    def test_matrix_and_list(self, rng):
        y = [rng.normal(size=(n, 2)) for n in LENGTHS]
        data, form = read(y)
        assert form.kind == "list" and data.n_rows == 6
        for r in range(6):
            np.testing.assert_array_equal(data.row(r), y[r // 2][:, r % 2])
        one, form = read(y[0])
        assert form.kind == "matrix"
        np.testing.assert_array_equal(one.row(1), y[0][:, 1])
        assert_same(read(np.asfortranarray(y[0]))[0], one)
        assert_same(read(y[0].tolist())[0], one)

    def test_missing_values(self):
        assert read([1.0, None, 3.0])[0].has_missing and not read([1, 2])[0].has_missing
        masked = np.ma.masked_array([1.0, 2.0], [False, True])
        assert np.isnan(read(masked)[0].values[1])

    def test_covariates(self, rng):
        X = rng.normal(size=(6, 3))
        data, form = read(np.arange(6.0), X)
        np.testing.assert_array_equal(data.future, X)
        data, form = read(np.arange(6.0), X, options=Columns(past=(1,)))
        np.testing.assert_array_equal(data.past, X[:, [1]])
        np.testing.assert_array_equal(data.future, X[:, [0, 2]])
        ahead = rng.normal(size=(4, 3))
        for given in (ahead, ahead[:, [0, 2]]):
            np.testing.assert_array_equal(read_future(given, data, 4, form)[0], ahead[:, [0, 2]])
        windows = rng.normal(size=(2, 5, 1))
        both = rng.normal(size=(2, 9, 3))
        context = read_contexts(windows, both, 1, form)
        np.testing.assert_array_equal(context.past, both[:, :5, [1]].reshape(10, 1))
        np.testing.assert_array_equal(read_future(both, context, 4, form, skip=5), both[:, 5:, [0, 2]])

    def test_covariates_of_one_context(self, rng):
        form = read(np.arange(6.0), rng.normal(size=(6, 2)))[1]
        X = rng.normal(size=(9, 2))
        for context in (np.arange(5.0), np.arange(5.0)[:, None]):
            data = read_contexts(context, X, 1, form)
            np.testing.assert_array_equal(data.future, X[:5])
            np.testing.assert_array_equal(read_future(X, data, 4, form, skip=5)[0], X[5:])

    def test_static(self):
        y = [np.arange(3.0), np.arange(4.0)]
        data, form = read(y, static=np.array([["x", 1], ["y", 2]], object))
        assert data.static.tolist() == [[1, 0, 1], [0, 1, 2]] and data.names.static == ("0=x", "0=y", 1)
        with pytest.raises(ValueError, match="static covariate 0 has the value 'z', which was not in fit"):
            read(y, static=np.array([["x", 1], ["z", 2]], object), form=form)

    @pytest.mark.parametrize("shape", [(5,), (5, 2), (3, 5, 2)])
    def test_contexts_and_their_answers(self, rng, shape):
        context = rng.normal(size=shape)
        C = shape[-1] if len(shape) > 1 else 1
        data = read_contexts(context, None, C, Form("matrix"))
        windows = context.reshape(-1, 5, C)
        for r in range(data.n_rows):
            np.testing.assert_array_equal(data.row(r), windows[r // C, :, r % C])
        answer = write(context_form(context, Form("matrix")), data, 5, {"RNNForecaster": windows})
        np.testing.assert_array_equal(answer, context)

    @pytest.mark.parametrize(
        "y, X, error, message",
        [
            (np.ones((2, 2, 2)), None, ValueError, r"^y had shape \(2, 2, 2\); expected"),
            ([], None, ValueError, "at least one time step"),
            (["a"], None, TypeError, "^y had dtype <U1; expected numbers"),
            ([[1, 2], 3], None, ValueError, "^y was no array"),
            ([1, np.inf], None, ValueError, "^y was inf at 1; expected finite"),
            ([np.nan, np.nan], None, ValueError, "^y has no observed value in the channel 0"),
            ([np.ones(2), np.ones((2, 2))], None, ValueError, r"^y\[1\] has 2 channels; expected 1"),
            ([np.ones(2), np.full(3, np.nan)], None, ValueError, "no observed value in the series 1"),
            (np.ones(3), np.ones(2), ValueError, r"^X had shape \(2, 1\); expected \(3, 1\)"),
            (np.ones(3), [1, np.nan, 2], ValueError, "covariate 0 lacks 1 of 3 values, the first at step 1"),
        ],
    )
    def test_errors(self, y, X, error, message):
        with pytest.raises(error, match=message):
            read(y, X)

    def test_errors_of_what_follows(self):
        data, form = read(np.arange(6.0), np.ones((6, 2)))
        with pytest.raises(ValueError, match=r"X was None; expected the known-future covariates 0, 1 of"):
            read_future(None, data, 3, form)
        with pytest.raises(ValueError, match=r"X had shape \(2, 2\); expected \(3, 2\)"):
            read_future(np.ones((2, 2)), data, 3, form)
        with pytest.raises(ValueError, match="X lacks 1 of 6 values"):
            read_future([[1, 2], [3, np.nan], [1, 1]], data, 3, form)
        with pytest.raises(ValueError, match="past_covariates names the column 2; expected numbers"):
            read(np.arange(6.0), np.ones((6, 2)), options=Columns(past=(2,)))
        with pytest.raises(ValueError, match="update was a list of arrays; expected an array, as in fit"):
            read([np.ones(3)], name="update", form=form)
        with pytest.raises(ValueError, match="update was a dict; expected a vector of data, as in fit"):
            read({"y": [1.0]}, name="update", form=form)
        with pytest.raises(ValueError, match="context has 1 channels; expected 2"):
            read_contexts(np.ones(4), None, 2, Form("matrix"))


class TestSeriesSet:
    @pytest.fixture
    def data(self, rng):
        return read([rng.normal(size=(n, 2)) for n in LENGTHS], [rng.normal(size=(n, 3)) for n in LENGTHS],
                    rng.normal(size=(3, 1)), Columns(past=(0,)))[0]  # fmt: skip

    def test_cut_and_append(self, data):
        assert_same(data.cut([3, 1, 12]).append(data.tail([4, 3, 0])), data)
        part = data.take([2, 0]).tail([2, 3])
        joined = data.cut([4, 4, 10]).append(part)
        assert_same(joined, data)

    def test_take_and_tail(self, data):
        some = data.take([2, 0, 2]).tail(5)
        assert some.lengths.tolist() == [5, 5, 5] and some.ids == (2, 0, 2)
        for j, i in enumerate([2, 0, 2]):
            for c in range(2):
                np.testing.assert_array_equal(some.row(2 * j + c), data.row(2 * i + c)[-5:])
        np.testing.assert_array_equal(some.static, data.static[[2, 0, 2]])
        np.testing.assert_array_equal(some.future[:5], data.future[-5:])

    def test_times_follow(self, long):
        data, _ = read(long, options=BOTH)
        last = [data.times(i, n - 2, 1)[0].item() for i, n in enumerate(LENGTHS)]
        assert data.tail(2).starts.tolist() == last
        np.testing.assert_array_equal(data.step_times(), long["ds"])
        assert_same(data.cut([3, 4, 5]).append(data.take([2, 0]).tail([7, 4]), "update"), data)
        assert_same(pickle.loads(pickle.dumps(data)), data)

    def test_what_does_not_follow(self, long):
        data, form = read(long, options=BOTH)
        early = data.cut([3, 3, 3])
        with pytest.raises(ValueError, match="at 2024-02-24 for the id 'b'; expected 2024-02-23, .*gap"):
            early.append(data.take([0]).tail(3))
        with pytest.raises(ValueError, match="update begins at 2024-02-20 for the id 'b'.* an overlap"):
            early.append(data)
        strange = long | {"unique_id": np.full(23, "x"), "ds": np.arange(23)}
        strange, _ = read(strange, options=BOTH)
        with pytest.raises(ValueError, match="update has the id 'x', .*; known are 'b', 'a', 'c'"):
            early.append(strange)
        with pytest.raises(ValueError, match="has 2 channels; expected 1"):
            read(np.ones(3))[0].append(read(np.ones((3, 2)))[0])


@pytest.mark.parametrize("library", LIBRARIES)
class TestLong:
    def test_same_as_arrays(self, library, long, series):
        before = {key: values.copy() for key, values in long.items()}
        frame = LIBRARIES[library](long)
        data, form = read(frame, options=BOTH)
        cut = np.cumsum(LENGTHS)[:-1]
        X = np.split(np.stack([long["load"], long["price"]], axis=1), cut)
        expected, _ = read(series, X, options=Columns(past=(0,)))
        assert_same(data, expected, times=False, names=False)
        assert data.ids == tuple(IDS) and data.names[:2] == (("load",), ("price",))
        assert str(data.frequency) == "D" and form.kind == "long"
        np.testing.assert_array_equal(data.step_times(), long["ds"])
        for key, values in before.items():
            np.testing.assert_array_equal(np.asarray(frame[key]), values)

    def test_rows_in_any_order_of_ids(self, library, long):
        order = np.argsort(long["ds"], kind="stable")
        order = order[np.argsort(order % 3, kind="stable")]
        order = order[np.argsort(long["ds"][order], kind="stable")]
        mixed, _ = read(LIBRARIES[library](rows_of(long, order)), options=BOTH)
        names = [long["unique_id"][r] for r in order]
        assert mixed.ids == tuple(dict.fromkeys(names))
        whole, _ = read(long, options=BOTH)
        assert_same(mixed.take([mixed.ids.index(i) for i in IDS]), whole)

    def test_covariates_of_their_own(self, library, long, rng):
        table = LIBRARIES[library]
        y = table({key: long[key] for key in ("unique_id", "ds", "y")})
        X = {key: long[key] for key in ("unique_id", "ds", "load", "price")}
        shuffled = rows_of(X, np.concatenate([np.arange(12, 23), np.arange(12)]))
        data, form = read(y, table(shuffled), options=BOTH)
        assert_same(data, read(long, options=BOTH)[0])
        data, form = read(y, table(shuffled), options=Columns(past=("load",)))
        assert form.columns.future == ("price",)

    def test_future_is_aligned(self, library, long, rng):
        data, form = read(LIBRARIES[library](long), options=BOTH)
        rows = write(form, data, 4, {})
        rows = {key: np.asarray(rows[key]) for key in ("unique_id", "ds")}
        rows["price"] = np.arange(12.0)
        order = rng.permutation(12)
        found = read_future(LIBRARIES[library](rows_of(rows, order)), data, 4, form)
        np.testing.assert_array_equal(found.ravel(), np.arange(12))
        fewer = LIBRARIES[library](rows_of(rows, np.delete(order, [0, 5])))
        message = "X lacks 2 of 12 rows of .* unique_id='.', ds=2024-0.-..; make_future"
        with pytest.raises(ValueError, match=message):
            read_future(fewer, data, 4, form)
        with pytest.raises(ValueError, match="X lacks 2 of 12 rows .*; X goes on from the end of context"):
            read_future(fewer, data, 4, form, skip=data.lengths)
        rows["price"] = np.where(rows["price"] == 3, np.nan, rows["price"])
        message = "'price' of X was NaN in 1 of 12 rows, the first unique_id='b', ds=2024-03-01; expected"
        with pytest.raises(ValueError, match=message):
            read_future(LIBRARIES[library](rows), data, 4, form)

    def test_answer(self, library, long):
        frame = LIBRARIES[library](long)
        data, form = read(frame, options=BOTH)
        values = np.arange(6.0).reshape(3, 2, 1)
        answer = write(form, data, 2, {"RNNForecaster": values, "RNNForecaster-lo-80": values - 1})
        assert type(answer) is type(frame)
        names = list(answer.columns) if library != "dict" else list(answer)
        assert names == ["unique_id", "ds", "RNNForecaster", "RNNForecaster-lo-80"]
        assert np.asarray(answer["unique_id"]).tolist() == ["b", "b", "a", "a", "c", "c"]
        days = np.asarray(answer["ds"]).astype("M8[D]").astype(str).tolist()
        assert days == ["2024-02-27", "2024-02-28", "2024-02-27", "2024-02-28", "2024-03-09", "2024-03-10"]
        assert np.asarray(answer["RNNForecaster"]).tolist() == list(range(6))

    def test_answer_from_other_ends(self, library, long):
        data, form = read(LIBRARIES[library](long), options=BOTH)
        cutoffs = np.array(["2024-02-20", "2024-02-22"], "M8[us]")
        answer = write(form, data, 2, {"cutoff": cutoffs[:, None, None], "RNNForecaster": np.ones((2, 2, 1))},
                       series=[0, 0], ends=[1, 3])  # fmt: skip
        days = [np.asarray(answer[key]).astype("M8[D]").astype(int) - 19773 for key in ("ds", "cutoff")]
        assert [d.tolist() for d in days] == [[1, 2, 3, 4], [0, 0, 2, 2]]

    def test_gaps_become_missing_values(self, library, long):
        kept = np.delete(np.arange(23), [2, 3, 20])
        options = Columns()
        bare = {key: long[key] for key in ("unique_id", "ds", "y")}
        data, _ = read(LIBRARIES[library](rows_of(bare, kept)), options=options)
        expected, _ = read(bare, options=options)
        expected.values[[2, 3, 20]] = np.nan
        assert_same(data, expected)
        with pytest.raises(ValueError, match="past covariate 'load' lacks 3 of 23 values, the first at "
                                             "unique_id='b', ds=2024-02-22"):  # fmt: skip
            read(LIBRARIES[library](rows_of(long, kept)), options=BOTH)

    def test_null_is_missing(self, library):
        frame = LIBRARIES[library]({"ds": [1, 2, 3], "y": [1.0, None, 3.0]})
        data, form = read(frame)
        assert data.has_missing and form.columns.id is None
        answer = write(form, data, 2, {"RNNForecaster": np.ones((1, 2, 1))})
        assert plain({key: answer[key] for key in ("ds", "RNNForecaster")}) == {
            "ds": [4, 5], "RNNForecaster": [1.0, 1.0]}  # fmt: skip

    def test_static(self, library, long):
        table = LIBRARIES[library]
        bare = {key: long[key] for key in ("unique_id", "ds", "y")}
        static = table({"unique_id": ["a", "b", "c"], "size": [1, 2, 3], "kind": ["x", "y", "x"]})
        data, _ = read(table(bare), static=static)
        assert data.static.tolist() == [[2, 0, 1], [1, 1, 0], [3, 1, 0]]
        assert data.names.static == ("size", "kind=x", "kind=y")
        inside = table(bare | {"size": np.repeat([2, 1, 3], LENGTHS)})
        assert read(inside, options=Columns(static=("size",)))[0].static.tolist() == [[2], [1], [3]]
        for values in (np.array([np.nan, 1, 3]), np.array([None, "x", "y"], object)):
            lacks = table(bare | {"size": np.repeat(values, LENGTHS)})
            with pytest.raises(ValueError, match="static covariate 'size' lacks 1 of 3 values"):
                read(lacks, options=Columns(static=("size",)))
        with pytest.raises(ValueError, match="static lacks 1 of 3 ids, the first 'a'"):
            read(table(bare), static=table({"unique_id": ["b", "c"], "size": [1, 2]}))
        with pytest.raises(ValueError, match="names 'load', which changes inside the id 'b'"):
            read(table(bare | {"load": long["load"]}), options=Columns(static=("load",)))

    def test_errors(self, library, long):
        table = LIBRARIES[library]
        bare = {key: long[key] for key in ("unique_id", "ds", "y")}
        with pytest.raises(ValueError, match="unique_id='b', ds=2024-02-21 is there twice"):
            read(table(rows_of(bare, [0, 1, 1, 2])))
        with pytest.raises(ValueError, match="unique_id='a', ds=2024-02-23 comes after 2024-02-24"):
            read(table(rows_of(bare, [0, 1, 8, 7])))
        with pytest.raises(ValueError, match="unique_id='b', ds=2024-02-21, which lies between two steps"):
            read(table(bare), options=Columns(freq="2D"))
        with pytest.raises(ValueError, match="freq was 1, but 'ds' has dates"):
            read(table(bare), options=Columns(freq=1))
        with pytest.raises(ValueError, match="expected freq to be given"):
            read(table(rows_of(bare, [0])))
        with pytest.raises(ValueError, match="y has the ids 'unique_id' but no column 'value'"):
            read(table(bare), options=Columns(target="value"))
        with pytest.raises(ValueError, match="y has the ids 'unique_id' but no column 'ds'"):
            read(table({key: bare[key] for key in ("unique_id", "y")}))
        with pytest.raises(ValueError, match="future_covariates names the column 'wind'; y has"):
            read(table(bare), options=Columns(future=("wind",)))
        with pytest.raises(TypeError, match="the column 'y' of y had (dtype|the text)"):
            read(table(bare | {"y": bare["unique_id"]}))
        with pytest.raises(ValueError, match="'unique_id' have missing values"):
            read(table(bare | {"unique_id": np.array([None] + bare["unique_id"].tolist()[1:], object)}))
        with pytest.warns(UserWarning, match="columns that are not used: 'load', 'price'"):
            read(table(long))

    def test_update_goes_on(self, library, long):
        table = LIBRARIES[library]
        data, form = read(table(long), options=BOTH)
        early, form = read(table(rows_of(long, [0, 1, 2, 7, 8, 11, 12, 13])), options=BOTH)
        later = rows_of(long, [14, 3])  # one row a series: no frequency can be found in it
        update, _ = read(table(later), name="update", form=form)
        joined = early.append(update)
        assert joined.lengths.tolist() == [4, 2, 4] and joined.row(2)[-1] == long["y"][14]


def test_lists_of_unequal_lengths_are_series():
    data, form = read([[1.0, 2, 3], [4.0, 5]])
    assert form.kind == "list" and data.lengths.tolist() == [3, 2]
    assert read([[1.0, 2], [4.0, 5]])[1].kind == "matrix"
    with pytest.raises(ValueError, match=r"y\[0\] was no array"):
        read([[[1.0, 2], [3.0]], [[1.0, 2]]])


class TestGaps:
    DAYS = np.datetime64("2024-01-01", "us") + np.arange(10) * np.timedelta64(1, "D")

    def test_one_wrong_time(self):
        wrong = {"ds": np.append(self.DAYS, np.datetime64("2204-01-01")), "y": np.ones(11)}
        for freq in ("s", "D", None):
            with pytest.raises(ValueError, match="ds.* has more gaps than times: .* only 11"):
                read(wrong, options=Columns(freq=freq))
        _, form = read({"ds": self.DAYS, "y": np.ones(10)})
        with pytest.raises(ValueError, match="'ds' of update has more gaps than times: of .* only 11 are"):
            read(wrong, name="update", form=form, n_known=500)
        with pytest.raises(ValueError, match="'ds' of context has more gaps than times"):
            read_contexts(wrong, None, 1, form)

    @pytest.mark.parametrize(("times", "freq", "stride", "suits"), [
        (DAYS, "h", 24, "24h"), (DAYS[[0, 2, 8]], "D", 2, "2D"), (DAYS[[0, 3, 8]], "D", None, None),
        ([5, 8, 14], 1, 3, "3"),
    ])  # fmt: skip
    def test_a_frequency_that_is_too_fine(self, times, freq, stride, suits):
        frame = {"ds": times, "y": np.ones(len(times))}
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            read(frame, options=Columns(freq=freq))
        texts = [str(each.message).partition(" has ")[2] for each in found]
        assert texts == [
            f"times at multiples of {stride} steps of the frequency {freq} alone: all others count as "
            f"missing; expected freq to be {suits}"
        ] * (stride is not None)

    def test_sparse_data(self):
        sparse = {"ds": self.DAYS[[0, 4, 9]], "y": [1.0, 3.0, 2.0]}
        data, form = read(sparse, options=Columns(freq="D"))
        assert data.lengths.tolist() == [10]
        assert read(sparse, form=form, n_known=5)[0].lengths.tolist() == [10]  # beside a history


class TestNames:
    @pytest.mark.parametrize("name", ["RNNForecaster", "RNNForecaster-lo-80", "cutoff", "sample"])
    @pytest.mark.parametrize("role", ["id", "time", "target"])
    def test_columns_that_answers_have_besides(self, name, role):
        options = Columns()._replace(**{role: name})
        columns = {options.id: ["a", "a"], options.time: [1, 2], options.target: [1.0, 2.0]}
        if (role, name) == ("target", "sample"):  # paths have no truth beside them
            read(columns, options=options)
            return
        with pytest.raises(ValueError, match=f"the column '{name}' has a name that forecasts .* rename it"):
            read(columns, options=options)

    def test_channels_and_their_bounds(self):
        read({"ds": [1, 2], "a": [1, 2], "b-lo-80": [1, 2], "sample": [1, 2], "RNNForecaster": [1, 2]})
        with pytest.raises(ValueError, match="the column 'a-lo-80' has a name .* rename it"):
            read({"ds": [1, 2], "a": [1, 2], "a-lo-80": [1, 2]})
        with pytest.raises(ValueError, match="the column 'unique_id' has a name .* rename it"):
            read({"unique_id": [1, 2], "a": [1, 2]}, options=Columns(id="key", time="unique_id"))


@pytest.mark.parametrize("library", LIBRARIES)
class TestWide:
    def test_same_as_array(self, library, wide):
        frame = LIBRARIES[library](wide)
        data, form = read(frame)
        expected, _ = read(np.stack([wide["north"], wide["south"]], axis=1))
        assert_same(data, expected, times=False, names=False)
        assert data.channels == ("north", "south") and form.kind == "wide" and str(data.frequency) == "h"
        values = np.arange(4.0).reshape(1, 2, 2)
        answer = write(form, data, 2, {"RNNForecaster": values, "RNNForecaster-lo-80": values - 1})
        assert type(answer) is type(frame)
        columns = list(answer.columns) if library != "dict" else list(answer)
        assert columns == ["ds", "north", "south", "north-lo-80", "south-lo-80"]
        assert np.asarray(answer["south"]).tolist() == [1, 3]
        assert np.asarray(answer["ds"])[0].astype("M8[h]") == np.datetime64("2024-03-02T06")
        tall = write(form, data, 2, {"y": values, "RNNForecaster": values}, long=True)
        assert np.asarray(tall["unique_id"]).tolist() == ["north", "north", "south", "south"]
        assert np.asarray(tall["y"]).tolist() == [0, 2, 1, 3]

    def test_gaps_and_covariates(self, library, wide):
        kept = np.delete(np.arange(30), 4)
        X = {"ds": wide["ds"], "price": np.arange(30.0)}
        data, form = read(LIBRARIES[library](rows_of(wide, kept)), LIBRARIES[library](X))
        assert np.isnan(data.row(0)[4]) and np.isnan(data.row(1)[4]) and data.future[4, 0] == 4
        ahead = write(form, data, 3, {})
        ahead = {"ds": np.asarray(ahead["ds"]), "price": [1.0, 2.0, 3.0]}
        assert read_future(LIBRARIES[library](ahead), data, 3, form).ravel().tolist() == [1, 2, 3]

    def test_without_times(self, library, wide):
        bare = LIBRARIES[library]({key: wide[key] for key in ("north", "south")})
        data, form = read(bare)
        assert data.starts is None and data.channels == ("north", "south")
        answer = write(form, data, 2, {"RNNForecaster": np.ones((1, 2, 2))})
        assert type(answer) is type(bare) and np.asarray(answer["south"]).tolist() == [1, 1]

    def test_errors(self, library, wide):
        table = LIBRARIES[library]
        with pytest.raises(TypeError, match=r"the column 'ds' of y .* numbers \(time_col='ds' makes"):
            read(table(wide), options=Columns(time="date"))
        with pytest.raises(TypeError, match="the column 'kind' of y"):
            read(table(wide | {"kind": np.full(30, "x", object)}))
        with pytest.raises(ValueError, match="no observed value in the channel 'south'"):
            read(table(wide | {"south": np.full(30, np.nan)}))


class TestLibraries:
    @pytest.mark.parametrize("freq", ["h", "15min", "D", "B", "W-SUN", "MS", "ME", "QE"])
    def test_index_of_times(self, freq):
        index = pd.date_range("2024-01-31", periods=40, freq=freq, name="when")
        series = pd.Series(np.arange(30.0), index[:30], name="sales")
        data, form = read(series)
        answer = write(form, data, 10, {"RNNForecaster": np.ones((1, 10, 1))})
        expected = pd.Series(np.ones(10), index[30:], name="sales")
        pd.testing.assert_series_equal(answer, expected, check_freq=False, check_index_type=False)
        frame = series.to_frame()
        answer = write(read(frame)[1], data, 10, {"RNNForecaster": np.ones((1, 10, 1))})
        pd.testing.assert_frame_equal(answer, expected.to_frame(), check_freq=False, check_index_type=False)
        assert "ds" not in frame

    def test_index_of_whole_numbers(self):
        series = pd.Series(np.arange(20.0), pd.RangeIndex(10, 50, 2, name="week"), name="sales")
        holes = series.drop(index=[16, 18])
        data, form = read(holes)
        assert np.flatnonzero(np.isnan(data.values)).tolist() == [3, 4] and data.starts.tolist() == [10]
        answer = write(form, data, 2, {"RNNForecaster": np.ones((1, 2, 1))})
        expected = pd.Series([1.0, 1.0], pd.Index([50, 52], name="week"), name="sales")
        pd.testing.assert_series_equal(answer, expected)
        later, _ = read(pd.Series([7.0, 8.0], [50, 54], name="sales"), form=form)
        np.testing.assert_array_equal(data.append(later).values[-3:], [7, np.nan, 8])
        table = holes.to_frame().assign(price=1.0)
        data, form = read(table, options=Columns(future=("price",)), X=series.to_frame("price"))
        assert data.future.ravel().tolist() == list(range(20))
        ahead = pd.DataFrame({"price": [1.0, 2.0]}, write(form, data, 2, {}).index)
        assert read_future(ahead, data, 2, form).ravel().tolist() == [1, 2]
        with pytest.raises(ValueError, match="times are not sorted: ds=10 comes after 14"):
            read(series.iloc[[2, 0, 1]])
        with pytest.raises(ValueError, match="ds=12 is there twice"):
            read(series.iloc[[0, 1, 1]])
        long = pd.DataFrame({"ds": [1, 2], "y": [1.0, 2.0]}, index=[7, 5])
        assert read(long)[0].starts.tolist() == [1]

    def test_holes_in_an_index_that_begins_at_0(self):
        series = pd.Series([0.0, 1, np.nan, 3, 4])
        whole, form = read(series)
        assert form.kind == "vector"
        dropped, _ = read(series.dropna())
        np.testing.assert_array_equal(dropped.values, whole.values)
        for y in (pd.Series([5.0, 8], [5, 8]), series.iloc[[0, 1, 3]].set_axis([5, 6, 8])):
            later, _ = read(y, form=form, name="update")
            assert later.n_series == 1 and np.isnan(later.values).sum() == (len(y) == 3)
        with pytest.raises(ValueError, match="the index of update is not sorted: 5 comes after 6; expected"):
            read(pd.Series([5.0, 8], [6, 5]), form=form, name="update")
        listed, form = read([series, series.dropna()])
        np.testing.assert_array_equal(listed.row(0), listed.row(1))
        _, form = read(pd.DataFrame({"a": np.arange(9.0)}))
        later, _ = read(pd.DataFrame({"a": np.ones(3)}, [9, 10, 12]), form=form)
        assert later.starts is None and np.isnan(later.values).tolist() == [False, False, True, False]
        assert read_contexts(series.iloc[[0, 1, 3]], None, 1, read(series)[1]).lengths.tolist() == [4]

    @pytest.mark.parametrize("freq", ["M", "Q", "W-WED", "D", "h"])
    def test_periods(self, freq):
        index = pd.period_range("2024-01", periods=20, freq=freq)
        data, form = read(pd.DataFrame({"a": np.arange(15.0)}, index[:15]))
        answer = write(form, data, 5, {"RNNForecaster": np.ones((1, 5, 1))})
        pd.testing.assert_index_equal(answer.index, index[15:])

    @pytest.mark.parametrize("freq", ["M", "Q-DEC", "W-WED", "D", "h"])
    def test_a_column_of_periods(self, freq):
        periods = pd.Series(pd.period_range("2024-01", periods=20, freq=freq))
        data, form = read(pd.DataFrame({"ds": periods[:15], "y": 1.0}))
        answer = write(form, data, 5, {"RNNForecaster": np.ones((1, 5, 1))})
        assert answer["ds"].dtype == periods.dtype and answer["ds"].tolist() == periods[15:].tolist()

    def test_columns_of_two_levels_and_an_index_of_times(self):
        columns = pd.MultiIndex.from_product([["a", "b"], ["x", "y"]])
        index = pd.date_range("2024-01-01", periods=12)
        data, form = read(pd.DataFrame(np.arange(40.0).reshape(10, 4), index[:10], columns))
        assert data.channels == tuple(columns) and data.row(3)[0] == 3
        answer = write(form, data, 2, {"RNNForecaster": np.ones((1, 2, 4))})
        assert answer.columns.tolist() == columns.tolist() and (answer.index == index[10:]).all()

    def test_pyarrow(self, long):
        pa = pytest.importorskip("pyarrow")
        data, form = read(pa.table(long), options=BOTH)
        assert_same(data, read(long, options=BOTH)[0])
        ahead = write(form, data, 2, {})
        ahead = ahead.append_column("price", pa.array(np.arange(6.0)))
        assert read_future(ahead, data, 2, form).ravel().tolist() == list(range(6))
        answer = write(form, data, 2, {"RNNForecaster": np.ones((3, 2, 1))})
        assert answer.column_names == ["unique_id", "ds", "RNNForecaster"]
        assert answer.schema.field("ds").type == pa.table(long).schema.field("ds").type

    @pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Tokyo", "America/New_York", "UTC"])
    @pytest.mark.parametrize("freq", ["h", "D", "B", "MS", "ME", "12h"])
    @pytest.mark.parametrize("library", ["pandas", "polars"])
    def test_time_zones_across_summer_time(self, zone, freq, library):
        if freq == "h":
            times = pd.date_range("2024-03-29", periods=80, freq=freq, tz=zone)
        else:
            times = pd.date_range("2024-03-01", periods=80, freq=freq).tz_localize(zone)
        frame = pd.DataFrame({"ds": times, "y": np.arange(80.0)})
        if library == "polars":
            frame = pl.DataFrame({"ds": times.to_list(), "y": np.arange(80.0)})
        data, form = read(frame[:70])  # past the change of clocks
        assert data.lengths.tolist() == [70]
        answer = write(form, data, 10, {"RNNForecaster": np.ones((1, 10, 1))})
        assert answer["ds"].dtype == frame["ds"].dtype
        assert answer["ds"].to_list() == frame["ds"][70:].to_list()

    def test_types_of_times_and_ids(self):
        days = pl.date_range(pl.date(2024, 1, 1), pl.date(2024, 1, 5), eager=True)
        frame = pl.DataFrame({"ds": days, "unique_id": [7] * 5, "y": [1, 2, 3, 4, 5]})
        data, form = read(frame)
        answer = write(form, data, 1, {"RNNForecaster": np.ones((1, 1, 1))})
        assert answer["ds"].dtype == pl.Date and answer["unique_id"].dtype == pl.Int64 and data.ids == (7,)
        for unit in ("s", "ns", "us"):
            frame = pd.DataFrame({"ds": np.arange("2024-01", "2024-05", dtype="M8[M]").astype(f"M8[{unit}]"),
                                  "y": 1.0, "unique_id": pd.Categorical(["u"] * 4)})  # fmt: skip
            data, form = read(frame)
            assert data.ids == ("u",) and str(data.frequency) == "MS"
            answer = write(form, data, 1, {"RNNForecaster": np.ones((1, 1, 1))})
            assert answer["ds"].dtype == frame["ds"].dtype
            assert answer["ds"][0] == pd.Timestamp("2024-05-01")

    def test_texts_are_times(self):
        data, _ = read({"ds": ["2024-01-01 05:00", "2024-01-01 06:00"], "y": [1, 2]})
        assert str(data.frequency) == "h"
        with pytest.raises(ValueError, match="the times 'ds' begin with '01.02.2024' and could not be read"):
            read({"ds": ["01.02.2024", "02.02.2024"], "y": [1, 2]})
        with pytest.raises(ValueError, match="the times 'ds' lack 1 of 2 values, the first in row 1"):
            read({"ds": np.array(["2024-01-01", "NaT"], "M8[D]"), "y": [1, 2]})
        with pytest.raises(TypeError, match="expected dates or whole numbers"):
            read({"ds": [0.5, 1.0], "y": [1, 2]})

    def test_columns_that_are_numbers_and_may_be_missing(self):
        frame = pd.DataFrame(np.arange(8.0).reshape(4, 2))
        data, form = read(frame)
        answer = write(form, data, 1, {"RNNForecaster": np.ones((1, 1, 2))})
        assert answer.columns.tolist() == [0, 1]
        flags = pd.array([True, None, False], "boolean")
        frame = pd.DataFrame({"a": pd.array([1, None, 3], "Int64"), "b": flags})
        np.testing.assert_array_equal(read(frame)[0].values, [1, np.nan, 3, 1, np.nan, 0])

    @pytest.mark.parametrize("dtype", ["string", "str", object])
    def test_text_that_is_missing(self, dtype):
        frame = pd.DataFrame({"unique_id": ["a", "a", "b"], "ds": [1, 2, 1], "y": 1.0})
        kind = pd.Series([None, None, "x"], dtype=dtype)
        with pytest.raises(ValueError, match="static covariate 'kind' lacks 1 of 2 values"):
            read(frame.assign(kind=kind), options=Columns(static=("kind",)))
        with pytest.raises(ValueError, match="the ids 'unique_id' have missing values"):
            read(frame.assign(unique_id=kind))

    def test_wide_frame_and_contexts_of_arrays(self, wide):
        _, form = read(wide)
        assert read_contexts(np.ones((3, 5, 2)), None, 2, form).n_series == 3
        data = read_contexts(wide, None, 2, form)
        assert data.n_series == 1 and data.channels == ("north", "south")

    def test_without_narwhals(self, monkeypatch, long):
        monkeypatch.setitem(sys.modules, "narwhals", None)
        assert read(long, options=BOTH)[0].n_series == 3
        with pytest.raises(ImportError, match="y was a DataFrame; data frames need narwhals: pip install"):
            read(pd.DataFrame(long))

    def test_without_the_library_of_the_frame(self):
        with pytest.raises(ImportError, match="was fitted on frames of cudf .*: pip install cudf"):
            frame_of({"y": np.ones(2)}, Backend("cudf"))  # which needs a GPU

    def test_a_zone_has_a_name(self):
        times = pd.date_range("2024-01-01", periods=4, freq="h", tz="dateutil/Europe/Berlin")
        with pytest.raises(ValueError, match=r"'ds' have the zone tzfile.*, as .dt.tz_convert"):
            read(pd.DataFrame({"ds": times, "y": 1.0}))

    def test_what_is_no_frame(self):
        with pytest.raises(TypeError, match="y was a LazyFrame; expected"):
            read(pl.LazyFrame({"y": [1.0]}))
        with pytest.raises(ValueError, match="y has two columns 'a'; expected each name once"):
            read(pd.DataFrame(np.ones((3, 2)), columns=["a", "a"]))
        with pytest.raises(ValueError, match="y has ds=2024-01-02, which is no step of the frequency ME"):
            read({"ds": ["2024-01-02", "2024-02-02"], "y": [1, 2]}, options=Columns(freq="ME"))
        with pytest.raises(ValueError, match="y has no rows"):
            read({"ds": [], "y": []})
        with pytest.raises(ValueError, match="y has the column 'y' of shape"):
            read({"ds": [1, 2], "y": [1, 2, 3]})

    def test_a_hundred_thousand_ids(self):
        n, each = 100_000, 30
        names = np.array([f"series {i}" for i in range(n)], object)
        days = np.datetime64("2024-01-01", "us") + np.arange(each) * np.timedelta64(1, "D")
        frame = pd.DataFrame({"unique_id": np.repeat(names, each), "ds": np.tile(days, n), "y": 1.0})
        data, _ = read(frame)
        assert data.n_series == n
