"""Estimators: kinds of input and target, weights, going on from a fit, determinism, errors by name."""

import pickle
import signal
import tracemalloc
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import log_loss

from numbarnn import RNNClassifier, RNNRegressor, cells
from numbarnn.estimators.validation import merge_equal
from numbarnn.losses import LOSSES
from numbarnn.optimizers import OPTIMIZERS
from numbarnn.schedules import SCHEDULES, StepSchedule

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SMALL = {"hidden_size": 6, "max_iter": 3, "random_state": 0, "n_jobs": 1, "batch_size": 8}
LEARN = {
    "hidden_size": 16,
    "max_iter": 80,
    "tol": 0,
    "random_state": 0,
    "n_jobs": 1,
    "learning_rate_init": 0.02,
}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def data(rng):
    """X (30, 5, 2), and a target for each sequence."""
    X = rng.normal(size=(30, 5, 2))
    return X, X[:, -2, 0]


@pytest.fixture
def ragged(rng):
    """A list of sequences, a target for each, and a target for each step."""
    X = [rng.normal(size=(length, 2)) for length in rng.integers(1, 8, size=30)]
    return X, np.array([x[:, 0].sum() for x in X]), [np.cumsum(x[:, 0]) for x in X]


def padded(sequences):
    """The same sequences in one array, and their lengths."""
    lengths = np.array([len(s) for s in sequences])
    array = np.zeros((len(sequences), lengths.max(), *sequences[0].shape[1:]))
    for row, s in zip(array, sequences, strict=True):
        row[: len(s)] = s
    return array, lengths


# ------------------------------------------------------------------ input and targets


def test_two_dimensions_are_windows_step_by_step(data):
    X, y = data
    wide = X.reshape(30, 10)
    model = RNNRegressor(**SMALL, n_channels=2).fit(wide, y)
    assert model.n_features_in_ == 10
    assert_array_equal(model.predict(wide), RNNRegressor(**SMALL).fit(X, y).predict(X))


@pytest.mark.parametrize(
    "change",
    [
        lambda X: X.astype("float32"),
        np.asfortranarray,
        lambda X: X[::-1][::-1],
        lambda X: X.tolist(),
        list,
        lambda X: X.round().astype(int),
    ],
)
def test_any_kind_of_numbers(data, change):
    X, y = data
    changed = change(X)
    expected = np.asarray(changed, "float64")
    assert_allclose(
        RNNRegressor(**SMALL).fit(changed, y).predict(changed),
        RNNRegressor(**SMALL).fit(expected, y).predict(expected), rtol=1e-5, atol=1e-6,
    )  # fmt: skip


def test_predictions_have_the_precision_of_the_input(data):
    X, y = data
    model = RNNRegressor(**SMALL).fit(X, y)
    assert model.predict(X).dtype == np.float64
    assert model.predict(X.astype("float32")).dtype == np.float32


def test_read_only_input_and_input_stays_as_it_is(data):
    X, y = data
    weight = np.ones(30)
    before = X.copy(), y.copy()
    for array in (X, y, weight):
        array.flags.writeable = False
    RNNRegressor(**SMALL).fit(X, y, weight).predict(X)
    assert_array_equal(X, before[0])
    assert_array_equal(y, before[1])


def test_tables(data):
    X, y = data
    table = pd.DataFrame(X[:, :, 0], columns=[f"lag_{i}" for i in range(5)])
    model = RNNRegressor(**SMALL).fit(table, pd.Series(y))
    assert list(model.feature_names_in_) == list(table.columns)
    assert_array_equal(model.predict(table), RNNRegressor(**SMALL).fit(X[:, :, 0], y).predict(X[:, :, 0]))


def test_a_list_is_the_same_as_a_padded_array_with_lengths(ragged):
    X, y, _ = ragged
    array, lengths = padded(X)
    model = RNNRegressor(**SMALL).fit(X, y)
    assert_array_equal(
        model.predict(X), RNNRegressor(**SMALL).fit(array, y, lengths=lengths).predict(array, lengths)
    )
    assert_array_equal(model.predict(X)[:4], model.predict(X[:4]))
    column = pd.Series(X, index=range(5, 5 + len(X)))
    assert_array_equal(model.predict(X), RNNRegressor(**SMALL).fit(column, y).predict(column))
    array[np.arange(array.shape[1]) >= lengths[:, np.newaxis]] = 99  # what is past the end has no influence
    assert_array_equal(model.predict(X), model.predict(array, lengths))


@pytest.mark.parametrize("filling", [99.0, 1e300, np.nan, np.inf])
def test_what_is_past_the_end_is_not_looked_at(ragged, filling):
    X, y, steps = ragged
    (array, lengths), (targets, _) = padded(X), padded(steps)
    clean = RNNRegressor(**SMALL, return_sequences=True).fit(array, targets, lengths=lengths)
    past = np.arange(array.shape[1]) >= lengths[:, np.newaxis]
    array[past] = targets[past] = filling
    before = array.copy()
    model = RNNRegressor(**SMALL, return_sequences=True).fit(array, targets, lengths=lengths)
    assert_array_equal(model.network_.parameters, clean.network_.parameters)
    assert_array_equal(model.predict(array, lengths), clean.predict(array, lengths))
    assert model.score(array, targets, lengths=lengths) == clean.score(array, targets, lengths=lengths)
    assert_array_equal(array, before)
    wide = array.reshape(30, -1)
    flat = RNNRegressor(**SMALL, n_channels=2).fit(wide, y, lengths=lengths)
    assert np.isfinite(flat.predict(wide, lengths)).all()
    array[0, 0] = np.nan
    with pytest.raises(ValueError, match="Input X contains NaN"):
        model.predict(array, lengths)


