"""Embeddings, dense layers, initial states, states carried on: in Network, and under the estimators' fit."""

import copy
import itertools
import json
import pickle
import signal

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

import oracle
from numbarnn import RNNClassifier, RNNRegressor
from numbarnn.network import Network

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

EMBEDDING = [(2, 3, 2), (0, 4, 1)]
LENGTHS = np.array([5, 1, 3, 5, 4, 2])
STACKS = [
    {"cell": "gru"},
    {"cell": "lstm", "num_layers": 2},
    {"cell": "rnn", "bidirectional": True},
    {"cell": "lstm", "num_layers": 2, "bidirectional": True},
]
OPTIONS = {
    "embedding": [None, EMBEDDING],
    "stem_sizes": [(), (4, 3)],
    "head_sizes": [(), (3,), (4, 2)],
    "initial_state": ["zeros", "learned"],
    "return_sequences": [False, True],
}
COMBINATIONS = [dict(zip(OPTIONS, values, strict=True)) for values in itertools.product(*OPTIONS.values())]

SMALL = {"hidden_size": 6, "max_iter": 3, "random_state": 0, "n_jobs": 1, "batch_size": 8}
LEARN = {
    "hidden_size": 16, "max_iter": 80, "tol": 0, "random_state": 0, "n_jobs": 1, "learning_rate_init": 0.02,
}  # fmt: skip
EVERYTHING = {
    "embedding": EMBEDDING, "stem_sizes": (8, 5), "head_sizes": (7,), "initial_state": "learned",
    "num_layers": 2,
}  # fmt: skip


