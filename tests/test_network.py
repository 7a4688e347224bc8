"""The network against the oracle and finite differences: parameters, head, both kinds of output."""

import copy
import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import oracle
from numbarnn.blocks import Dropout
from numbarnn.network import Network

SHAPES = [
    {"cell": "gru"},
    {"cell": "lstm", "num_layers": 2},
    {"cell": "lstm", "bidirectional": True, "num_layers": 2},
    {"cell": "rnn", "bidirectional": True},
]


def make(shape, return_sequences=False, with_lengths=False, dtype="float64"):
    """A network and a batch for it."""
    network = Network(
        **shape, input_size=3, hidden_size=4, n_outputs=2, return_sequences=return_sequences, dtype=dtype,
        random_state=0,
    )  # fmt: skip
    x = np.random.default_rng(1).normal(size=(5, 6, 3)).astype(dtype)
    return network, x, np.array([6, 1, 3, 6, 5]) if with_lengths else None


def expected(network, x, lengths):
    """The raw output as the oracle has it."""
    named = network.named_parameters
    parameters = {k.removeprefix("recurrent."): v for k, v in named.items() if k.startswith("recurrent")}
    output, state, _ = oracle.forward(network.config["cell"], parameters, x, lengths=lengths)
    if not network.return_sequences:
        h = state[0] if isinstance(state, tuple) else state
        directions = 2 if network.config["bidirectional"] else 1
        output = np.concatenate(list(h[-directions:]), axis=1)
    return output @ named["head.weight"].T + named["head.bias"]


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_gradient(shape, return_sequences, with_lengths):
    network, x, lengths = make(shape, return_sequences, with_lengths)
    raw = network.forward(x, lengths, training=True)
    assert_allclose(raw, expected(network, x, lengths), rtol=1e-10, atol=1e-12)
    draw = np.random.default_rng(2).normal(size=raw.shape)
    network.backward(draw)
    found = network.gradients.copy()
    slopes = oracle.finite_difference(lambda: (network.forward(x, lengths) * draw).sum(), network.parameters)
    assert_allclose(found, slopes, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float32(shape, return_sequences):
    network, x, lengths = make(shape, return_sequences, with_lengths=True, dtype="float32")
    raw = network.forward(x, lengths, training=True)
    network.backward(np.ones_like(raw))
    assert raw.dtype == network.parameters.dtype == network.gradients.dtype == np.float32
    assert_allclose(raw, expected(network, x, lengths), rtol=1e-4, atol=1e-6)


def test_a_sample_has_the_same_bits_alone_and_among_others():
    network, x, _ = make({"cell": "gru"}, dtype="float32")
    together = network.forward(x)
    assert_array_equal(together, np.concatenate([network.forward(row[np.newaxis]) for row in x]))


def test_one_vector_holds_every_parameter_once():
    network, _, _ = make(SHAPES[2])
    named = network.named_parameters
    assert sum(values.size for values in named.values()) == network.parameters.size
    assert all(np.shares_memory(values, network.parameters) for values in named.values())
    network.parameters[:] = np.arange(network.parameters.size)
    assert_array_equal(np.concatenate([values.ravel() for values in named.values()]), network.parameters)
    biases = np.concatenate([named[k].ravel() for k in named if "bias" in k])
    assert_array_equal(np.sort(biases), network.parameters[~network.penalized])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_copies_predict_the_same(duplicate):
    network, x, lengths = make(SHAPES[2], with_lengths=True)
    other = duplicate(network)
    assert_array_equal(other.forward(x, lengths), network.forward(x, lengths))
    other.parameters[:] = 0
    assert network.parameters.any()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_copies_draw_the_same_dropout(duplicate):
    network, x, _ = make({"cell": "gru", "num_layers": 2, "dropout": 0.5})
    network.forward(x, training=True)
    other, snapshot = duplicate(network), network.snapshot()
    expected = network.forward(x, training=True)
    assert_array_equal(other.forward(x, training=True), expected)
    assert (network.forward(x, training=True) != expected).any()
    network.parameters[:] = 0
    network.restore(snapshot)
    assert_array_equal(network.forward(x, training=True), expected)


def test_a_copy_does_not_warn_again():
    with pytest.warns(UserWarning, match="num_layers=1"):
        network, _, _ = make({"cell": "gru", "dropout": 0.5})
    other = pickle.loads(pickle.dumps(network))
    assert other.config == network.config and other.recurrent.dropout == 0.5


def test_streaming_sees_parameters_that_were_changed():
    network, x, _ = make(SHAPES[0])
    before, _ = network.recurrent.step(x[:, 0])
    assert_array_equal(network.recurrent.step(x[:, 0])[0], before)
    network.parameters[:] *= 0.5
    after, _ = network.recurrent.step(x[:, 0])
    assert (after != before).all()
    assert_allclose(after, network.recurrent.forward(x[:, :1])[0][:, 0], rtol=1e-12)


def test_same_seed_same_parameters():
    one, other = make(SHAPES[0])[0], make(SHAPES[0])[0]
    assert_array_equal(one.parameters, other.parameters)


def test_backward_without_forward_is_refused():
    network, x, _ = make(SHAPES[0])
    raw = network.forward(x)
    with pytest.raises(RuntimeError, match="forward"):
        network.backward(raw)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("rate", [0.3, 0.9999999])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dropout_multiplies_by_the_mask_that_its_generator_draws(rate, inplace, dtype):
    x, dy = np.random.default_rng(0).standard_normal((2, 5, 7)).astype(dtype)
    mask = Dropout(rate, np.random.default_rng(1)).draw(x.shape, x.dtype)
    dropout = Dropout(rate, np.random.default_rng(1), inplace)
    x_masked, dy_masked = x * mask, dy * mask
    y, dx = dropout.forward(x, training=True), dropout.backward(dy)
    assert (y is x, dx is dy) == (inplace, inplace)
    assert_array_equal(y, x_masked)
    assert_array_equal(dx, dy_masked)
    assert dropout.forward(x) is x and dropout.backward(dy) is dy


def test_dropout_takes_any_strides():
    x = np.random.default_rng(0).standard_normal((5, 14))[::-1, ::2]
    mask = Dropout(0.5, np.random.default_rng(1)).draw(x.shape, x.dtype)
    assert_array_equal(Dropout(0.5, np.random.default_rng(1)).forward(x, training=True), x * mask)


@pytest.mark.parametrize("options", [{}, {"stem_sizes": [5], "head_sizes": [4]}])
def test_arrays_of_another_type_are_converted(options):
    network = Network("gru", 2, 4, n_outputs=1, dtype="float32", random_state=0, **options)
    x = np.random.default_rng(0).normal(size=(3, 5, 2)).astype("float32")
    found = []
    for dtype in ("float32", "float64"):
        raw = network.forward(x.astype(dtype), training=True)
        network.backward(np.ones_like(raw, dtype))
        found.append((raw, network.gradients.copy()))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