@pytest.mark.parametrize("stepwise", [False, True])
@pytest.mark.parametrize("Model", [RNNRegressor, RNNClassifier])
def test_a_list_gives_the_bits_of_a_padded_array_whatever_goes_with_it(ragged, rng, Model, stepwise):
    X, y, targets = ragged
    targets = [t > 0 for t in targets] if Model is RNNClassifier else targets
    y = targets if stepwise else y > 0 if Model is RNNClassifier else y
    X_padded, lengths = padded(X)
    mask = [np.arange(len(x)) < max(1, len(x) - 2) for x in X]
    mask_padded = padded(mask)[0].astype(bool)
    y_padded = padded(y)[0].astype(y[0].dtype) if stepwise else y
    weight = rng.integers(0, 3, size=30)
    options = SMALL | {"return_sequences": stepwise, "early_stopping": True, "validation_fraction": 0.3}
    if Model is RNNClassifier:
        options["class_weight"] = "balanced"
    listed = Model(**options).fit(X, y, weight, mask=mask)
    array = Model(**options).fit(X_padded, y_padded, weight, lengths, mask_padded)
    assert listed.loss_curve_ == array.loss_curve_
    assert listed.validation_scores_ == array.validation_scores_
    found, expected = listed.predict(X, mask=mask_padded), array.predict(X_padded, lengths, mask_padded)
    if stepwise:
        expected = [row[:n] for row, n in zip(expected, lengths, strict=True)]
    for ours, theirs in zip(found, expected, strict=True):
        assert_array_equal(ours, theirs)
    padded_score = array.score(X_padded, y_padded, lengths=lengths, mask=mask_padded)
    assert listed.score(X, y, mask=mask) == padded_score


@pytest.mark.parametrize("stepwise", [False, True])
def test_one_long_sequence_costs_its_own_steps_and_not_as_many_in_every_sample(rng, stepwise):
    X = [rng.normal(size=(3, 4)) for _ in range(1500)] + [rng.normal(size=(2000, 4))]
    y = [x[:, 0] for x in X] if stepwise else np.array([x[0, 0] for x in X])
    model = RNNRegressor(**SMALL | {"max_iter": 1, "return_sequences": stepwise})
    whole = 1501 * 2000 * 4 * 4  # bytes of X padded in float32
    tracemalloc.start()
    try:
        model.fit(X, y).predict(X)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < whole / 3
    alone = [model.predict([x])[0] for x in (X[0], X[-1])]
    together = model.predict(X)
    for ours, theirs in zip(alone, (together[0], together[-1]), strict=True):
        assert_array_equal(ours, theirs)


def test_sequences_may_be_longer_in_predict(data, rng):
    X, y = data
    assert RNNRegressor(**SMALL).fit(X, y).predict(rng.normal(size=(3, 11, 2))).shape == (3,)


@pytest.mark.parametrize("shape", [(30,), (30, 1), (30, 3)])
def test_one_or_several_outputs(data, rng, shape):
    X, _ = data
    y = rng.normal(size=shape)
    model = RNNRegressor(**SMALL).fit(X, y)
    assert model.predict(X).shape == shape
    assert model.n_outputs_ == (shape[1] if len(shape) > 1 else 1)
    assert model.score(X, y) <= 1


@pytest.mark.parametrize("shape", [(30, 5), (30, 5, 1), (30, 5, 2)])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_target_for_every_step(data, rng, shape, bidirectional):
    X, _ = data
    y = rng.normal(size=shape)
    model = RNNRegressor(**SMALL, return_sequences=True, bidirectional=bidirectional).fit(X, y)
    assert model.predict(X).shape == shape
    assert model.score(X, y) < 1


def test_a_target_for_every_step_of_ragged_sequences(ragged):
    X, _, steps = ragged
    model = RNNRegressor(**{**LEARN, "max_iter": 150}, return_sequences=True).fit(X, steps)
    predicted = model.predict(X)
    assert [p.shape for p in predicted] == [s.shape for s in steps]
    assert model.score(X, steps) > 0.9
    (array, lengths), (targets, _) = padded(X), padded(steps)
    same = RNNRegressor(**{**LEARN, "max_iter": 150}, return_sequences=True).fit(
        array, targets, lengths=lengths
    )
    found = same.predict(array, lengths=lengths)
    assert_array_equal(found[3, : lengths[3]], predicted[3])
    assert (found[3, lengths[3] :] == 0).all()
    assert model.score(X, steps) == same.score(array, targets, lengths=lengths)


@pytest.mark.parametrize("cell", ["rnn", "rnn_relu", "lstm", "gru"])
def test_every_cell_learns(data, cell):
    X, y = data
    assert RNNRegressor(cell, **LEARN).fit(X, y).score(X, y) > 0.9


@pytest.mark.parametrize(
    "options",
    [
        {"num_layers": 2, "dropout": 0.1},
        {"bidirectional": True, "cell": "lstm"},
        {"init": "orthogonal", "cell": "lstm", "forget_bias": 1.0},
        {"dtype": "float64"},
        {"loss": "huber", "delta": 0.5},
        {"loss": "absolute_error"},
        {"loss": "quantile", "quantile": 0.5},
        {"solver": "adamw", "weight_decay": 1e-3},
        {"solver": "rmsprop", "beta_2": 0.9},
        {"solver": "sgd", "momentum": 0.9, "learning_rate_init": 0.2},
        {"solver": "sgd", "momentum": 0.9, "nesterovs_momentum": False, "learning_rate_init": 0.2},
        {"solver": "lbfgs", "dtype": "float64"},
        {"solver": "lbfgs"},
        {"learning_rate": "cosine"},
        {"learning_rate": StepSchedule(every=30)},
        {"alpha": 1e-4, "max_grad_norm": None, "batch_size": 10},
        {"ema_momentum": 0.9},
    ],
    ids=str,
)
def test_every_option_learns(data, options):
    X, y = data
    assert RNNRegressor(**{**LEARN, **options}).fit(X, y).score(X, y) > 0.8


def test_averages_of_weights_and_further_training(data):
    """An average goes on from the average of the call before; `partial_fit` does not average."""
    X, y = data
    options = SMALL | {"max_iter": 1, "n_iter_no_change": np.inf, "random_state": 0}
    averaged = RNNRegressor(**options, ema_momentum=0.9, warm_start=True).fit(X, y)
    weights = averaged.network_.parameters.copy()
    plain = RNNRegressor(**options).fit(X, y)
    assert (plain.network_.parameters != weights).any()
    # from the same weights on, in an update so small that the average is of them alone
    averaged.set_params(learning_rate_init=1e-30).fit(X, y)
    assert_allclose(averaged.network_.parameters, weights, rtol=1e-5)
    pair = [RNNRegressor(**options, ema_momentum=momentum) for momentum in (None, 0.9)]
    for model in pair:
        model.partial_fit(X, y).partial_fit(X, y)
    assert_array_equal(*(model.network_.parameters for model in pair))