def sequences(n=6, n_timesteps=5, dtype="float64"):
    """Sequences of four features, of which the first and the third are categories."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, n_timesteps, 4)).astype(dtype)
    x[:, :, 0] = rng.integers(0, 4, x.shape[:2])
    x[:, :, 2] = rng.integers(0, 3, x.shape[:2])
    return x


def make(dtype="float64", **options):
    """A small network whose learned initial states, if it has them, are not zero."""
    usual = {"cell": "gru", "input_size": 4, "hidden_size": 3, "n_outputs": 2, "random_state": 0, "n_jobs": 1}
    network = Network(**usual | options, dtype=dtype)
    rng = np.random.default_rng(3)
    for name, values in network.named_parameters.items():
        if name.startswith("initial_state"):
            values[...] = rng.normal(size=values.shape)
    return network


def assert_gradient(network, x, lengths=None):
    """Hold the whole gradient against central differences, with everything drawn as it was."""
    before = network.snapshot()
    raw = network.forward(x, lengths, training=True)
    draw = np.random.default_rng(2).normal(size=raw.shape)
    network.gradients[:] = np.nan  # all of it is written
    network.backward(draw)
    found = network.gradients.copy()

    def loss():
        network._random.bit_generator.state = before[1]
        network._carried = before[2]
        return (network.forward(x, lengths, training=True) * draw).sum()

    slopes = oracle.finite_difference(loss, network.parameters)
    assert_allclose(found, slopes, rtol=1e-6, atol=1e-8)
    return found


def expected(network, x, lengths):
    """The raw output by plain NumPy and the oracle."""
    named, config = network.named_parameters, network.config

    def dense(rows, name):
        return rows @ named[f"{name}.weight"].T + named[f"{name}.bias"]

    categorical = [feature for feature, _, _ in config["embedding"]]
    vectors = [named[f"embedding.{feature}"][x[:, :, feature].astype(int)] for feature in categorical]
    rows = np.concatenate([np.delete(x, categorical, axis=2), *vectors], axis=2)
    for k in range(len(config["stem_sizes"])):
        rows = np.maximum(dense(rows, f"stem.{k}"), 0)
    state = [np.repeat(v[:, np.newaxis], len(x), axis=1) for k, v in named.items() if k.startswith("initial")]
    state = None if not state else state[0] if len(state) == 1 else tuple(state)
    layers = {k.removeprefix("recurrent."): v for k, v in named.items() if k.startswith("recurrent.")}
    rows, final, _ = oracle.forward(config["cell"], layers, rows, state, lengths)
    if not network.return_sequences:
        h = final[0] if isinstance(final, tuple) else final
        rows = np.concatenate(list(h[-2:] if config["bidirectional"] else h[-1:]), axis=1)
    for k in range(len(config["head_sizes"])):
        rows = np.maximum(dense(rows, f"head.{k}"), 0)
    return dense(rows, "head")


# ------------------------------------------------------------------ the network


@pytest.mark.parametrize("k", range(len(COMBINATIONS)))
def test_output_and_gradient_of_every_combination(k):
    options = COMBINATIONS[k]
    for stack in STACKS[k % 2 :: 2]:
        network, x = make(**options, **stack), sequences()
        lengths = LENGTHS if k % 3 else None
        assert_allclose(network.forward(x, lengths), expected(network, x, lengths), rtol=1e-10, atol=1e-12)
        assert_gradient(network, x, lengths)


@pytest.mark.parametrize("stack", STACKS, ids=str)
def test_gradient_with_all_that_is_drawn(stack):
    options = {"dropout": 0.4, "initial_state": "random", "stem_sizes": (5,), "head_sizes": (6,)}
    found = assert_gradient(make(**options, **stack, embedding=EMBEDDING), sequences(), LENGTHS)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("merge", ["concat", "sum", "mean", "product"])
@pytest.mark.parametrize("residual", [False, True])
def test_gradient_with_residual_connections_and_merged_directions(
    residual, merge, bidirectional, return_sequences
):
    for lengths, options in [(None, {}), (LENGTHS, {"initial_state": "learned", "head_sizes": (4,)})]:
        network = make(cell="lstm", num_layers=3, residual=residual, merge=merge, bidirectional=bidirectional,
                       return_sequences=return_sequences, **options)  # fmt: skip
        assert_gradient(network, sequences(), lengths)


@pytest.mark.parametrize("merge", ["sum", "mean", "product"])
def test_the_ends_of_both_directions_are_merged(merge):
    network, x = make(bidirectional=True, merge=merge), sequences()
    _, h = network.recurrent.forward(x, lengths=LENGTHS)
    ends = {"sum": h[0] + h[1], "mean": (h[0] + h[1]) / 2, "product": h[0] * h[1]}[merge]
    weight, bias = (network.named_parameters[f"head.{kind}"] for kind in ("weight", "bias"))
    assert_allclose(network.forward(x, LENGTHS), ends @ weight.T + bias, rtol=1e-12)


def test_residual_connections_reach_the_last_step():
    network, x = make(num_layers=2, residual=True), sequences()
    output, _ = network.recurrent.forward(x, lengths=LENGTHS)
    weight, bias = (network.named_parameters[f"head.{kind}"] for kind in ("weight", "bias"))
    last = output[np.arange(len(x)), LENGTHS - 1]
    assert_allclose(network.forward(x, LENGTHS), last @ weight.T + bias, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "value"), [("recurrent_dropout", 0.5), ("zoneout", 0.5), ("zoneout", (0.2, 0.5))], ids=str
)
def test_what_recurrent_draws_is_passed_on(name, value):
    network, x = make(cell="lstm", **{name: value}), sequences()
    assert np.allclose(getattr(network.recurrent, name), value)
    assert_gradient(network, x)
    assert (network.forward(x, training=True) != network.forward(x)).any()
    other = Network(**json.loads(json.dumps(network.config)))
    assert getattr(other.recurrent, name) == getattr(network.recurrent, name)


@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("merge", ["concat", "sum", "mean", "product"])
@pytest.mark.parametrize("residual", [False, True])
def test_gradient_with_projections(residual, merge, bidirectional, return_sequences):
    for lengths, initial_state in [(None, "learned"), (LENGTHS, "random")]:
        network = make(
            cell="lstm", num_layers=2, residual=residual, merge=merge, bidirectional=bidirectional,
            return_sequences=return_sequences, proj_size=2, initial_state=initial_state,
        )  # fmt: skip
        assert_gradient(network, sequences(), lengths)


def test_a_projection_has_states_of_unequal_width():
    options = {"cell": "lstm", "proj_size": 2, "initial_state": "learned"}
    network, x = make(**options, stateful=True), sequences(n_timesteps=7)
    assert [network.named_parameters[f"initial_state.{name}"].shape for name in "hc"] == [(1, 2), (1, 3)]
    assert network.named_parameters["head.weight"].shape == (2, 2)
    network.forward(x[:, :3])
    assert [part.shape for part in network._carried] == [(1, 6, 2), (1, 6, 3)]
    last = network.forward(x[:, 3:])
    assert_allclose(last, make(**options).forward(x), rtol=1e-12)
    other = pickle.loads(pickle.dumps(network))
    assert_array_equal(other.forward(x), network.forward(x))
    assert Network(**json.loads(json.dumps(network.config))).config == network.config


@pytest.mark.parametrize("return_sequences", [False, True])
def test_float32_and_any_number_of_threads(return_sequences):
    options = {**EVERYTHING, "return_sequences": return_sequences, "bidirectional": True, "hidden_size": 32}
    x, found = sequences(200, 20, "float32"), []
    for n_jobs in (1, 2, 4):
        network = make("float32", **options, n_jobs=n_jobs)
        raw = network.forward(x, training=True)
        network.backward(np.ones_like(raw))
        assert raw.dtype == network.gradients.dtype == np.float32
        found.append((raw, network.gradients))
    for raw, gradients in found[1:]:
        assert_array_equal(raw, found[0][0])
        assert_array_equal(gradients, found[0][1])
    network.n_jobs = 1
    assert network.n_jobs == network.head.n_jobs == network.stem.layers[1].n_jobs == 1
    assert_array_equal(network.forward(x), found[0][0])


def test_the_shape_of_a_network_goes_through_json():
    network, x = make(**EVERYTHING), sequences()
    other = Network(**json.loads(json.dumps(network.config)), random_state=1)
    assert other.config == network.config
    other.parameters[:] = network.parameters
    assert_array_equal(other.forward(x), network.forward(x))


def test_the_penalty_is_on_weights_alone():
    network = make(**EVERYTHING)
    network.parameters[:] = network.penalized
    for name, values in network.named_parameters.items():
        assert (values == ("weight" in name)).all()
    assert {"embedding.0", "embedding.2", "stem.1.weight", "head.0.bias", "initial_state.h"} <= set(
        network.named_parameters
    )


def test_learned_states_begin_as_zeros_and_the_rest_is_as_without_them():
    networks = [Network("lstm", 4, 3, 2, random_state=0, initial_state=kind) for kind in ("zeros", "learned")]
    assert_array_equal(networks[1].parameters[: networks[0].parameters.size], networks[0].parameters)
    assert (networks[1].parameters[networks[0].parameters.size :] == 0).all()


def test_random_states_are_drawn_for_each_batch_of_training():
    network, x = make(initial_state="random"), sequences()
    outputs = [network.forward(x, training=True) for _ in range(2)]
    assert (outputs[0] != outputs[1]).all()
    assert_array_equal(network.forward(x), make().forward(x))
    state = np.stack([network._initial_state(5000, True) for _ in range(2)])
    assert abs(state.std() - 0.1) < 0.002 and abs(state.mean()) < 0.002


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_copies_and_snapshots_draw_and_carry_the_same(duplicate):
    options = EVERYTHING | {"dropout": 0.5, "initial_state": "random", "stateful": True}
    network, x = make(**options), sequences()
    network.forward(x, training=True)
    other, snapshot = duplicate(network), network.snapshot()
    outputs = [network.forward(x, training=True) for _ in range(2)]
    assert (outputs[0] != outputs[1]).any()
    network.parameters[:] = 0
    network.restore(snapshot)
    for expected in outputs:
        assert_array_equal(network.forward(x, training=True), expected)
        assert_array_equal(other.forward(x, training=True), expected)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("return_sequences", [False, True])
def test_a_stateful_network_goes_on(cell, return_sequences):
    options = {**EVERYTHING, "cell": cell, "return_sequences": return_sequences}
    network, x = make(**options, stateful=True), sequences(n_timesteps=9)
    parts = [network.forward(part) for part in (x[:, :4], x[:, 4:5], x[:, 5:])]
    whole = make(**options).forward(x)
    if return_sequences:
        assert_allclose(np.concatenate(parts, axis=1), whole, rtol=1e-12)
    assert_allclose(parts[-1][..., -1, :] if return_sequences else parts[-1], whole[..., -1, :] if
                    return_sequences else whole, rtol=1e-12)  # fmt: skip
    network.reset_states()
    assert_array_equal(network.forward(x[:, :4]), parts[0])


def test_gradients_end_where_a_stateful_call_began():
    network, x = make(**EVERYTHING, stateful=True), sequences()
    assert assert_gradient(network, x)[-6:].any()  # of the learned states
    assert not assert_gradient(network, x)[-6:].any()


def test_a_stateful_network_refuses_another_number_of_samples():
    network, x = make(stateful=True), sequences()
    before = network.forward(x)
    with pytest.raises(ValueError, match="x had a batch of 2 samples; expected 6.* reset_states"):
        network.forward(x[:2])
    network.reset_states()
    assert_array_equal(network.forward(x[:2]), before[:2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedding": [(4, 3, 2)]}, r"embedding had \(4, 3, 2\) in it; expected .* from 0 to 3,"),
        ({"embedding": [(-1, 3, 2)]}, "embedding had"),
        ({"embedding": [(0, 0, 2)]}, "embedding had"),
        ({"embedding": [(0, 3, 0)]}, "embedding had"),
        ({"embedding": [(0, 3)]}, "embedding had"),
        ({"embedding": [(0, 3.0, 2)]}, "embedding had"),
        ({"embedding": [0]}, "embedding had 0 in it"),
        ({"embedding": [(0, 2**25, 2)]}, "embedding had"),
        ({"embedding": [(0, 3, 2), (0, 3, 2)]}, "embedding had feature 0 twice"),
        ({"stem_sizes": (3, 0)}, r"stem_sizes\[1\] was 0; expected a positive integer"),
        ({"head_sizes": (2.5,)}, r"head_sizes\[0\] was 2.5; expected a positive integer"),
        ({"head_sizes": (3,), "dropout": 1.0}, "dropout was 1.0; expected a probability"),
        ({"initial_state": "ones"}, "initial_state was 'ones'; expected one of zeros, random, learned"),
        ({"stateful": True, "bidirectional": True}, "bidirectional was True; stateful=True expects False"),
        ({"stateful": 1}, "stateful was 1; expected True or False"),
        ({"proj_size": 2}, 'proj_size was 2 with cell "gru"; expected 0, or cell "lstm"'),
        ({"cell": "lstm", "proj_size": 3}, "proj_size was 3; expected less than hidden_size"),
        ({"cell": "lstm", "proj_size": -1}, "proj_size was -1; expected a positive integer"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        make(**options)


def test_dropout_behind_dense_layers_alone_is_not_warned_of():
    network, x = make(dropout=0.5, head_sizes=(8,)), sequences()
    assert (network.forward(x, training=True) != network.forward(x, training=True)).any()
    assert_array_equal(network.forward(x), make(head_sizes=(8,)).forward(x))


# ------------------------------------------------------------------ under fit


@pytest.fixture
def table():
    """Sequences with a category in feature 1, whose number says nothing, and a target that it decides."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 4, 2))
    X[:, :, 1] = rng.integers(0, 6, (120, 4))
    return X, np.array([1.0, -1.0, 0.5, 2.0, -2.0, 0.0])[X[:, -2, 1].astype(int)] + X[:, -1, 0]


