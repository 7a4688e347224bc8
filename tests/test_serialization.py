"""Models in safetensors files: all of them come back and go on with the same bits; what is wrong is said.

A hostile file may do no more than raise a ValueError.
"""

import copy
import inspect
import json
import math
import os
import pickle
import random
import re
import subprocess
import sys
import tracemalloc
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from safetensors import safe_open
from safetensors.numpy import save as to_bytes
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import numbarnn
from fixtures.make_saved import ANSWERS
from numbarnn import Recurrent, RNNClassifier, RNNForecaster, RNNRegressor
from numbarnn.cells import CELLS, Cell
from numbarnn.forecasting.likelihoods import LIKELIHOODS
from numbarnn.forecasting.networks import DECODERS
from numbarnn.losses import LOSSES
from numbarnn.network import Network
from numbarnn.optimizers import OPTIMIZERS
from numbarnn.schedules import SCHEDULES, StepSchedule
from numbarnn.serialization import FORMAT_VERSION
from numbarnn.serialization.objects import CLASSES, MODELS, class_of, take_apart
from test_forecaster_contract import FORMS, METHODS, Data, N, X, Y, numbers_of, quick

SMALL = {"hidden_size": 4, "max_iter": 2, "n_iter_no_change": math.inf, "batch_size": 16, "random_state": 0,
         "n_jobs": 1}  # fmt: skip
SAMPLES = np.random.default_rng(0).normal(size=(40, 6, 3))
SUMS = SAMPLES[:, :, 0].sum(axis=1)


@pytest.fixture
def through(tmp_path):
    """Return a function that saves a model and loads it again."""

    def save_and_load(model):
        numbarnn.save(model, tmp_path / "model.safetensors")
        return numbarnn.load(tmp_path / "model.safetensors")

    return save_and_load


def holding(value):
    """Return a model with any value in it, as a parameter."""
    return RNNRegressor(quantile=value)