def test_counts(data, rng):
    X, _ = data
    y = rng.poisson(np.exp(X[:, -1, 0]))
    model = RNNRegressor(**LEARN, loss="poisson").fit(X, y)
    assert (model.predict(X) > 0).all()
    assert model.score(X, y) > 0.7


def test_several_quantiles_at_once(rng):
    X, y = np.zeros((200, 2, 1)), rng.normal(size=200)
    model = RNNRegressor(**LEARN, loss="quantile", quantile=[0.1, 0.5, 0.9]).fit(X, y)
    assert model.predict(X).shape == (200, 3)
    assert_allclose(model.predict(X[:1])[0], np.quantile(y, [0.1, 0.5, 0.9]), atol=0.3)
    two = RNNRegressor(**SMALL, loss="quantile", quantile=[0.1, 0.9]).fit(X, y[:, np.newaxis])
    assert two.predict(X).shape == (200, 1, 2)
    with pytest.raises(ValueError, match="quantile"):
        model.score(X, y)


# ------------------------------------------------------------------ classes


@pytest.mark.parametrize("labels", [[0, 1], ["no", "yes"], [-1.0, 3.0], ["a", "b", "c"], [False, True]])
def test_labels_of_any_kind(data, labels):
    X, _ = data
    y = np.array(labels)[np.digitize(X[:, -1, 0], [0, 0.7][: len(labels) - 1])]
    model = RNNClassifier(**LEARN).fit(X, y)
    assert_array_equal(model.classes_, np.unique(y))
    assert_allclose(model.predict_proba(X).sum(axis=1), 1, rtol=1e-6)
    assert model.predict_proba(X).shape == (30, len(labels))
    assert_allclose(model.predict_log_proba(X), np.log(model.predict_proba(X)), rtol=1e-12)
    assert model.predict(X).dtype == y.dtype
    assert model.score(X, y) > 0.9


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_class_for_every_step(ragged, n_classes):
    X, _, steps = ragged
    y = [np.array(["down", "up", "far up"])[np.digitize(s, [0, 1.5][: n_classes - 1])] for s in steps]
    model = RNNClassifier(**{**LEARN, "max_iter": 150}, return_sequences=True, class_weight="balanced").fit(
        X, y
    )
    for method in (model.predict_proba, model.predict_log_proba):
        assert [p.shape for p in method(X)] == [(len(s), n_classes) for s in steps]
    assert [p.shape for p in model.predict(X)] == [s.shape for s in steps]
    assert model.score(X, y) > 0.9
    array, lengths = padded(X)
    table = np.full(array.shape[:2], "down", dtype="<U6")
    for row, labels in zip(table, y, strict=True):
        row[: len(labels)] = labels
    assert model.score(array, table, lengths=lengths) == model.score(X, y)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_probabilities_sum_to_one_in_the_precision_of_the_input(data, n_classes):
    X, y = data
    model = RNNClassifier(**SMALL).fit(X, np.arange(30) % n_classes)
    for dtype, eps in (("float32", 1e-6), ("float64", 1e-14)):
        found = model.predict_proba(X.astype(dtype))
        assert found.dtype == dtype
        assert_allclose(found.sum(axis=1), 1, rtol=0, atol=eps)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_loss(np.arange(30) % n_classes, model.predict_proba(X))


def test_class_weights_are_sample_weights(data):
    X, y = data
    y = (y > 0).astype(int)
    by_class = RNNClassifier(**SMALL, class_weight={0: 3.0, 1: 0.5}).fit(X, y)
    by_sample = RNNClassifier(**SMALL).fit(X, y, sample_weight=np.where(y == 0, 3.0, 0.5))
    assert_array_equal(by_class.predict_proba(X), by_sample.predict_proba(X))


# ------------------------------------------------------------------ weights


def test_a_weight_of_zero_is_no_sample(data):
    X, y = data
    weight = np.ones(30)
    weight[20:] = 0
    assert_array_equal(
        RNNRegressor(**SMALL).fit(X, y, weight).predict(X),
        RNNRegressor(**SMALL).fit(X[:20], y[:20]).predict(X),
    )


def test_a_weight_of_two_is_two_samples_and_order_is_nothing_where_one_batch_holds_all(data, rng):
    X, y = data
    options = {**SMALL, "batch_size": 60, "alpha": 0.1}
    weight = rng.integers(0, 3, 30)
    order = rng.permutation(weight.sum())
    repeated = RNNRegressor(**options).fit(np.repeat(X, weight, axis=0)[order], np.repeat(y, weight)[order])
    weighted = RNNRegressor(**options).fit(X, y, sample_weight=weight)
    assert_array_equal(repeated.predict(X), weighted.predict(X))


def penalty_of(alpha, X, y, weight=None):
    """The penalty in the loss of a network that does not move, of sequences with a target for each step."""
    losses = [
        RNNRegressor(**{**SMALL, "max_iter": 1, "batch_size": 60}, return_sequences=True, dtype="float64",
                     learning_rate_init=1e-300, alpha=strength).fit(X, y, weight)
        for strength in (0.0, alpha)
    ]  # fmt: skip
    parameters = losses[0].network_.parameters[losses[0].network_.penalized]
    return (losses[1].loss_ - losses[0].loss_) / (0.5 * alpha * (parameters @ parameters))


@pytest.mark.parametrize("twice", [0, 1])
def test_the_penalty_is_over_the_number_of_samples_whatever_their_steps(rng, twice):
    X = [rng.normal(size=(length, 1)) for length in (10, 1, 2)]
    y = [np.zeros(len(x)) for x in X]
    assert_allclose(penalty_of(10.0, X, y), 1 / 3, rtol=1e-9)
    assert_allclose(penalty_of(10.0, [*X, X[twice]], [*y, y[twice]]), 1 / 4, rtol=1e-9)
    weight = np.ones(3)
    weight[twice] = 2
    assert_allclose(penalty_of(10.0, X, y, weight), 1 / 4, rtol=1e-9)