@pytest.mark.parametrize(
    "options",
    [
        {"embedding": [(1, 6, 4)]},
        {"embedding": [(1, 6, 2)], "stem_sizes": (8,), "head_sizes": (8,)},
        {"embedding": [(1, 6, 4)], "initial_state": "learned", "dropout": 0.1, "head_sizes": [32, 32]},
        {"embedding": [(1, 6, 4)], "initial_state": "random", "alpha": 1e-3},
        {"embedding": [(1, 6, 4)], "bidirectional": True, "early_stopping": True, "n_iter_no_change": 80},
        {"embedding": [(1, 6, 4)], "head_sizes": (8,), "initial_state": "learned", "solver": "lbfgs",
         "dtype": "float64"},
        {"embedding": [(1, 6, 4)], "num_layers": 3, "residual": True, "bidirectional": True, "merge": "mean"},
        {"embedding": [(1, 6, 4)], "recurrent_dropout": 0.05, "zoneout": 0.05},
        {"embedding": [(1, 6, 4)], "cell": "lstm", "proj_size": 12, "initial_state": "learned"},
    ],
    ids=str,
)  # fmt: skip
def test_every_option_learns(table, options):
    X, y = table
    model, other = (RNNRegressor(**{**LEARN, **options, "n_jobs": n_jobs}).fit(X, y) for n_jobs in (1, 2))
    assert model.score(X, y) > 0.9
    assert_array_equal(other.predict(X), model.predict(X))