def assert_same(found, expected):
    """Compare two values and all that they are made of, types and NaN included."""
    assert type(found) is type(expected)
    if isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype and found.flags.writeable >= expected.flags.writeable
        if expected.dtype == object:
            assert found.shape == expected.shape
            assert_same(found.ravel().tolist(), expected.ravel().tolist())
        else:
            assert_array_equal(found, expected)
    elif isinstance(expected, dict):
        assert_same(list(found), list(expected))
        assert_same(list(found.values()), list(expected.values()))
    elif type(expected) in (list, tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif type(expected).__name__ in CLASSES:
        assert_same(take_apart(found), take_apart(expected))
    else:
        assert found == expected or (found != found and expected != expected)
        assert not isinstance(found, float) or math.copysign(1, found) == math.copysign(1, expected)


# ---------------------------------------------------------------------- classes and values


def example(kind):
    """Return an object of a class of the table."""
    made = {
        "Recurrent": lambda: Recurrent("lstm", 2, 3, random_state=0),
        "Network": lambda: Network("gru", 2, 3, 1, random_state=0),
        "RNNForecaster": lambda: RNNForecaster(3),
        "Generator": lambda: np.random.default_rng(0),
        "Huber": lambda: kind(0.1),
        "Quantile": lambda: kind([0.1, 0.9]),
        "Conformal": lambda: fitted().conformal_,
        "Columns": lambda: kind(past=(1, 2), freq="D"),
        "Form": lambda: kind("matrix", 2),
        "SeriesSet": lambda: fitted().history_,
        "ForecastModel": lambda: fitted().model_,
        "LinearForecast": lambda: kind(np.ones((3, 2), "float32"), 0.25),
        "Standardizer": lambda: fitted().model_.standardizer,
        "Normalizer": lambda: kind("last"),
        "Layout": lambda: kind(12, 4, 3, 2),
        "Frequency": lambda: kind(1, "M", "end"),
    }
    if kind in OPTIMIZERS.values():
        return kind(7, "float32")
    if kind in DECODERS.values():
        return kind(fitted().model_.layout, 1, hidden_size=4)
    return made.get(kind.__name__, kind)()


def fitted():
    return quick(hidden_size=4).fit(Y[:N])


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_of_the_table_comes_back(name, through):
    kind = class_of(name)
    value = example(kind)
    assert type(value) is kind
    assert_same(through(holding(value)).quantile, value)
    if name in MODELS:
        assert_same(through(value), value)


def test_every_class_that_has_a_name_is_in_the_table():
    tables = (LOSSES, LIKELIHOODS, OPTIMIZERS, SCHEDULES, DECODERS)
    for kind in [kind for table in tables for kind in table.values()]:
        assert class_of(kind.__name__) is kind


@pytest.mark.parametrize("kind", [Recurrent, Network, *DECODERS.values()])
def test_every_argument_is_part_of_the_state(kind):
    state = take_apart(example(kind))[1]
    kept = state.keys() | state.get("config", {}).keys() | state.get("options", {}).keys()
    # what only first values are drawn by is not needed again
    assert set(inspect.signature(kind).parameters) <= kept | {"random_state", "init", "forget_bias"}


@pytest.mark.parametrize(
    "value",
    [
        0.1, -0.0, 5e-324, 1.7976931348623157e308, math.nan, math.inf, -math.inf, 2**200, -1, True, None, "",
        "a\"\\\n\u00e9\U0001f600\ud800", [1, 1.0, [True]], (), (1, (2,)), {},
        {1: "a", "1": 2.0, (1, 2): [None]},
        {True: 1, None: 2, 1.5: math.nan}, np.float32(0.1), np.float64(math.nan), np.int8(-3),
        np.uint64(2**64 - 1), np.bool_(True), np.str_("x"), np.float16(0.1), np.array(1.5), np.zeros((0, 3)),
        np.arange(6, dtype=">i4").reshape(2, 3), np.arange(6.0).reshape(2, 3).T, np.arange(9)[::-2],
        np.array(["a", "", "\u00e9\U0001f600"]), np.array("abc"),
        np.array(["2024-01-01", "NaT"], "M8[ns]"), np.array([["a", 1], [None, 2.5]], object),
        np.array([True, False]), np.array([math.nan, -0.0, math.inf], "f4"), np.array([], "U3"),
    ],
    ids=repr,
)  # fmt: skip
def test_every_value_comes_back(value, through):
    expected = value
    if isinstance(value, np.ndarray) and value.dtype.kind not in "OU":
        expected = value.astype(value.dtype.newbyteorder("="))
    assert_same(through(holding(value)).quantile, expected)


@pytest.mark.parametrize("name", ["MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"])
def test_generators_go_on(name, through):
    rng = np.random.Generator(getattr(np.random, name)(5))
    rng.integers(10, dtype=np.int32)
    assert_array_equal(through(holding(rng)).quantile.random(1000), rng.random(1000))


def test_what_was_one_object_is_one_again(through):
    forecaster = through(fitted())
    assert forecaster.network_ is forecaster.model_.network
    assert forecaster.center_ is forecaster.model_.standardizer.center
    array, rng = np.ones(3), np.random.default_rng(0)
    found = through(holding([array, array, rng, rng])).quantile
    assert found[0] is found[1] and found[2] is found[3]


# ---------------------------------------------------------------------- layers, networks, estimators


@pytest.mark.parametrize("options", [{"num_layers": 2, "bidirectional": True}, {"dtype": "float64"},
                                     {"num_layers": 2, "dropout": 0.5, "bias": False}])  # fmt: skip
@pytest.mark.parametrize("cell", CELLS)
def test_layer_goes_on(cell, options, through):
    layer = Recurrent(cell, 3, 4, random_state=0, n_jobs=1, **options)
    layer.forward(SAMPLES, training=True)
    other = through(layer)
    for each in (layer, other):
        each.output, each.state = each.forward(SAMPLES, training=True)
        each.dx, _ = each.backward(np.ones_like(each.output))
    assert_array_equal(other.output, layer.output)
    assert_array_equal(other.dx, layer.dx)
    assert_same(other.gradients, layer.gradients)
    assert_same(other.parameters, layer.parameters)
    assert_same(other.state, layer.state)
    if not layer.bidirectional:
        assert_array_equal(other.step(SAMPLES[:, 0], None)[0], layer.step(SAMPLES[:, 0], None)[0])


def goes_on(layer, through):
    """Hold a layer of three inputs and what becomes of it by saving against each other, trained a step."""
    other = through(layer)
    for each in (layer, other):
        each.output, _ = each.forward(SAMPLES, training=True)
        each.dx, _ = each.backward(np.ones_like(each.output))
    assert_same(other.__getstate__(), layer.__getstate__())
    assert_array_equal(other.output, layer.output)
    assert_array_equal(other.dx, layer.dx)
    assert_same(other.gradients, layer.gradients)


@pytest.mark.parametrize("options", [
    {"bidirectional": True, "merge": "mean", "num_layers": 2, "residual": True},
    {"proj_size": 2, "num_layers": 2, "bidirectional": True},
    {"recurrent_dropout": 0.5, "zoneout": (0.1, 0.2)},
], ids=str)  # fmt: skip
def test_layer_with_options_goes_on(options, through):
    goes_on(Recurrent("lstm", 3, 4, random_state=0, n_jobs=1, **options), through)


def test_layer_of_a_general_cell_goes_on(through):
    goes_on(Recurrent("rnn[leaky_relu(0.1);clip=2.0]", 3, 4, random_state=0, n_jobs=1), through)


def leaky_cell(leak=0.5):
    """Return a cell of a user's."""

    def forward(gates, states):
        (a,) = gates
        return (leak * states[0] + (1.0 - leak) * a,), (a,)

    def backward(kept, states, new_states, dnew_states):
        (dh,) = dnew_states
        return ((1.0 - leak) * dh,), (leak * dh,)

    return Cell("leaky_of_a_user", ("h",), (("h", "xh"),), forward, backward)


def test_of_a_registered_cell_the_name_is_saved(tmp_path):
    cell = numbarnn.register_cell(leaky_cell(), check=False)
    path = tmp_path / "model"
    try:
        layer = Recurrent(cell.name, 3, 4, random_state=0, n_jobs=1)
        goes_on(layer, lambda layer: numbarnn.save(layer, path) or numbarnn.load(path))
        regressor = RNNRegressor(**SMALL | {"cell": cell.name, "max_iter": 1}).fit(SAMPLES, SUMS)
        numbarnn.save(regressor, tmp_path / "regressor")
        loaded = numbarnn.load(tmp_path / "regressor")
        assert_array_equal(loaded.predict(SAMPLES), regressor.predict(SAMPLES))
        numbarnn.save(regressor.network_, tmp_path / "network")
        with pytest.warns(UserWarning, match="other equations"):
            numbarnn.register_cell(leaky_cell(0.25))
        for stored in ("model", "regressor", "network"):
            with pytest.warns(UserWarning, match="^the cell 'leaky_of_a_user' has other equations than when"):
                numbarnn.load(tmp_path / stored)
    finally:
        del CELLS[cell.name]
    for stored in (path, tmp_path / "regressor"):
        with pytest.raises(ValueError, match="leaky_of_a_user.*call numbarnn.register_cell first"):
            numbarnn.load(stored)


def test_network_goes_on(through):
    network = Network("lstm", 3, 4, 2, num_layers=2, dropout=0.5, random_state=0, n_jobs=1)
    x = SAMPLES.astype("float32")
    network.forward(x, training=True)
    other = through(network)
    assert other.config == network.config
    assert_array_equal(other.forward(x, training=True), network.forward(x, training=True))


REGRESSORS = [
    {}, {"cell": "lstm", "num_layers": 2, "dropout": 0.5}, {"bidirectional": True, "dtype": "float64"},
    {"solver": "sgd", "momentum": 0.9}, {"solver": "sgd"}, {"solver": "rmsprop", "verbose": 0},
    {"solver": "adamw", "weight_decay": 0.1}, {"solver": "lbfgs", "dtype": "float64"},
    {"early_stopping": True, "validation_fraction": 0.2}, {"loss": "huber", "delta": 0.3},
    {"loss": "poisson"},
    {"loss": "quantile", "quantile": (0.1, 0.9)}, {"loss": "quantile", "quantile": np.array([0.2, 0.5])},
    {"learning_rate": "cosine"}, {"learning_rate": StepSchedule(every=1)}, {"warm_start": True},
    {"ema_momentum": 0.9, "warm_start": True},
    {"random_state": np.random.RandomState(3), "warm_start": True},
    {"init": "orthogonal", "forget_bias": 1.0},
    {"embedding": [(2, 3, 2)], "stem_sizes": (5,), "head_sizes": [4], "initial_state": "learned"},
    {"initial_state": "random", "num_layers": 2},
    {"batch_size": 40, "stateful": True, "shuffle": False},
    {"cell": "rnn[leaky_relu(0.1);clip=2.0]"},
    {"cell": "lstm", "bidirectional": True, "merge": "sum", "num_layers": 2, "residual": True,
     "recurrent_dropout": 0.2, "zoneout": 0.1},
    {"cell": "lstm", "proj_size": 2},
]  # fmt: skip


def without_address(options):
    """Name a test the same in every process: several of them share the tests out by name."""
    return re.sub(" at 0x[0-9A-F]+", "", str(options))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("options", REGRESSORS, ids=without_address)
def test_regressor_goes_on(options, through):
    x = SAMPLES.copy()
    x[:, :, 2] = np.arange(6) % 3
    y = np.abs(SUMS)
    model = RNNRegressor(**SMALL | copy.deepcopy(options))
    assert_same(through(model).get_params(), model.get_params())
    model.fit(x, y)
    other = through(model)
    assert_same(other.get_params(), model.get_params())
    assert_same(other, model)
    assert_array_equal(other.predict(x), model.predict(x))
    if model.solver != "lbfgs" and not model.early_stopping:
        for each in (model, other):
            each.partial_fit(x, y).partial_fit(x, y)
        assert_same(other, model)
        assert_array_equal(other.predict(x), model.predict(x))
        other = through(other)
    for each in (model, other):
        each.fit(x, y)
    assert_array_equal(other.predict(x), model.predict(x))


LABELS = {
    "str": np.where(SUMS > 0, "up", "down"), "int": np.where(SUMS > 0, 3, -1), "bool": SUMS > 0,
    "float": np.where(SUMS > 0, 1.0, 2.0), "object": np.where(SUMS > 0, "up", "down").astype(object),
    "three": np.digitize(SUMS, [-1, 1]).astype("int8"),
    "wide": np.where(SUMS > 0, "up", "down").astype("U9"),
}  # fmt: skip


@pytest.mark.parametrize("labels", LABELS)
def test_classifier_goes_on(labels, through):
    y = LABELS[labels]
    model = RNNClassifier(**SMALL, class_weight=dict.fromkeys(np.unique(y), 1.5)).fit(SAMPLES, y)
    other = through(model)
    assert_same(other, model)
    for each in (model, other):
        each.partial_fit(SAMPLES, y)
    for method in ("predict", "predict_proba"):
        assert_same(getattr(other, method)(SAMPLES), getattr(model, method)(SAMPLES))
    assert other.score(SAMPLES, y) == model.score(SAMPLES, y)


def test_sequences_and_labels_of_every_step(through):
    x = [sample[: 3 + i % 4] for i, sample in enumerate(SAMPLES)]
    y = [np.where(each[:, 0] > 0, "a", "b") for each in x]
    model = RNNClassifier(**SMALL, return_sequences=True).fit(x, y)
    assert_same(through(model).predict(x), model.predict(x))


def test_names_of_features_are_kept(through):
    table = pd.DataFrame(SAMPLES[:, :, 0], columns=[f"lag{k}" for k in range(6)])
    model = RNNRegressor(**SMALL).fit(table, SUMS)
    other = through(model)
    assert_same(other.feature_names_in_, model.feature_names_in_)
    assert_array_equal(other.predict(table), model.predict(table))
    with pytest.raises(ValueError, match="feature names"):
        other.predict(table.rename(columns={"lag0": "x"}))


# ---------------------------------------------------------------------- forecasters


def assert_same_answers(found, expected):
    """Compare answers in any form: the kind of frame, its columns, types and values."""
    assert type(found) is type(expected)
    if isinstance(expected, pd.DataFrame | pd.Series):
        assert found.equals(expected) and found.index.equals(expected.index)
        assert found.index.dtype == expected.index.dtype
    elif hasattr(expected, "equals"):
        assert found.schema == expected.schema and found.equals(expected)
    elif isinstance(expected, tuple | list):
        for one, other in zip(found, expected, strict=True):
            assert_same_answers(one, other)
    else:
        assert_same(found, expected)


@pytest.mark.parametrize("form", [form for _, form in FORMS] + [("array", None), ("list", None)], ids=str)
def test_every_method_after_loading(form, through):
    data = Data(*form)
    forecaster = data.fit()
    other = through(forecaster)
    assert_same(other, forecaster)
    for name in ("more steps, levels", "context", "predict_quantiles", "sample_paths", "score",
                 "feature_importance", "update", "partial_fit"):  # fmt: skip
        call = METHODS[name]
        found, expected = (call(each, data) for each in (other, forecaster))
        assert_array_equal(numbers_of(found), numbers_of(expected), err_msg=name)
    if form[0] in ("long", "wide"):
        assert_same_answers(other.make_future(3), forecaster.make_future(3))
    assert_same(other, forecaster)


def dated(columns=("y",), zone=None, **options):
    index = pd.date_range("2024-01-01", periods=N, freq="D", tz=zone)
    return pd.DataFrame(dict.fromkeys(columns, Y[:N, 0]), index=index, **options)


FRAMES = {
    "series": lambda: dated()["y"],
    "named index": lambda: dated(("a", "b")).rename_axis("day"),
    "periods": lambda: dated().to_period("D"),
    "zone": lambda: dated(zone="Europe/Berlin").reset_index(names="ds"),
    "hours": lambda: pd.DataFrame(
        {"ds": pd.date_range("2024-03-25", periods=N, freq="h", tz="Europe/Berlin"), "y": Y[:N, 0]}
    ),
    "numbers": lambda: pd.DataFrame({"ds": np.arange(N), "y": Y[:N, 0]}),
    "column of periods": lambda: dated().to_period("D").reset_index(names="ds"),
    "numbers in the index": lambda: pd.Series(Y[:N, 0], np.arange(5, N + 5)),
    "texts": lambda: {"ds": np.datetime_as_string(dated().index.to_numpy(), "D"), "y": Y[:N, 0]},
    "ids": lambda: pd.DataFrame(
        {"unique_id": np.repeat([7, 9], N // 2), "ds": np.tile(np.arange(N // 2), 2), "y": Y[:N, 0]}
    ),
    "ids of dates": lambda: FRAMES["ids"]().assign(
        unique_id=lambda frame: pd.to_datetime(frame["unique_id"], unit="h", origin="2024-01-01")
    ),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frames_come_back_in_their_form(name, through):
    forecaster = quick(calendar=None if name.startswith(("numbers", "ids")) else "auto").fit(FRAMES[name]())
    other = through(forecaster)
    assert_same(other, forecaster)
    assert_same_answers(other.predict(level=[50]), forecaster.predict(level=[50]))
    assert_same_answers(other.predict(), forecaster.predict())


FORECASTERS = [
    *[{"decoder": decoder} for decoder in DECODERS],
    *[{"decoder": decoder, "multivariate": "joint"} for decoder in DECODERS],
    *[{"decoder": "recursive", "loss": loss} for loss in LIKELIHOODS],
    *[{"normalize": method} for method in ("last", "window", "standard", None)],
    {"quantiles": [0.1, 0.9]}, {"loss": "huber", "delta": 0.2}, {"loss": "absolute_error"},
    {"intervals": "split"}, {"intervals": None}, {"early_stopping": False}, {"dtype": "float64"},
    {"ema_momentum": 0.9},
    {"cell": "lstm", "num_layers": 2, "dropout": 0.3},
    {"learning_rate": StepSchedule(1), "solver": "sgd", "n_iter_no_change": math.inf},
    {"past_covariates": [0]}, {"samples_per_epoch": 50, "random_state": np.random.RandomState(1)},
    {"decoder": "recursive", "past_covariates": (np.int64(1),), "loss": "student_t"},
]  # fmt: skip


@pytest.mark.parametrize("options", FORECASTERS, ids=without_address)
def test_forecaster_goes_on(options, through):
    y = np.round(Y) if options.get("loss") == "negative_binomial" else Y.copy()
    if "normalize" in options:
        y[20:30, 0] = np.nan
    x, static = (X, [[1.0, 2.0]]) if "past_covariates" in options else (None, None)

    def part(array, *ends):
        return None if array is None else array[slice(*ends)]

    forecaster = quick(**copy.deepcopy(options))
    assert_same(through(forecaster), forecaster)
    forecaster.fit(y[:N], part(x, N), static=static)
    other = through(forecaster)
    assert_same(other, forecaster)
    level = None if forecaster.conformal_ is None and not forecaster._own_intervals else [50, 80]
    answers = []
    for each in (forecaster, other):
        first = each.predict(6, X=part(x, N, N + 6), level=level)
        each.update(y[N : N + 7], part(x, N, N + 7))
        second = each.predict(X=part(x, N + 7, N + 11), level=level)
        each.partial_fit(y[:100], part(x, 100))
        answers.append((first, second, each.predict(X=part(x, 100, 104), level=level)))
    assert_same_answers(*answers)
    assert_same(other, forecaster)
    assert_same(through(other), forecaster)


def test_static_texts_are_known_again(through):
    data = Data("long", "dict")
    static = {"unique_id": np.array(["a", "b"]), "kind": np.array(["x", "y"])}
    forecaster = quick(static_covariates=["kind"], **data.options).fit(*data.steps(0, N), static=static)
    assert_same(through(forecaster), forecaster)


# ---------------------------------------------------------------------- what is imported


def run_python(code):
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_nothing_is_imported_that_a_model_does_not_need(tmp_path):
    paths = [str(tmp_path / name) for name in ("layer", "regressor", "dict", "polars")]
    numbarnn.save(Recurrent("gru", 1, 2), paths[0])
    numbarnn.save(RNNRegressor(), paths[1])
    for path, library in zip(paths[2:], ("dict", "polars"), strict=True):
        numbarnn.save(Data("long", library).fit(), path)
    seen = run_python(f"""
import sys, numbarnn
names = "sklearn", "matplotlib", "numbarnn.estimators", "numbarnn.forecasting", "pandas", "polars", "narwhals"
def load(path, *before):
    [getattr(numbarnn, name) for name in before]  # scikit-learn itself may load some of them
    there = set(sys.modules)
    numbarnn.load(path)
    print([name for name in names if name in sys.modules.keys() - there])
load({paths[0]!r})
load({paths[1]!r}, "RNNRegressor")
load({paths[2]!r}, "RNNForecaster")
load({paths[3]!r}, "RNNForecaster")
""")
    assert seen == "[]\n[]\n[]\n[]"


# ---------------------------------------------------------------------- what cannot be saved


class MySchedule(StepSchedule):
    """A schedule of a user's."""


def noted():
    """Return a model with an attribute of a user's."""
    model = RNNRegressor()
    model.note = object()
    return model


class MyRegressor(RNNRegressor):
    """A class of a user's."""


def rest(epoch):
    """A function of a user's."""


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (RNNRegressor(callbacks=rest), "^callbacks was <function rest .* of type function, .*cloudpickle"),
        (RNNRegressor(callbacks=[rest]), r"^callbacks\[0\] was .*; .* set_params\(callbacks=None\), or"),
        (RNNForecaster(3, callbacks=print), "^callbacks was <built-in function print> of type builtin"),
        (RNNRegressor(learning_rate=MySchedule()), "^learning_rate was MySchedule"),
        (noted(), "^note was <object object .*: delete this attribute, or use joblib.dump"),
        (RNNRegressor(quantile=np.array([b"x"])), "^quantile was an array of shape .1,. and dtype .S1"),
        (RNNRegressor(quantile=np.array([1j])), "^quantile was an array of shape .1,. and dtype complex128"),
        (RNNRegressor(quantile={"a": [{1}]}), r"^quantile\['a'\]\[0\] was \{1\} of type set"),
        (RNNRegressor(quantile={frozenset(): 1}), "^quantile, the key frozenset.* was frozenset"),
        (MyRegressor(), "^estimator was a MyRegressor; expected one of RNNRegressor, RNNClassifier, "),
        (make_pipeline(StandardScaler(), RNNRegressor()), r"^estimator was a Pipeline; .* estimator\[-1\]"),
        (GridSearchCV(RNNRegressor(), {}), "^estimator was a GridSearchCV; .*best_estimator_"),
        (RNNRegressor, "^estimator was the class RNNRegressor; expected"),
        (np.random.default_rng(0), "^estimator was a Generator; expected .*joblib"),
        (None, "^estimator was a NoneType"),
    ],
)  # fmt: skip
def test_what_cannot_be_saved_is_said_before_a_file_is_written(model, message, tmp_path):
    with pytest.raises(TypeError, match=message):
        numbarnn.save(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make", [str, lambda path: path, lambda path: os.fsencode(path)])
def test_paths(make, tmp_path):
    path = make(tmp_path / "a b\u00e9.safetensors")
    numbarnn.save(RNNRegressor("lstm"), path)
    assert numbarnn.load(path).cell == "lstm"
    assert len(list(tmp_path.iterdir())) == 1


def test_paths_that_are_wrong(tmp_path):
    model = RNNRegressor()
    with pytest.raises(FileNotFoundError, match="path was '.*model'; expected a folder '.*none' that exists"):
        numbarnn.save(model, tmp_path / "none" / "model")
    with pytest.raises(IsADirectoryError, match="which is a folder; expected a file"):
        numbarnn.save(model, tmp_path)
    with pytest.raises(IsADirectoryError, match="which is a folder; expected a file"):
        numbarnn.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="none"):
        numbarnn.load(tmp_path / "none")
    for call in (lambda: numbarnn.save(model, 3), lambda: numbarnn.load(3)):
        with pytest.raises(TypeError, match="path was 3; expected a str or a path"):
            call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("broken", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()])
def test_an_interrupted_save_leaves_the_old_file(broken, error, tmp_path, monkeypatch):
    path = tmp_path / "model"
    numbarnn.save(RNNRegressor("lstm"), path)

    def fail(*arguments):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, broken, fail)
        with pytest.raises(type(error)):
            numbarnn.save(RNNRegressor("gru"), path)
    assert [each.name for each in tmp_path.iterdir()] == ["model"]
    assert numbarnn.load(path).cell == "lstm"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_permissions_stay_and_names_may_be_long(tmp_path):
    path = tmp_path / ("a" * 240 + ".safetensor")
    numbarnn.save(RNNRegressor("lstm"), path)
    path.chmod(0o600)
    numbarnn.save(RNNRegressor("gru"), path)
    assert path.stat().st_mode & 0o777 == 0o600 and numbarnn.load(path).cell == "gru"