def test_a_class_without_weight_is_left_out_of_the_mean(rng):
    X, y = rng.normal(size=(30, 4, 1)), rng.integers(0, 3, (30, 4))
    options = {**SMALL, "max_iter": 1, "batch_size": 30, "learning_rate_init": 1e-300, "dtype": "float64"}
    model = RNNClassifier(**options, return_sequences=True, class_weight={0: 0.0}).fit(X, y)
    p = model.predict_proba(X)
    assert_allclose(model.loss_, log_loss(y.ravel(), p.reshape(-1, 3), sample_weight=(y > 0).ravel()))


@pytest.mark.parametrize("return_sequences", [False, True])
def test_balanced_classes_are_those_of_the_weights(rng, return_sequences):
    X, y = rng.normal(size=(30, 4, 1)), np.repeat(["a", "b"], [20, 10])
    y = np.stack([y, *[rng.permutation(y) for _ in range(3)]], axis=1) if return_sequences else y
    options = {**SMALL, "batch_size": 60, "class_weight": "balanced", "return_sequences": return_sequences}
    weight = np.repeat([0, 1, 2], [12, 10, 8])
    repeated = RNNClassifier(**options).fit(np.repeat(X, weight, axis=0), np.repeat(y, weight, axis=0))
    weighted = RNNClassifier(**options).fit(X, y, weight)
    assert_allclose(repeated.predict_proba(X), weighted.predict_proba(X), rtol=1e-5)


def test_equal_samples_are_found_in_little_memory():
    x = np.zeros((3, 30_000, 1), "float32")
    x[1, -1], x[2] = 1, -0.0  # equal to the first
    tracemalloc.start()
    merged, _, weight, _ = merge_equal(x, np.zeros((3, 1)), None, None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sorted(zip(merged[:, -1, 0].tolist(), weight.tolist(), strict=True)) == [(0, 2), (1, 1)]
    assert peak < 10 * x.nbytes


def test_the_scale_of_weights_means_nothing(data, rng):
    X, y = data
    weight = rng.uniform(1, 2, 30)
    one, other = (RNNRegressor(**SMALL).fit(X, y, w).predict(X) for w in (weight, 1024 * weight))
    assert_array_equal(one, other)


# ------------------------------------------------------------------ parameters of other types


def test_a_delta_of_numpy_is_a_number(data):
    """As searches over distributions and ranges give them."""
    curves = [
        RNNRegressor(**SMALL, loss="huber", delta=delta).fit(*data).loss_curve_
        for delta in (0.5, np.float64(0.5), np.float32(0.5))
    ]
    assert curves[0] == curves[1] == curves[2]


def test_partial_fit_takes_another_solver_and_keeps_the_moments_of_the_same(data):
    X, y = data
    model = RNNRegressor(**SMALL, solver="sgd").partial_fit(X, y).partial_fit(X, y)
    assert model._optimizer.n_updates == 8
    model.set_params(solver="adam").partial_fit(X, y)
    assert isinstance(model._optimizer, OPTIMIZERS["adam"]) and model._optimizer.n_updates == 4
    assert model.set_params(beta_1=0.8).partial_fit(X, y)._optimizer.beta_1 == 0.8


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (np.ma.masked_less(np.zeros((9, 4, 1)) + np.arange(4)[:, None], 1), ValueError, "was a masked array"),
        (np.zeros((9, 4, 1), "datetime64[s]"), TypeError, "X had dtype datetime64"),
    ],
)
def test_arrays_that_are_no_numbers(X, error, message):
    with pytest.raises(error, match=message):
        RNNRegressor(**SMALL).fit(X, np.zeros(9))


# ------------------------------------------------------------------ what fit leaves


def test_attributes(data):
    X, y = data
    model = RNNRegressor(**SMALL).fit(X, y)
    assert len(model.loss_curve_) == model.n_iter_ == 3
    assert model.loss_ == model.loss_curve_[-1] and model.best_loss_ == min(model.loss_curve_)
    assert model.t_ == 90
    assert RNNRegressor(**{**SMALL, "batch_size": 60}).fit(np.zeros_like(X), 0 * y).t_ == 90
    assert model.validation_scores_ is None and model.best_validation_score_ is None
    assert model.n_features_in_ == 2


@pytest.mark.parametrize("shuffle", [True, False])
def test_early_stopping(data, shuffle):
    X, y = data
    options = {
        **SMALL,
        "early_stopping": True,
        "validation_fraction": 0.3,
        "shuffle": shuffle,
        "max_iter": 30,
    }
    model = RNNRegressor(**options).fit(X, y)
    assert model.best_validation_score_ == max(model.validation_scores_)
    assert len(model.validation_scores_) == model.n_iter_
    if not shuffle:  # the last samples are held out
        error = model.predict(X[21:]) - y[21:]
        assert_allclose(model.best_validation_score_, -0.5 * (error**2).mean(), rtol=1e-5)
    classifier = RNNClassifier(**options).fit(X, y > 0)
    assert classifier.best_validation_score_ < 0


def test_warm_start_goes_on(data):
    X, y = data
    model = RNNRegressor(**SMALL, warm_start=True).fit(X, y)
    first = model.loss_
    network = model.network_
    assert model.fit(X, y).loss_curve_[0] < first
    assert model.network_ is not network
    assert RNNRegressor(**SMALL).fit(X, y).loss_curve_[0] > first


def test_partial_fit_goes_on(data):
    X, y = data
    model = RNNRegressor(**SMALL)
    for _ in range(5):
        model.partial_fit(X, y)
    assert model.n_iter_ == len(model.loss_curve_) == 5 and model.t_ == 150
    assert model.loss_curve_[4] < model.loss_curve_[0]
    whole = RNNRegressor(**{**SMALL, "max_iter": 5}).fit(X, y)
    assert_array_equal(model.predict(X), whole.predict(X))
    assert model.fit(X, y).n_iter_ == 3
    assert model.partial_fit(X, y).n_iter_ == 4


CHANGES = {
    "cell": "lstm", "hidden_size": 7, "num_layers": 2, "bidirectional": True, "dropout": 0.5,
    "dtype": "float64",
}  # fmt: skip


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("name", CHANGES)
def test_going_on_with_another_network_is_refused_by_name(data, method, name):
    X, y = data
    model = RNNRegressor(**SMALL, warm_start=True).fit(X, y)
    before = model.predict(X)
    model.set_params(**{name: CHANGES[name]})
    with pytest.raises(ValueError, match=f"^{name} was {CHANGES[name]!r}; expected .*, as in the call"):
        getattr(model, method)(X, y)
    assert_array_equal(model.predict(X), before)