def test_a_learned_state_is_learned():
    X, y = np.zeros((50, 1, 1)), np.full(50, 3.0)
    model = RNNRegressor(**LEARN, initial_state="learned").fit(X, y)
    assert model.network_.named_parameters["initial_state.h"].any()


def test_classes_of_every_step_of_lists_with_weights(table):
    X, _ = table
    lists = [x[: 1 + k % 4] for k, x in enumerate(X)]
    labels = [np.array(["low", "high"])[(x[:, 1] > 2).astype(int)] for x in lists]
    model = RNNClassifier(**LEARN, return_sequences=True, class_weight="balanced", embedding=[(1, 6, 3)],
                          stem_sizes=(8,), head_sizes=(8,), initial_state="learned")  # fmt: skip
    model.fit(lists, labels, sample_weight=np.linspace(0, 1, 120))
    assert model.score(lists, labels) > 0.95
    assert [len(p) for p in model.predict_proba(lists)] == [len(x) for x in lists]


def test_windows_step_by_step(table):
    X, y = table
    options = {**SMALL, "embedding": [(1, 6, 2)]}
    wide = RNNRegressor(**options, n_channels=2).fit(X.reshape(120, 8), y)
    assert_array_equal(wide.predict(X.reshape(120, 8)), RNNRegressor(**options).fit(X, y).predict(X))


