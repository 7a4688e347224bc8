"""Masks of missing steps: in Network, and under the estimators' fit, partial_fit, predict and score."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import oracle
from numbarnn import RNNClassifier, RNNRegressor
from numbarnn.cells import CELLS
from numbarnn.network import Network

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

OPTIONS = {
    "max_iter": 3, "hidden_size": 6, "random_state": 0, "n_jobs": 1, "batch_size": 8, "dtype": "float64",
}  # fmt: skip


@pytest.fixture
def data():
    """X (30, 7, 3) with a category in feature 2, nan at missing steps; the mask; X without these steps."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 7, 3))
    X[:, :, 2] = rng.integers(0, 4, (30, 7))
    mask = rng.random((30, 7)) > 0.4
    mask[np.arange(30), rng.integers(0, 7, 30)] = True
    mask[:2] = [[True] * 7, [False] * 6 + [True]]
    short = [x[here] for x, here in zip(X, mask, strict=True)]
    X[~mask] = np.nan
    return X, mask, short


def targets(short):
    """A target for each sequence, and one for each of its steps."""
    return np.array([x[:, 0].mean() for x in short]), [np.cumsum(x[:, 0]) for x in short]


def spread(steps, mask, fill=np.nan):
    """What belongs to the steps that are there, in an array of all steps."""
    array = np.full(mask.shape, fill, np.asarray(steps[0]).dtype)
    array[mask] = np.concatenate(steps)
    return array


# ------------------------------------------------------------------ the network