def test_going_on_with_other_outputs_or_channels_is_refused(data):
    X, y = data
    wide = X.reshape(30, 10)
    model = RNNRegressor(**SMALL).fit(wide, y).set_params(n_channels=2)
    with pytest.raises(ValueError, match="^n_channels was 2; expected 1"):
        model.partial_fit(wide, y)
    model = RNNRegressor(**SMALL).fit(X, y)
    with pytest.raises(ValueError, match="outputs for y was 2; expected 1"):
        model.partial_fit(X, np.stack([y, y], axis=1))
    model.set_params(return_sequences=True)
    with pytest.raises(ValueError, match="^return_sequences was True; expected False"):
        model.partial_fit(X, X[:, :, 0])


def test_partial_fit_heeds_n_jobs(data):
    model = RNNRegressor(**SMALL).fit(*data)
    assert model.set_params(n_jobs=2).partial_fit(*data).network_.recurrent.n_jobs == 2


def test_predictions_follow_the_fit_not_parameters_set_later(rng):
    X = rng.normal(size=(20, 6))
    model = RNNRegressor(**SMALL, loss="quantile", quantile=[0.1, 0.9], n_channels=2).fit(X, X[:, 0])
    before = model.predict(X)
    model.set_params(
        loss="poisson", quantile=0.5, return_sequences=True, n_channels=1, dtype="float64", hidden_size=9
    )
    assert_array_equal(model.predict(X), before)
    with pytest.raises(ValueError, match=r"^quantile was \[0.1, 0.9\] in fit; score expects a single number"):
        model.score(X, X[:, 0])
    x = X.reshape(20, 3, 2)
    each = RNNClassifier(**SMALL, return_sequences=True).fit(list(x), x[:, :, 0] > 0)
    before, score = each.predict(list(x)), each.score(x, x[:, :, 0] > 0)
    each.set_params(return_sequences=False)
    assert_array_equal(each.predict(list(x)), before)
    assert isinstance(each.predict(list(x)), list) and each.score(x, x[:, :, 0] > 0) == score


def test_a_callback_may_end_partial_fit(data):
    X, y = data
    seen = []
    model = RNNRegressor(**SMALL, callbacks=[seen.append, lambda info: info["batch"] == 1])
    model.partial_fit(X, y).partial_fit(X, y)
    assert [info["batch"] for info in seen] == [0, 1, 0, 1]
    assert model.n_iter_ == len(model.loss_curve_) == 2 and model._optimizer.n_updates == 4


def test_partial_fit_of_classes_that_come_later(data):
    X, y = data
    y = np.digitize(y, [0])
    model = RNNClassifier(**SMALL).partial_fit(X[y == 0], y[y == 0], classes=[0, 1, 2])
    model.partial_fit(X, y)
    assert model.predict_proba(X).shape == (30, 3)
    with pytest.raises(ValueError, match="y had classes"):
        model.partial_fit(X, y + 5)
    with pytest.raises(ValueError, match="classes"):
        RNNClassifier(**SMALL).partial_fit(X, y)


def test_class_weights_may_name_a_class_that_a_batch_does_not_have(data):
    X, y = data
    y = np.digitize(y, [-0.5, 0.5])
    weights, rest = {0: 2.0, 1: 1.0, 2: 1.0}, y > 0
    one, other = (
        RNNClassifier(**SMALL, class_weight=given)
        .partial_fit(X, y, classes=[0, 1, 2])
        .partial_fit(X[rest], y[rest])
        for given in ({0: 2.0}, weights)
    )
    assert_array_equal(one.predict_proba(X), other.predict_proba(X))
    # a class whose samples all have a weight of zero may be named as well
    for given in ({0: 2.0, 1: 3.0}, {0: 2.0}):
        model = RNNClassifier(**SMALL, class_weight=given).fit(X, y, sample_weight=1.0 * rest)
        assert model.classes_.tolist() == [1, 2]


@pytest.mark.parametrize(("class_weight", "wrong"), [({"a": 5, "B": 3}, "'B'"), ({"A": 1, 3: 3}, "'A', 3")])
def test_class_weights_of_no_class_are_named(data, class_weight, wrong):
    X, y = data[0], np.array(list("abc") * 10)
    expected = rf"^class_weight had {wrong}, which is no class of y: \['a', 'b', 'c'\]"
    with pytest.raises(ValueError, match=expected):
        RNNClassifier(**SMALL, class_weight=class_weight).fit(X, y)
    RNNClassifier(**SMALL, class_weight=dict.fromkeys("abcd", 1)).fit(X, y)


def test_partial_fit_is_not_for_lbfgs():
    assert not hasattr(RNNRegressor(solver="lbfgs"), "partial_fit")


@pytest.mark.parametrize("Model", [RNNRegressor, RNNClassifier])
@pytest.mark.parametrize("through", [lambda m: pickle.loads(pickle.dumps(m)), clone])
def test_pickle_and_clone(data, Model, through):
    X, y = data
    y = y > 0
    model = Model(**SMALL, learning_rate="step").fit(X, y)
    other = through(model)
    if hasattr(other, "network_"):
        assert_array_equal(other.predict(X), model.predict(X))
        assert_array_equal(other.partial_fit(X, y).predict(X), model.partial_fit(X, y).predict(X))
    else:
        assert_array_equal(other.fit(X, y).predict(X), model.predict(X))


def test_positional_parameters_and_repr():
    assert repr(RNNRegressor("lstm", 32)) == "RNNRegressor(cell='lstm', hidden_size=32)"


def test_too_few_epochs_are_warned_of(data):
    with pytest.warns(ConvergenceWarning, match="RNNRegressor: max_iter=3"):
        RNNRegressor(**SMALL).fit(*data)


def test_callbacks_and_verbose(data, capsys):
    seen = []
    RNNRegressor(**SMALL, callbacks=seen.append, verbose=1).fit(*data)
    assert {info["event"] for info in seen} == {"batch", "epoch"}
    assert capsys.readouterr().err.count("RNNRegressor: epoch") == 3
    seen.clear()
    RNNRegressor(**SMALL, callbacks=[seen.append, lambda info: True]).fit(*data)
    assert len(seen) == 1