@pytest.mark.parametrize("value", [2.5, 6, -1])
def test_values_that_are_no_category_are_refused(table, value):
    X, y = table
    wrong = X.copy()
    wrong[3, 2, 1] = value
    message = f"^X had the value {value:g} in feature 1, .* expected whole numbers from 0 to 5"
    model = RNNRegressor(**SMALL, embedding=[(1, 6, 2)])
    with pytest.raises(ValueError, match=message):
        model.fit(wrong, y)
    assert not hasattr(model, "network_")
    with pytest.raises(ValueError, match=message):
        model.fit(X, y).predict(list(wrong))
    past = model.predict(wrong, lengths=np.full(120, 2))  # what is past the end is not looked at
    assert_array_equal(past, model.predict(X[:, :2]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedding": [(2, 6, 2)]}, r"embedding had \(2, 6, 2\)"),
        ({"embedding": {"a": 1}}, "The 'embedding' parameter"),
        ({"stem_sizes": (0,)}, r"stem_sizes\[0\] was 0"),
        ({"head_sizes": 5}, "The 'head_sizes' parameter"),
        ({"head_sizes": ("a",)}, r"head_sizes\[0\] was 'a'"),
        ({"residual": 1}, "The 'residual' parameter"),
        ({"merge": "max"}, "The 'merge' parameter"),
        ({"recurrent_dropout": 1.0}, "The 'recurrent_dropout' parameter"),
        ({"zoneout": -0.1}, "The 'zoneout' parameter"),
        ({"stateful": "yes"}, "The 'stateful' parameter"),
        ({"proj_size": -1}, "The 'proj_size' parameter"),
        ({"proj_size": 2}, 'proj_size was 2 with cell "gru"'),
        ({"stateful": True, "batch_size": 7}, "batch_size was 7; stateful=True expects .* divides the 120"),
        ({"stateful": True, "bidirectional": True}, "bidirectional was True"),
        ({"stateful": True, "solver": "lbfgs"}, "stateful was True; solver='lbfgs' expects False"),
        ({"initial_state": "random", "solver": "lbfgs"}, "initial_state was 'random'; .* expects 'zeros'"),
        ({"zoneout": [0.1], "solver": "lbfgs"}, r"zoneout was \[0.1\]; solver='lbfgs' expects 0"),
        ({"recurrent_dropout": 0.1, "solver": "lbfgs"}, "recurrent_dropout was 0.1; solver='lbfgs'"),
    ],
    ids=str,
)  # fmt: skip
def test_estimators_refuse_options_by_name_and_stay_as_they_were(table, options, message, monkeypatch):
    monkeypatch.setattr("numbarnn.training.Trainer.fit", None)  # before training
    model = RNNRegressor(**SMALL).set_params(**options)
    before = dict(vars(model))
    with pytest.raises((ValueError, TypeError), match=message):
        model.fit(*table)
    assert vars(model) == before