@pytest.mark.parametrize("sizes", [range(3, 5), pd.Series([3, 4], name="units")])
def test_sizes_come_back_as_a_list(sizes, through):
    model = RNNRegressor(head_sizes=sizes, **SMALL | {"max_iter": 1}).fit(SAMPLES, SUMS)
    loaded = through(model)
    assert loaded.head_sizes == [3, 4]
    assert_array_equal(loaded.predict(SAMPLES), model.predict(SAMPLES))


def test_ids_of_an_unusual_type(tmp_path):
    model = RNNForecaster(3)
    model.ids_ = (timedelta(1),)
    with pytest.raises(TypeError, match=r"^ids_\[0\] was datetime.timedelta.*: make ids texts before fit"):
        numbarnn.save(model, tmp_path / "model")


def test_a_link_stays_one(tmp_path):
    link, target = tmp_path / "latest", tmp_path / "model"
    link.symlink_to(target)
    numbarnn.save(RNNRegressor("lstm"), link)
    assert link.is_symlink() and numbarnn.load(target).cell == "lstm"


# ---------------------------------------------------------------------- what is in a file


class Saved:
    """A file taken apart, to be changed and put together again."""

    def __init__(self, model, path):
        self.path = path
        numbarnn.save(model, path)
        with safe_open(path, framework="np") as file:
            self.metadata = file.metadata()
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self.objects = json.loads(self.metadata["objects"])

    def of(self, name):
        """Return what is said of the first object of a class."""
        return next(entry for entry in self.objects if entry["class"] == name)

    def load(self):
        metadata = self.metadata | {"objects": json.dumps(self.objects)}
        metadata.pop("sha256", None)  # whoever changes a file on purpose can do without
        self.path.write_bytes(to_bytes(self.tensors, metadata))
        return numbarnn.load(self.path)