# ------------------------------------------------------------------ the same bits


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cell": "lstm", "num_layers": 2, "dropout": 0.2},
        {"bidirectional": True, "return_sequences": True},
    ],
    ids=str,
)
def test_the_same_bits_with_any_number_of_threads(rng, options):
    X = rng.normal(size=(80, 20, 3))
    y = rng.normal(size=(80, 20, 7) if "return_sequences" in options else (80, 7))
    settings = {"hidden_size": 32, "max_iter": 2, "batch_size": 64, "random_state": 0, **options}
    models = [RNNRegressor(**settings, n_jobs=n).fit(X, y) for n in (1, 2, 4)]
    for model in models[1:]:
        assert_array_equal(model.network_.parameters, models[0].network_.parameters)
        assert_array_equal(model.predict(X), models[0].predict(X))


def test_another_seed_gives_other_weights(data):
    one, other = (RNNRegressor(**{**SMALL, "random_state": seed}).fit(*data) for seed in (0, 1))
    assert (one.network_.parameters != other.network_.parameters).all()


def test_dropout_goes_on_in_a_copy_as_in_the_original(data):
    X, y = data
    model = RNNRegressor(**SMALL, num_layers=2, dropout=0.5).fit(X, y)
    copy = pickle.loads(pickle.dumps(model))
    assert_array_equal(copy.partial_fit(X, y).predict(X), model.partial_fit(X, y).predict(X))


def test_partial_fit_that_failed_has_drawn_nothing(data):
    X, y = data
    model = RNNRegressor(**SMALL, num_layers=2, dropout=0.5).fit(X, y)
    copy = pickle.loads(pickle.dumps(model))
    wild = X.copy()
    wild[20:] = 1e30
    with pytest.raises(FloatingPointError):
        model.partial_fit(wild, y)
    assert_array_equal(model.partial_fit(X, y).predict(X), copy.partial_fit(X, y).predict(X))


def test_random_state_objects(data):
    models = [
        RNNRegressor(**{**SMALL, "random_state": np.random.RandomState(3)}).fit(*data) for _ in range(2)
    ]
    assert_array_equal(models[0].predict(data[0]), models[1].predict(data[0]))


# ------------------------------------------------------------------ what goes wrong


def bad(X, y, **changes):
    return {"X": X, "y": y, **changes}