@pytest.mark.parametrize(
    "change",
    [{"embedding": [(1, 6, 3)]}, {"stem_sizes": (4,)}, {"head_sizes": ()}, {"initial_state": "random"},
     {"stateful": True}],
    ids=str,
)  # fmt: skip
def test_going_on_with_another_network_is_refused(table, change):
    options = {**SMALL, "embedding": [(1, 6, 2)], "head_sizes": (4,), "warm_start": True}
    model = RNNRegressor(**options).fit(*table)
    before = model.predict(table[0])
    (name,) = change
    for method in ("fit", "partial_fit"):
        with pytest.raises(ValueError, match=f"^{name} was .*; expected .*, as in the call before"):
            getattr(clone_fitted(model).set_params(**change), method)(*table)
    assert_array_equal(model.fit(*table).partial_fit(*table).predict(table[0]).shape, before.shape)


def clone_fitted(model):
    """A copy with everything that was learned."""
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("through", [clone_fitted, clone])
@pytest.mark.parametrize("Model", [RNNRegressor, RNNClassifier])
def test_pickle_and_clone(table, Model, through):
    X, y = table
    y = y > 0
    model = Model(**SMALL, embedding=[(1, 6, 2)], stem_sizes=[4], head_sizes=(4,), initial_state="random",
                  dropout=0.2, stateful=True).partial_fit(X, y, **({} if Model is RNNRegressor else
                                                                   {"classes": [False, True]}))  # fmt: skip
    other = through(model)
    if hasattr(other, "network_"):
        assert_array_equal(other.predict(X), model.predict(X))
        assert_array_equal(other.partial_fit(X, y).predict(X), model.partial_fit(X, y).predict(X))
    else:
        assert_array_equal(other.fit(X, y).predict(X), model.fit(X, y).predict(X))


# ------------------------------------------------------------------ states carried on

STATEFUL = {**SMALL, "stateful": True, "batch_size": 4}


@pytest.fixture
def series():
    """Four series in 25 windows of 3 steps each, window by window; the target is in the window before."""
    walks = np.random.default_rng(0).normal(size=(4, 75, 1))
    X = walks.reshape(4, 25, 3, 1).transpose(1, 0, 2, 3).reshape(100, 3, 1)
    return X, np.concatenate([np.zeros(4), X[:-4, -1, 0]])


def test_what_was_in_the_window_before_is_remembered():
    X = np.random.default_rng(0).normal(size=(300, 1, 1))
    y = np.concatenate([np.zeros(4), X[:-4, 0, 0]])
    model = RNNRegressor("lstm", 32, batch_size=4, learning_rate_init=3e-3, learning_rate="cosine", n_jobs=1,
                         max_iter=60, n_iter_no_change=np.inf, random_state=0)  # fmt: skip
    assert model.fit(X, y).score(X, y) < 0.1
    assert model.set_params(stateful=True).fit(X, y).reset_states().score(X, y) > 0.8


def test_windows_are_the_pieces_of_whole_series(series):
    X, y = series
    model = RNNRegressor(**STATEFUL, return_sequences=True, head_sizes=(4,)).fit(X, X[:, :, 0])
    whole = X.reshape(25, 4, 3, 1).transpose(1, 0, 2, 3).reshape(4, 75, 1)
    network = copy.deepcopy(model.network_)
    expected = network.forward(whole.astype("float32")).reshape(4, 25, 3).transpose(1, 0, 2).reshape(100, 3)
    assert_allclose(model.predict(X), expected, rtol=1e-5, atol=1e-6)
    first, rest = model.reset_states().predict(X[:40]), model.predict(X[40:])
    assert_allclose(np.concatenate([first, rest]), expected, rtol=1e-5, atol=1e-6)
    assert (model.predict(X[:40]) != first).any()
    # another number of series, from the start
    alone = model.reset_states().set_params(batch_size="auto").predict(X[::4])
    assert_allclose(alone, expected[::4], rtol=1e-5, atol=1e-6)