@pytest.fixture(scope="module")
def models():
    """Return fitted models by name."""
    return {
        "layer": Recurrent("gru", 3, 4, num_layers=2, random_state=np.random.Generator(np.random.Philox(0))),
        "regressor": RNNRegressor(**SMALL | {"random_state": np.random.RandomState(0)}).fit(SAMPLES, SUMS),
        "classifier": RNNClassifier(**SMALL).fit(SAMPLES, LABELS["str"]),
        "forecaster": Data("long", "pandas").fit(),
    }


@pytest.fixture
def saved(models, tmp_path):
    return lambda name: Saved(models[name], tmp_path / "model")


@pytest.mark.parametrize("name", ANSWERS)
def test_files_of_format_1_stay_readable(name, tmp_path):
    """If this fails, a state has changed: let it be read as it was, or raise FORMAT_VERSION."""
    path = tmp_path / "model.safetensors"
    with np.load(Path(__file__).parent / "fixtures" / "saved_1.npz") as stored:
        path.write_bytes(stored[f"{name}.file"].tobytes())
        expected = stored[f"{name}.answer"]
    assert_allclose(ANSWERS[name](numbarnn.load(path)), expected, rtol=1e-4, atol=1e-5)


def test_the_file_can_be_read_by_others(saved):
    file = saved("layer")
    assert file.metadata["format"] == "numbarnn"
    assert file.metadata["format_version"] == str(FORMAT_VERSION)
    assert file.metadata["numbarnn_version"] == numbarnn.__version__
    assert file.tensors["parameters"].dtype == "float32"
    assert file.of("Recurrent")["state"]["options"]["dict"][0] == ["input_size", 3]