BAD_INPUT = {
    "nan": ("X", lambda X, y: bad(np.where(X > 1, np.nan, X), y)),
    "inf": ("X", lambda X, y: bad(np.where(X > 1, np.inf, X), y)),
    "too large": ("X", lambda X, y: bad(X * 1e300, y)),
    "nan in y": ("y", lambda X, y: bad(X, np.where(y > 0, np.nan, y))),
    "inf in y": ("y", lambda X, y: bad(X, np.where(y > 0, np.inf, y))),
    "too large y": ("y", lambda X, y: bad(X, y * 1e300)),
    "too large squares of y": (r"^y had values up to .*e\+20 in size, where squared_error is infinite",
                               lambda X, y: bad(X, y * 1e20)),
    "nan in weight": ("sample_weight", lambda X, y: bad(X, y, sample_weight=np.where(y > 0, np.nan, 1))),
    "inf in weight": ("sample_weight", lambda X, y: bad(X, y, sample_weight=np.where(y > 0, np.inf, 1))),
    "negative weight": ("sample_weight", lambda X, y: bad(X, y, sample_weight=np.sign(y))),
    "all weights zero": ("sample_weight", lambda X, y: bad(X, y, sample_weight=0 * y)),
    "weights too few": ("sample_weight", lambda X, y: bad(X, y, sample_weight=np.ones(3))),
    "strings": ("X", lambda X, y: bad(X.astype(str).astype(object) + "a", y)),
    "strings in 2-D": ("X", lambda X, y: bad([["a", "b"]] * 30, y)),
    "strings in y": ("y", lambda X, y: bad(X, np.full(30, "a"))),
    "complex": ("^X had dtype complex128; expected real", lambda X, y: bad(X + 1j, y)),
    "complex y": ("^y had dtype complex128; expected real", lambda X, y: bad(X, y * 1j)),
    "dates in y": ("^y had dtype datetime64", lambda X, y: bad(X, y.astype("M8[D]"))),
    "masked y": ("^y was a masked array", lambda X, y: bad(X, np.ma.masked_array(y, y > 0))),
    "one dimension": ("X", lambda X, y: bad(X[:, 0, 0], y)),
    "four dimensions": ("X had 4 dimensions; expected 3", lambda X, y: bad(X[np.newaxis], y)),
    "no steps": ("X", lambda X, y: bad(X[:, :0], y)),
    "no features": ("X", lambda X, y: bad(X[:, :, :0], y)),
    "no samples": ("X", lambda X, y: bad(X[:0], y[:0])),
    "None": ("X", lambda X, y: bad(None, y)),
    "y is None": ("y", lambda X, y: bad(X, None)),
    "y too short": ("y", lambda X, y: bad(X, y[:-1])),
    "y with too many dimensions": ("y", lambda X, y: bad(X, np.zeros((30, 2, 2)))),
    "sequences with other features": (r"X\[1\]", lambda X, y: bad([X[0], X[1, :, :1], *X[2:]], y)),
    "a sequence with one dimension": (r"X\[1\]", lambda X, y: bad([X[0], X[1, :, 0], *X[2:]], y)),
    "a sequence without steps": (r"X\[2\]", lambda X, y: bad([*X[:2], X[2, :0], *X[3:]], y)),
    "a sequence with nan": (r"X\[0\]", lambda X, y: bad([X[0] * np.nan, *X[1:]], y)),
    "a sequence of strings": (r"X\[0\]", lambda X, y: bad([[["a", "b"]], *X[1:]], y)),
    "no sample in a list": ("^X was empty; expected at least one sample", lambda X, y: bad([], [])),
    "unequal rows": (r"^X\[1\] had 1 numbers and X\[0\] 2; expected .*\(n_timesteps, n_features\)",
                     lambda X, y: bad([[1.0, 2.0], [1.0]], y[:2])),
    "lengths of a list": ("lengths", lambda X, y: bad(list(X), y, lengths=np.full(30, 5))),
    "lengths too long": ("lengths", lambda X, y: bad(X, y, lengths=np.full(30, 6))),
    "lengths zero": ("lengths", lambda X, y: bad(X, y, lengths=np.full(30, 0))),
    "lengths not whole": ("^lengths", lambda X, y: bad(X, y, lengths=np.full(30, 1.5))),
    "lengths too few": ("^lengths", lambda X, y: bad(X, y, lengths=[1, 2])),
    "mask of numbers": ("^mask had dtype", lambda X, y: bad(X, y, mask=np.ones((30, 5)))),
    "mask too short": ("^mask had shape", lambda X, y: bad(X, y, mask=np.ones((30, 4), bool))),
    "mask of unequal length": ("^mask", lambda X, y: bad(X, y, mask=[[True], [True, False]])),
    "mask without a step": ("^mask left no step of sample 3", lambda X, y: bad(
        X, y, mask=np.arange(30)[:, np.newaxis] * np.ones(5) != 3)),
    "mask without a step before the end": ("^mask left no step of sample 0", lambda X, y: bad(
        X, y, lengths=np.full(30, 2), mask=np.tile([False, False, True, True, True], (30, 1)))),
    "masks too few": ("^mask had 3 sequences", lambda X, y: bad(list(X), y, mask=[[True] * 5] * 3)),
    "masks too short": (r"^mask\[0\] had shape", lambda X, y: bad(list(X), y, mask=[[True] * 4] * 30)),
    "masks of numbers": (r"^mask\[0\] had dtype", lambda X, y: bad(list(X), y, mask=[[1] * 5] * 30)),
    "nan at a step that counts": ("X", lambda X, y: bad(X * np.nan, y, mask=np.eye(30, 5) < 1)),
    "nan in a list at a step that counts": ("X", lambda X, y: bad(
        list(X * np.nan), y, mask=list(np.eye(30, 5) < 1))),
    "lengths of unequal length": ("^lengths", lambda X, y: bad(X, y, lengths=[1, [2, 3]])),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_refused_by_name_and_changes_nothing(data, case, monkeypatch):
    name, make = BAD_INPUT[case]
    model = RNNRegressor(**SMALL).fit(*data)
    before = dict(vars(model))
    monkeypatch.setattr("numbarnn.training.Trainer.fit", None)  # before training
    arguments = make(*data)
    with pytest.raises((ValueError, TypeError), match=name):
        model.fit(**arguments)
    assert vars(model) == before
    if name.startswith("X") and arguments["X"] is not None and len(arguments["X"]):
        with pytest.raises((ValueError, TypeError), match=name):
            model.predict(arguments["X"])


def test_bad_input_of_other_kinds(data, ragged):
    X, y = data
    fitted = RNNRegressor(**SMALL).fit(X, y)
    each = RNNRegressor(**SMALL, return_sequences=True)
    steps_fitted = RNNRegressor(**SMALL, return_sequences=True).fit(X, X[:, :, 0])
    classes_fitted = RNNClassifier(**SMALL, return_sequences=True).fit(X, X[:, :, 0] > 0)
    lists, _, steps = ragged
    for model, match, call in [
        (fitted, "X had 2 dimensions", lambda m: m.predict(X[:, :, 0])),
        (fitted, "X had 1 features", lambda m: m.predict(X[:, :, :1])),
        (RNNRegressor(n_channels=3), "X had 10 columns", lambda m: m.fit(X.reshape(30, 10), y)),
        (each, "y had the shape", lambda m: m.fit(X, y)),
        (each, "y had the shape", lambda m: m.fit(X, X[:, :3, 0])),
        (
            each,
            r"y\[0\] had",
            lambda m: m.fit(lists, [[*steps[0], 1.0], *steps[1:]]),
        ),
        (RNNRegressor(loss="poisson"), "y had the value", lambda m: m.fit(X, y)),
        (RNNRegressor(loss="quantile", quantile=[0.5, 2]), "^quantile", lambda m: m.fit(X, y)),
        (RNNRegressor(loss="quantile", quantile=[]), "^quantile", lambda m: m.fit(X, y)),
        (RNNRegressor(loss="quantile", quantile=["a"]), "^quantile", lambda m: m.fit(X, y)),
        (RNNRegressor(callbacks=[print, 3]), "^callbacks", lambda m: m.fit(X, y)),
        (RNNRegressor(forget_bias=np.nan), "The 'forget_bias' parameter", lambda m: m.fit(X, y)),
        (RNNRegressor(solver="lbfgs", num_layers=2, dropout=0.1), "^dropout", lambda m: m.fit(X, y)),
        (RNNRegressor(early_stopping=True), "validation_fraction", lambda m: m.fit(X[:5], y[:5])),
        (RNNRegressor(early_stopping=True), "early_stopping", lambda m: m.partial_fit(X, y)),
        (
            RNNRegressor(**{**SMALL, "batch_size": 1}, early_stopping=True, stateful=True),
            "^sample_weight .* early_stopping=True",
            lambda m: m.fit(X, y, sample_weight=np.r_[np.ones(20), np.zeros(10)]),
        ),
        (RNNRegressor(n_jobs=0), "n_jobs", lambda m: m.fit(X, y)),
        (RNNRegressor("no such cell"), "cell", lambda m: m.fit(X, y)),
        (RNNRegressor(**SMALL, warm_start=True).fit(X, y), "y", lambda m: m.fit(X, np.zeros((30, 2)))),
        (RNNClassifier(**SMALL), "y", lambda m: m.fit(X, np.ones(30))),
        (RNNClassifier(**SMALL), "y|label", lambda m: m.fit(X, y)),
        (RNNClassifier(class_weight={False: 0, True: 0}), "^class_weight", lambda m: m.fit(X, y > 0)),
        (RNNClassifier(class_weight={True: -1}), r"^class_weight\[True\]", lambda m: m.fit(X, y > 0)),
        (RNNClassifier(class_weight={True: np.nan}), r"^class_weight\[True\]", lambda m: m.fit(X, y > 0)),
        (RNNClassifier(class_weight={"a": 1}), "class_weight", lambda m: m.fit(X, y > 0)),
        (RNNClassifier(**SMALL), "^y had one class, 1;", lambda m: m.fit(X, np.ones(30, int))),
        (
            RNNClassifier(**SMALL),
            "^y had one class of samples with a weight above 0, True;",
            lambda m: m.fit(X, y > 0, sample_weight=1.0 * (y > 0)),
        ),
        (
            RNNClassifier(**SMALL, return_sequences=True),
            r"^y had one label for each of 30 samples; expected one for each step, \(30, 5\)",
            lambda m: m.fit(X, y > 0),
        ),
        (steps_fitted, "^y was None", lambda m: m.score(X, None)),
        (classes_fitted, "^y was None", lambda m: m.score(X, None)),
        (classes_fitted, "sample_weight", lambda m: m.score(X, X[:, :, 0] > 0, sample_weight=[1.0])),
        (
            RNNClassifier(**SMALL, class_weight="balanced"),
            "class_weight",
            lambda m: m.partial_fit(X, y > 0, [0, 1]),
        ),
    ]:
        with pytest.raises(ValueError, match=match):
            call(model)


OPTIONS = {
    "hidden_size": 0, "num_layers": 1.5, "bidirectional": "yes", "dropout": 1.0, "loss": "log_loss",
    "solver": "newton", "learning_rate_init": 0.0, "learning_rate": "fast", "alpha": -1.0, "batch_size": 0,
    "max_iter": 0, "tol": -1, "n_iter_no_change": 0, "validation_fraction": 0.0, "max_grad_norm": 0,
    "initial_state": "ones", "return_sequences": 2, "n_channels": 0, "dtype": "float16", "device": "tpu",
    "n_jobs": "all", "random_state": "x", "verbose": -1, "momentum": 1.0, "beta_1": 1, "beta_2": -1,
    "epsilon": 0, "weight_decay": -1, "init": "zeros", "forget_bias": "one", "callbacks": 3, "delta": 0,
    "quantile": 1.0, "cell": 5, "ema_momentum": 1.0,
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_make_no_sense_are_refused_by_name(data, name):
    with pytest.raises(ValueError, match=f"The '{name}' parameter"):
        RNNRegressor(**{name: OPTIONS[name]}).fit(*data)


@pytest.mark.parametrize(("name", "value"), [
    ("hidden_size", 10**9), ("num_layers", 10**9), ("head_sizes", [10**9, 10**9]),
])
def test_sizes_that_no_memory_holds(data, name, value):
    named = "head" if name == "head_sizes" else name
    with pytest.raises(ValueError, match=f"{named}.*1000000000.*; expected at most"):
        RNNRegressor(**SMALL | {name: value}).fit(*data)


def test_the_options_are_those_there_are():
    constraint = RNNRegressor._parameter_constraints
    assert constraint["solver"][0].options == {*OPTIMIZERS, "lbfgs"}
    assert constraint["learning_rate"][0].options == set(SCHEDULES)
    assert constraint["loss"][0].options | RNNClassifier._parameter_constraints["loss"][0].options == set(
        LOSSES
    )


def test_the_documentation_names_every_cell():
    for cell in vars(cells).values():
        if isinstance(cell, cells.Cell) and cells.CELLS.get(cell.name) is cell:
            assert f'"{cell.name}"' in RNNRegressor.__doc__


def test_prediction_needs_a_fit(data):
    with pytest.raises(NotFittedError):
        RNNRegressor().predict(data[0])


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("warm_start", [False, True])
def test_a_fit_that_fails_leaves_the_estimator_as_it_was(data, method, warm_start):
    X, y = data
    model = RNNRegressor(**SMALL, warm_start=warm_start).fit(X, y)
    before, state = model.predict(X), model._optimizer.state.copy()
    wild = X.copy()
    wild[20:] = 1e30  # some batches are learned before one overflows
    with pytest.raises(FloatingPointError, match="learning_rate_init"):
        getattr(model, method)(wild, y)
    assert_array_equal(model.predict(X), before)
    assert_array_equal(model._optimizer.state, state)
    assert model.n_iter_ == len(model.loss_curve_) == 3


def test_ctrl_c_leaves_a_usable_estimator(data):
    X, y = data
    with pytest.warns(ConvergenceWarning, match="interrupted"):
        model = RNNRegressor(**SMALL, callbacks=lambda info: signal.raise_signal(signal.SIGINT)).fit(X, y)
    assert np.isfinite(model.predict(X)).all() and model.n_iter_ == 1


def test_an_error_in_a_callback_leaves_the_estimator_unfitted(data):
    def fail(info):
        raise RuntimeError("mine")

    model = RNNRegressor(**SMALL, callbacks=fail)
    before = dict(vars(model))
    with pytest.raises(RuntimeError, match="mine"):
        model.fit(*data)
    assert vars(model) == before


def test_nothing_is_warned_of_where_all_is_well(data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RNNRegressor(**{**SMALL, "tol": 10.0, "n_iter_no_change": 1}).fit(*data)


def test_weights_of_what_is_held_out_do_not_change_the_training():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 8, 2))
    y = X[:, -1, 0] + X[:, -2, 1]
    fits = []
    for scale in (1, 100):
        weight = np.r_[np.ones(30), np.full(30, scale)]
        model = RNNRegressor(
            hidden_size=6, early_stopping=True, shuffle=False, validation_fraction=0.5, solver="sgd",
            alpha=0.1, learning_rate_init=0.1, max_iter=5, n_iter_no_change=np.inf, random_state=0,
            dtype="float64",
        )  # fmt: skip
        fits.append(model.fit(X, y, sample_weight=weight))
        error = np.square(model.predict(X) - y)[30:].mean() / 2
        assert model.best_validation_score_ == pytest.approx(-error, rel=1e-9)
    assert_allclose(fits[0].loss_curve_, fits[1].loss_curve_, rtol=1e-12)


def test_classes_that_cannot_be_on_both_sides_are_named():
    X = np.random.default_rng(0).normal(size=(60, 4, 1))
    model = RNNClassifier(early_stopping=True)
    with pytest.raises(ValueError, match="y had one sample of class 'z'; early_stopping=True expects two"):
        model.fit(X, ["z"] + ["a", "b"] * 29 + ["a"])
    with pytest.raises(ValueError, match="validation_fraction was 0.1.*54 samples .* 6 .* 20 classes"):
        model.fit(X, [f"k{i % 20}" for i in range(60)])