def test_lengths_and_windows_without_weight_are_read(series):
    X, y = series
    lengths = np.tile([3, 2, 3, 1], 25)
    weight = np.repeat(np.arange(25) % 3 > 0, 4).astype(float)
    still = {**STATEFUL, "learning_rate_init": 1e-30, "max_iter": 1}
    model = RNNRegressor(**still).fit(X, y, sample_weight=weight, lengths=lengths)
    error = model.predict(X, lengths) - y
    assert_allclose(model.loss_, 0.5 * np.average(error**2, weights=weight), rtol=1e-5)


@pytest.mark.parametrize("initial_state", ["zeros", "learned"])
def test_each_epoch_begins_anew_and_fit_leaves_no_state(series, initial_state):
    X, y = series
    still = {**STATEFUL, "learning_rate_init": 1e-30, "initial_state": initial_state}
    model = RNNRegressor(**still).fit(X, y)
    assert len(set(model.loss_curve_)) == 1
    first = model.predict(X)
    assert_allclose(model.loss_, 0.5 * ((first - y) ** 2).mean(), rtol=1e-5)
    assert_array_equal(model.reset_states().predict(X), first)


def test_early_stopping_holds_out_the_last_windows_and_goes_on_into_them(series):
    X, y = series
    still = {**STATEFUL, "learning_rate_init": 1e-30, "early_stopping": True, "validation_fraction": 0.21}
    model = RNNRegressor(**still).fit(X, y)
    error = (model.predict(X) - y)[-24:]
    assert_allclose(model.validation_scores_, -0.5 * (error**2).mean(), rtol=1e-5)


def test_warm_start_begins_anew(series):
    X, y = series
    still = {**STATEFUL, "learning_rate_init": 1e-30, "warm_start": True}
    model = RNNRegressor(**still).fit(X, y)
    first = model.loss_curve_
    model.predict(X)
    assert model.fit(X, y).loss_curve_ == first


def test_partial_fit_goes_on(series):
    X, y = series
    whole = RNNRegressor(**STATEFUL).partial_fit(X, y)
    parts = RNNRegressor(**STATEFUL).partial_fit(X[:40], y[:40]).partial_fit(X[40:], y[40:])
    assert_array_equal(parts.network_.parameters, whole.network_.parameters)
    assert_array_equal(parts.predict(X), whole.predict(X))
    apart = RNNRegressor(**STATEFUL).partial_fit(X[:40], y[:40]).reset_states().partial_fit(X[40:], y[40:])
    assert (apart.network_.parameters != whole.network_.parameters).any()


def test_partial_fit_that_failed_has_carried_nothing(series):
    X, y = series
    model = RNNRegressor(**STATEFUL).partial_fit(X, y)
    other = clone_fitted(model)
    wild = X.copy()
    wild[60:] = 1e30  # in X: targets of that size are refused before training
    with pytest.raises(FloatingPointError):
        model.partial_fit(wild, y)
    with pytest.raises(ValueError, match="x had a batch of 5 samples; expected 4"):
        model.set_params(batch_size=5).partial_fit(X, y)
    model.set_params(batch_size=4)
    assert_array_equal(model.partial_fit(X, y).predict(X), other.partial_fit(X, y).predict(X))


def test_ctrl_c_leaves_no_state(series):
    X, y = series
    with pytest.warns(ConvergenceWarning, match="interrupted"):
        model = RNNRegressor(**STATEFUL, callbacks=lambda info: signal.raise_signal(signal.SIGINT)).fit(X, y)
    first = model.predict(X)
    assert_array_equal(model.reset_states().predict(X), first)


def test_the_order_is_that_of_the_windows_whatever_shuffle_says(series):
    X, y = series
    models = [RNNRegressor(**STATEFUL, shuffle=shuffle).fit(X, y) for shuffle in (True, False)]
    assert_array_equal(models[0].predict(X), models[1].predict(X))


def test_prediction_needs_whole_batches(series):
    X, y = series
    model = RNNRegressor(**STATEFUL).fit(X, y)
    with pytest.raises(ValueError, match="batch_size was 4; stateful=True expects one that divides the 99"):
        model.predict(X[:99])