def option(entry, part, name, value):
    """Change an entry of an encoded dict."""
    pairs = entry["state"][part]["dict"]
    next(pair for pair in pairs if pair[0] == name)[1] = value


def nested(depth):
    code = []
    for _ in range(depth):
        code = [code]
    return code


def rename(file, old, new):
    file.tensors[new] = file.tensors.pop(old)


def reshape(file, name, *shape):
    file.tensors[name] = file.tensors[name].reshape(shape)


def places(code):
    """Yield every place of a JSON value: what holds it, and the key."""
    items = code.items() if isinstance(code, dict) else enumerate(code) if isinstance(code, list) else ()
    for key, value in items:
        yield code, key
        yield from places(value)


def resize(file, name, shape, said=True):
    """Change a tensor, and what is said of it."""
    file.tensors[name] = np.resize(file.tensors[name], shape)
    for holder, key in list(places(file.objects)):
        if said and key == "array" and holder[key][0] == name:
            holder[key][2] = list(file.tensors[name].shape)


def layer_option(name, value):
    return lambda file: option(file.of("Recurrent"), "options", name, value)


def network_option(name, value):
    return lambda file: option(file.of("Network"), "config", name, value)


def state(name, *codes, **more):
    return lambda file: file.of(name)["state"].update(*codes, **more)