@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"cell": "gru", "embedding": [(2, 4, 2)], "stem_sizes": (4,), "head_sizes": (5,), "num_layers": 2},
        {"cell": "lstm", "bidirectional": True, "num_layers": 2, "initial_state": "learned"},
        {"cell": "lstm", "bidirectional": True, "num_layers": 2, "residual": True, "proj_size": 2},
        {"cell": "gru", "bidirectional": True, "num_layers": 2, "residual": True, "merge": "product"},
    ],
    ids=str,
)
def test_output_and_gradient_are_those_without_the_missing_steps(data, options, return_sequences):
    X, mask, short = data
    X, mask, short = np.nan_to_num(X[:6]), mask[:6], short[:6]
    network = Network(input_size=3, hidden_size=4, n_outputs=2, random_state=0, dtype="float64", n_jobs=1,
                      return_sequences=return_sequences, **options)  # fmt: skip
    found = network.forward(X, mask)
    for row, x, here in zip(found, short, mask, strict=True):
        alone = network.forward(x[np.newaxis])[0]
        assert_allclose(row[here] if return_sequences else row, alone, rtol=1e-12)
    draw = np.random.default_rng(2).normal(size=found.shape)
    if return_sequences:
        draw[~mask] = 0
    network.gradients[:] = np.nan  # all of it is written
    network.forward(X, mask, training=True)
    network.backward(draw)
    slopes = oracle.finite_difference(lambda: (network.forward(X, mask) * draw).sum(), network.parameters)
    assert_allclose(network.gradients, slopes, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_holds_its_state(data, cell):
    X, mask, short = np.nan_to_num(data[0]), *data[1:]
    network = Network(cell, 3, 4, 2, num_layers=2, random_state=0, dtype="float64", n_jobs=1)
    draw = np.random.default_rng(2).normal(size=(30, 2))
    network.forward(X, mask, training=True)
    network.backward(draw)
    gradients, expected = network.gradients.copy(), 0
    for x, row, d in zip(short, network.forward(X, mask), draw, strict=True):
        assert_allclose(row, network.forward(x[np.newaxis], training=True)[0], rtol=1e-12)
        network.backward(d[np.newaxis])
        expected = expected + network.gradients
    assert_allclose(gradients, expected, rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------ one output for a sequence

FITS = [
    {},
    {"cell": "lstm", "bidirectional": True, "num_layers": 2, "residual": True, "merge": "sum"},
    {"embedding": [(2, 4, 2)], "stem_sizes": (5,), "head_sizes": (4,), "initial_state": "learned"},
    {"cell": "lstm", "proj_size": 3, "batch_size": 60},
    {"solver": "lbfgs"},
    {"early_stopping": True, "validation_fraction": 0.3, "alpha": 0.1},
    {"dtype": "float32"},
]


@pytest.mark.parametrize("options", FITS, ids=str)
def test_a_mask_is_the_same_as_sequences_without_the_missing_steps(data, options):
    X, mask, short = data
    y, _ = targets(short)
    weight = np.linspace(0, 1, 30)
    options = OPTIONS | options
    close = {"rtol": 1e-4, "atol": 1e-5} if options["dtype"] == "float32" else {"rtol": 1e-7, "atol": 1e-9}
    model = RNNRegressor(**options).fit(X, y, weight, mask=mask)
    other = RNNRegressor(**options).fit(short, y, weight)
    assert_allclose(model.loss_curve_, other.loss_curve_, **close)
    assert_allclose(model.predict(X, mask=mask), other.predict(short), **close)
    assert_allclose(model.score(X, y, weight, mask=mask), other.score(short, y, weight), **close)


@pytest.mark.parametrize("options", FITS, ids=str)
def test_a_target_for_every_step_that_is_there(data, options):
    X, mask, short = data
    _, steps = targets(short)
    y, weight = spread(steps, mask), np.linspace(0, 1, 30)
    options = OPTIONS | options | {"return_sequences": True}
    close = {"rtol": 1e-4, "atol": 1e-5} if options["dtype"] == "float32" else {"rtol": 1e-7, "atol": 1e-9}
    model = RNNRegressor(**options).fit(X, y, weight, mask=mask)
    other = RNNRegressor(**options).fit(short, steps, weight)
    assert_allclose(model.loss_curve_, other.loss_curve_, **close)
    found = model.predict(X, mask=mask)
    assert (found[~mask] == 0).all()
    assert_allclose(found[mask], np.concatenate(other.predict(short)), **close)
    assert_allclose(model.score(X, y, weight, mask=mask), other.score(short, steps, weight), **close)


@pytest.mark.parametrize("class_weight", [None, "balanced", {"down": 2.0, "up": 0.5}])
@pytest.mark.parametrize("return_sequences", [False, True])
def test_classes(data, return_sequences, class_weight):
    X, mask, short = data
    y, steps = targets(short)
    here = there = np.where(y > 0, "up", "down")
    if return_sequences:
        there = [np.where(step > 0, "up", "down") for step in steps]
        here = spread(there, mask, "-")
    model, other = (
        RNNClassifier(**OPTIONS, return_sequences=return_sequences, class_weight=class_weight)
        for _ in range(2)
    )
    weight = np.linspace(0, 1, 30)
    model.fit(X, here, weight, mask=mask)
    other.fit(short, there, weight)
    assert_array_equal(model.classes_, ["down", "up"])
    assert_allclose(model.loss_curve_, other.loss_curve_, rtol=1e-9)
    found, expected = model.predict_proba(X, mask=mask), other.predict_proba(short)
    if return_sequences:
        assert (found[~mask] == 0).all()
        found, expected = found[mask], np.concatenate(expected)
        assert_array_equal(model.predict(X, mask=mask)[mask], np.concatenate(other.predict(short)))
    assert_allclose(found, expected, rtol=1e-9)
    assert model.score(X, here, weight, mask=mask) == other.score(short, there, weight)


# ------------------------------------------------------------------ forms of the mask


@pytest.mark.parametrize("return_sequences", [False, True])
def test_a_list_of_masks_lengths_and_windows(data, return_sequences):
    X, mask, short = data
    lengths = 1 + np.arange(30) % 7
    mask[np.arange(30), lengths - 1] = np.arange(30) % 2 == 0  # half of them end in a missing step
    mask[:, 0] = True
    X = np.where(mask[:, :, np.newaxis], np.nan_to_num(X), np.nan)
    y = X[:, :, 0] if return_sequences else X[:, 0, 0]
    options = OPTIONS | {"return_sequences": return_sequences}
    parts = (X, mask, y) if return_sequences else (X, mask)
    cut = [[row[:n] for row, n in zip(array, lengths, strict=True)] for array in parts]
    cut = cut if return_sequences else [*cut, y]
    one = RNNRegressor(**options).fit(X, y, lengths=lengths, mask=mask)
    found = one.predict(X, lengths, mask)
    listed = RNNRegressor(**options).fit(cut[0], cut[2], mask=cut[1])
    assert_array_equal(listed.network_.parameters, one.network_.parameters)
    for row, expected, n in zip(listed.predict(cut[0], mask=cut[1]), found, lengths, strict=True):
        assert_array_equal(row, expected[:n] if return_sequences else expected)
    assert one.score(X, y, lengths=lengths, mask=mask) == listed.score(cut[0], cut[2], mask=cut[1])
    wide = RNNRegressor(**options, n_channels=3).fit(X.reshape(30, -1), y, lengths=lengths, mask=mask)
    assert_array_equal(wide.predict(X.reshape(30, -1), lengths, mask.tolist()), found)
    if return_sequences:
        wrong = [cut[2][0], cut[2][1][:1], *cut[2][2:]]
        with pytest.raises(ValueError, match=r"y\[1\] had 1 steps; expected the 2 of X\[1\]"):
            RNNRegressor(**options).fit(cut[0], wrong, mask=cut[1])


@pytest.mark.parametrize("filling", [99.0, 1e300, np.nan, np.inf])
def test_what_is_at_missing_steps_is_not_looked_at(data, filling):
    X, mask, short = data
    y = spread(targets(short)[1], mask, 0.0)
    options = OPTIONS | {"return_sequences": True, "embedding": [(2, 4, 2)], "stem_sizes": (4,)}
    clean = RNNRegressor(**options).fit(np.nan_to_num(X), y, mask=mask)
    X[~mask] = y[~mask] = filling
    before = X.copy(), y.copy(), mask.copy()
    model = RNNRegressor(**options).fit(X, y, mask=mask)
    assert_array_equal(model.network_.parameters, clean.network_.parameters)
    assert_array_equal(model.predict(X, mask=mask), clean.predict(np.nan_to_num(X), mask=mask))
    for array, same in zip((X, y, mask), before, strict=True):
        assert_array_equal(array, same)


def test_a_mask_that_leaves_out_nothing_changes_no_bit(data):
    X, mask, short = data
    X, (y, _), lengths = np.nan_to_num(X), targets(short), 1 + np.arange(30) % 7
    for end in (None, lengths):
        whole = np.ones(mask.shape, bool) if end is None else np.arange(7) < end[:, np.newaxis]
        model = RNNRegressor(**OPTIONS).fit(X, y, lengths=end, mask=whole)
        plain = RNNRegressor(**OPTIONS).fit(X, y, lengths=end)
        assert_array_equal(model.predict(X, end, whole), plain.predict(X, end))


def test_the_same_bits_with_any_number_of_threads(data):
    X, mask, short = data
    y, _ = targets(short)
    options = OPTIONS | {"bidirectional": True, "batch_size": 30}
    found = [
        RNNRegressor(**{**options, "n_jobs": n}).fit(X, y, mask=mask).predict(X, mask=mask) for n in (1, 3)
    ]
    assert_array_equal(*found)


# ------------------------------------------------------------------ going on


def test_partial_fit_and_warm_start(data):
    X, mask, short = data
    y, _ = targets(short)
    whole = RNNRegressor(**OPTIONS).fit(X, y, mask=mask)
    parts = RNNRegressor(**OPTIONS)
    for _ in range(3):
        parts.partial_fit(X, y, mask=mask)
    assert_array_equal(parts.predict(X, mask=mask), whole.predict(X, mask=mask))
    again = RNNRegressor(**OPTIONS, warm_start=True).fit(X, y, mask=mask)
    assert again.fit(X, y, mask=mask).loss_curve_[0] < whole.loss_
    classes = RNNClassifier(**OPTIONS).partial_fit(X, y > 0, [False, True], mask=mask)
    assert classes.predict_proba(X, mask=mask).shape == (30, 2)


@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("options", [{"cell": "gru"}, {"cell": "lstm", "proj_size": 3}], ids=str)
def test_states_are_carried_over_missing_steps(data, options, return_sequences):
    X, mask, short = data
    windows = {"stateful": True, "batch_size": 2, "return_sequences": return_sequences}
    y = np.where(mask, X[:, :, 0], np.nan) if return_sequences else targets(short)[0]
    model = RNNRegressor(**{**OPTIONS, **options, **windows}).fit(X, y, mask=mask)
    found = model.predict(X, mask=mask)
    for k in range(2):  # each of the two series in one piece
        network = pickle.loads(pickle.dumps(model.network_))
        network.reset_states()
        raw = network.forward(np.concatenate(short[k::2])[np.newaxis])[0, ..., 0]
        assert_allclose(found[k::2][mask[k::2]] if return_sequences else found[k::2][-1], raw, rtol=1e-9)
    first = model.reset_states().predict(X[:10], mask=mask[:10])
    assert_array_equal(first, found[:10])
    assert_array_equal(model.predict(X[10:], mask=mask[10:]), found[10:])


def test_a_value_given_at_irregular_times_is_remembered():
    """Half of the steps are missing, nan in X and in y; the target is the value two known steps before."""
    rng = np.random.default_rng(0)
    X, mask = rng.normal(size=(200, 16, 1)), rng.random((200, 16)) > 0.5
    mask[:, 0] = True
    y = np.full(mask.shape, np.nan)
    for row, x, here in zip(y, X[:, :, 0], mask, strict=True):
        row[here] = np.concatenate([[0.0, 0.0], x[here]])[:here.sum()]
    X[~mask] = np.nan
    model = RNNRegressor(hidden_size=24, return_sequences=True, learning_rate_init=0.02, max_iter=60, tol=0,
                         batch_size=32, n_jobs=1, random_state=0).fit(X, y, mask=mask)  # fmt: skip
    assert model.score(X, y, mask=mask) > 0.9