def pos(value):
    return lambda file: option(file.of("RandomState"), "state", "pos", value)


def kind(name):
    return lambda file: file.objects[-1].update({"class": name})


def backend(**parameters):
    return lambda file: file.of("Backend")["parameters"].update(parameters)


def size(*arguments, **said):
    return lambda file: resize(file, *arguments, **said)


EDITS = {
    "newer": ("layer", lambda f: f.metadata.update(format_version="2", numbarnn_version="9.1"),
              r"has format 2, written by numbarnn 9.1; this is .* pip install --upgrade numbarnn"),
    "no version": ("layer", lambda f: f.metadata.pop("format_version"), "format_version was ''; expected"),
    "version 0": ("layer", lambda f: f.metadata.update(format_version="0"), "format_version was '0'"),
    "version -1": ("layer", lambda f: f.metadata.update(format_version="-1"), "format_version was '-1'"),
    "other format": ("layer", lambda f: f.metadata.update(format="pt"), "holds no model of numbarnn"),
    "missing tensor": ("layer", lambda f: f.tensors.pop("parameters"), "the tensor 'parameters' is missing"),
    "extra tensor": ("layer", lambda f: f.tensors.update(more=np.ones(3)), "'more', to which nothing"),
    "renamed": ("layer", lambda f: rename(f, "parameters", "values"), "the tensor 'parameters' is missing"),
    "other shape": ("layer", lambda f: reshape(f, "parameters", 2, -1), "expected the shape"),
    "other type": ("layer", lambda f: f.tensors.update(parameters=f.tensors["parameters"].view("i4")),
                   "the tensor 'parameters' was .*int32; expected what holds 'float32'"),
    "float64": ("regressor", lambda f: f.tensors.update({"_optimizer.state": np.ones(9)}), "64; expected"),
    "too few": ("layer", size("parameters", 10), "the sizes ask for .* expected at most 1"),
    "one number": ("layer", size("parameters", 1), "the sizes ask for "),
    "no number": ("layer", size("parameters", ()), "the sizes ask for "),
    "too many": ("layer", size("parameters", 999), "parameters|broadcast"),
    "as rows": ("layer", size("parameters", (2, 114)), "Recurrent: "),
    "said otherwise": ("layer", size("parameters", 10, said=False), "expected the shape"),
    "network": ("regressor", size("network_.parameters", 1), "the sizes ask for"),
    "optimizer": ("regressor", size("_optimizer.state", (2, 5)), r"_optimizer.state was .*\(2, 5\)"),
    "optimizer's rows": ("regressor", size("_optimizer.state", (1, 5)), "_optimizer.state was"),
    "huge": ("layer", layer_option("hidden_size", 10**5), "sizes ask for .*; expected at most"),
    "huger": ("layer", layer_option("hidden_size", 10**30), "the sizes ask for"),
    "wide": ("layer", layer_option("input_size", 10**9), "the sizes ask for"),
    "deep": ("layer", layer_option("num_layers", 10**9), "the sizes ask for"),
    "huge network": ("regressor", network_option("n_outputs", 10**9), "the sizes ask for"),
    "huge stem": ("regressor", network_option("stem_sizes", [10**9]), "the sizes ask for"),
    "negative": ("layer", layer_option("hidden_size", -4), "hidden_size was -4"),
    "a text": ("layer", layer_option("hidden_size", "4"), "hidden_size was '4'"),
    "a float": ("layer", layer_option("hidden_size", 4.0), "hidden_size was 4.0"),
    "a bool": ("layer", layer_option("num_layers", True), "num_layers was True"),
    "unknown cell": ("layer", layer_option("cell", "mine"), "Recurrent: cell was 'mine'; expected one of"),
    "network's cell": ("regressor", network_option("cell", "mine"), "Network: cell was 'mine'; expected"),
    "unknown option": ("layer", layer_option("dtype", "object"), "dtype was 'object'"),
    "further option": ("layer", lambda f: f.objects[1]["state"]["options"]["dict"].append(["x", 1]), "x"),
    "further state": ("layer", state("Recurrent", x=1), "Recurrent: it was a dict with"),
    "less state": ("layer", lambda f: f.of("Recurrent")["state"].pop("random"), "Recurrent: 'random'"),
    "parameters": ("layer", lambda f: f.of("Recurrent")["parameters"].update(cell="gru"), "expected none"),
    "unknown class": ("layer", kind("system"), "names the class 'system'"),
    "dotted class": ("layer", kind("os.system"), "the class 'os.system'"),
    "class number": ("layer", kind(3), "the class 3"),
    "class list": ("layer", kind(["Adam"]), "the class "),
    "no class": ("layer", lambda f: f.objects[-1].pop("class"), "expected class, parameters and state"),
    "no model": ("regressor", lambda f: f.objects.pop(), r"it ends in \['SquaredError'\]; expected one of"),
    "no objects": ("layer", lambda f: f.objects.clear(), r"it ends in \[\]; expected"),
    "not a list": ("layer", lambda f: setattr(f, "objects", {"a": 1}), "expected a list"),
    "entry": ("layer", lambda f: f.objects.insert(0, 3), "it lists 3 of type int"),
    "forward": ("layer", state("Recurrent", random={"ref": 1}), "a reference was 1"),
    "backward": ("layer", state("Recurrent", random={"ref": -1}), "a reference was -1"),
    "reference": ("layer", state("Recurrent", random={"ref": True}), "a reference was True"),
    "tag": ("layer", state("Recurrent", random={"eval": "1"}), "expected one key, of float"),
    "tags": ("layer", state("Recurrent", random={"ref": 0, "tuple": []}), "expected one key"),
    "unhashable": ("layer", state("Recurrent", n={"dict": [[[], 1]]}), "unhashable"),
    "pair": ("layer", state("Recurrent", n={"dict": [[1]]}), "unpack"),
    "float": ("layer", state("Recurrent", n={"float": "0x1"}), "a float was '0x1'"),
    "scalar": ("layer", state("Recurrent", n={"scalar": ["object", 1]}), "'object'"),
    "objects": ("layer", state("Recurrent", n={"objects": [[10**15], []]}), "reshape"),
    "deep JSON": ("layer", state("Recurrent", n=nested(900)), "RecursionError|recursion"),
    "unknown parameter": ("regressor", lambda f: f.objects[-1]["parameters"].update(speed=1), "'speed'"),
    "shadow": ("regressor", state("RNNRegressor", predict=1), "the attribute 'predict'"),
    "dunder": ("regressor", state("RNNRegressor", __class__="x"), "the attribute '__class__'"),
    "no name": ("regressor", state("RNNRegressor", {"a b": 1}), "the attribute 'a b'"),
    "data class": ("forecaster", state("SeriesSet", x=1), "the attribute 'x'"),
    "tuple": ("forecaster", lambda f: f.of("Layout")["parameters"].update(x=1), "Layout: .*'x'"),
    "library": ("forecaster", backend(library="os"), "library was 'os'"),
    "zone": ("forecaster", backend(time_zone="dateutil//etc/passwd"),
             "time_zone was 'dateutil"),
    "schedule": ("regressor", lambda f: f.objects.insert(0, {"class": "StepSchedule", "state": {},
                                                             "parameters": {"every": -1}}), "every was -1"),
    "character": ("classifier", lambda f: f.tensors["classes_"].fill(2**31), "no character"),
    "negative position": ("regressor", pos(-1), "pos was -1"),
    "position": ("regressor", pos(10**6), "pos was 1000000"),
    "key": ("regressor", size("random_state.state['key']", 3), "key was an array of shape"),
    "buffer": ("layer", state("Generator", buffer_pos=99), "buffer_pos was 99"),
    "bits": ("layer", state("Generator", bit_generator="Random"), "bit_generator was"),
    "bits' type": ("layer", state("Generator", buffer_pos=0.5), "buffer_pos was 0.5"),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_a_file_that_was_changed(name, saved):
    model, edit, message = EDITS[name]
    file = saved(model)
    edit(file)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message) as caught:
            file.load()
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert str(file.path) in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", pickle.dumps(1), b"PK\x03\x04" + bytes(99), b"\xff" * 99, b"\x02" + bytes(7) + b"{}",
     (2**62).to_bytes(8, "little") + b"{}"],
)  # fmt: skip
def test_a_file_of_another_kind(content, tmp_path):
    path = tmp_path / "model"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is no safetensors file, or damaged|holds no model of numbarnn"):
        numbarnn.load(path)


@pytest.mark.parametrize("text", ["", "{", "[NaN]", "[1e]", "[" * 10**5, "nul", '["\\ud8"]', "1" * 10**5])
def test_no_list_of_objects(text, tmp_path):
    path = tmp_path / "model"
    path.write_bytes(to_bytes({}, {"format": "numbarnn", "format_version": "1", "objects": text}))
    with pytest.raises(ValueError, match="cannot be loaded"):
        numbarnn.load(path)


def test_tensors_that_numpy_has_not(tmp_path):
    header = json.dumps({"__metadata__": {"format": "numbarnn", "format_version": "1", "objects": "[]"},
                         "a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()  # fmt: skip
    path = tmp_path / "model"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ValueError, match="model"):
        numbarnn.load(path)


def test_a_file_that_is_cut_short(saved):
    file = saved("regressor")
    content = file.path.read_bytes()
    for end in [*range(0, len(content), 97), len(content) - 1]:
        file.path.write_bytes(content[:end])
        with pytest.raises(ValueError, match="is no safetensors file, or damaged"):
            numbarnn.load(file.path)


JUNK = [None, True, -1, 0, 3, 10**18, 10**400, 1.5, "", "x", "rnn", [], [[]], {}, {"ref": 0}, {"ref": 10**9},
        {"tuple": []}, {"dict": []}, {"float": "nan"}, {"array": ["x", "float32", [1]]},
        {"scalar": ["int8", 3]}, {"objects": [[0], []]}]  # fmt: skip


def use(model, name):
    """Predict and train: whatever comes of it must be an error of Python."""
    if name == "layer":
        model.forward(SAMPLES, training=True)
    elif name == "forecaster":
        model.predict(2, X=Data("long", "pandas").ahead(N, N + 2))
    else:
        model.set_params(n_jobs=1).predict(SAMPLES)
        model.partial_fit(SAMPLES, SUMS if name == "regressor" else LABELS["str"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["layer", "regressor", "classifier", "forecaster"])
def test_random_changes_are_errors_at_most(name, saved):
    file, rng = saved(name), random.Random(0)
    original, tensors, failed = json.dumps(file.objects), file.tensors, 0
    for _ in range(250):
        file.objects, file.tensors = json.loads(original), dict(tensors)
        if rng.random() < 0.2:
            resize(file, rng.choice(list(tensors)), rng.choice([(), 0, 1, (1, 1), 7, (2, 3), 4000]))
        holder, key = rng.choice(list(places(file.objects)))
        if "n_jobs" in (key, holder[0] if isinstance(holder, list) and holder else None):
            continue  # any number of threads is legal
        if rng.random() < 0.3:
            del holder[key]
        else:
            holder[key] = rng.choice(JUNK)
        try:
            model = file.load()
        except ValueError:
            failed += 1
            continue
        try:
            use(model, name)
        except Exception:  # noqa: S110
            pass
    assert failed > 50


def test_random_bytes_are_errors_at_most(saved):
    file, rng = saved("forecaster"), random.Random(0)
    content = file.path.read_bytes()
    for _ in range(300):
        changed = bytearray(content)
        for _ in range(rng.randint(1, 5)):
            changed[rng.randrange(min(len(changed), 9000))] = rng.randrange(256)
        file.path.write_bytes(changed)
        try:
            numbarnn.load(file.path)
        except ValueError as error:
            assert str(file.path) in str(error)


def test_a_flipped_bit_is_found_or_does_no_harm(tmp_path):
    path, layer = tmp_path / "model", Recurrent("gru", 2, 3, random_state=0)
    numbarnn.save(layer, path)
    content, refused = path.read_bytes(), 0
    places = range(len(content) - 1, 0, -(len(content) // 60))
    for at in places:
        path.write_bytes(content[:at] + bytes([content[at] ^ 64]) + content[at + 1 :])
        try:
            assert_array_equal(numbarnn.load(path)._flat, layer._flat)
        except ValueError as error:
            refused += "model" in str(error)
    assert refused > 0.8 * len(places)
