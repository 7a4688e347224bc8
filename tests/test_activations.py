"""ONNX's activations and the cells that are made of them."""

import numpy as np
import pytest
from numba import njit

import oracle
import test_recurrent
from numbarnn.cells import CELLS
from numbarnn.cells.activations import ACTIVATIONS
from numbarnn.cells.check import check_cell
from numbarnn.cells.general import FAMILIES, general_cell, general_name
from numbarnn.simd import clamp, lanes_of, load, store
from test_cells import as_oracle

# by the definitions of the ONNX operators, for parameters that are not the defaults
ONNX = {
    "affine": ((0.7, -0.2), lambda x: 0.7 * x - 0.2),
    "elu": ((0.6,), lambda x: np.where(x > 0, x, 0.6 * np.expm1(np.minimum(x, 0)))),
    "hard_sigmoid": ((0.3, 0.4), lambda x: np.clip(0.3 * x + 0.4, 0, 1)),
    "leaky_relu": ((0.2,), lambda x: np.where(x > 0, x, 0.2 * x)),
    "relu": ((), lambda x: np.maximum(x, 0)),
    "scaled_tanh": ((-1.7, 0.6), lambda x: -1.7 * np.tanh(0.6 * x)),
    "sigmoid": ((), lambda x: 1 / (1 + np.exp(-x))),
    "softplus": ((), lambda x: np.logaddexp(0, x)),
    "softsign": ((), lambda x: x / (1 + abs(x))),
    "tanh": ((), np.tanh),
    "thresholded_relu": ((0.4,), lambda x: np.where(x > 0.4, x, 0)),
}
POINTS = np.concatenate([np.linspace(-6, 6, 481) + 1e-3, [-80.0, -30.0, 30.0, 80.0]])
every_activation = pytest.mark.parametrize("name", ACTIVATIONS)


def over_registers(function, slope, x):
    """Apply functions of registers, one to the other's result, to an array of a multiple of all lanes."""
    @njit
    def run(x, y, dy):
        for at in range(0, x.size, lanes_of(x)):
            value = function(load(x, at))
            store(y, at, value)
            store(dy, at, value * 0.0 + slope(value))

    y, dy = np.empty_like(x), np.empty_like(x)
    run(x, y, dy)
    return y, dy


def test_every_activation_of_onnx_is_there():
    assert set(ONNX) == set(ACTIVATIONS)


@every_activation
def test_values_and_slopes(name):
    numbers, expected = ONNX[name]
    function, slope = ACTIVATIONS[name](*numbers)
    y = function(POINTS)
    np.testing.assert_allclose(y, expected(POINTS), rtol=1e-13, atol=1e-14)
    change = (expected(POINTS + 1e-5) - expected(POINTS - 1e-5)) / 2e-5
    np.testing.assert_allclose(slope(y) + 0.0 * y, change, rtol=0, atol=1e-8)
    assert function(POINTS.astype(np.float32)).dtype == np.float32
    assert (slope(y.astype(np.float32)) * y.astype(np.float32)).dtype == np.float32


@every_activation
def test_nan_stays_nan(name):
    function, slope = ACTIVATIONS[name]()
    assert np.isnan(function(np.array([np.nan]))).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("float64", 1e-14)])
@every_activation
def test_registers_and_arrays_agree(name, dtype, tolerance):
    numbers, _ = ONNX[name]
    function, slope = ACTIVATIONS[name](*numbers)
    x = np.append(POINTS[::16][:31], np.nan).astype(dtype)
    y, dy = over_registers(function, slope, x)
    np.testing.assert_allclose(y, function(x), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(dy, y * 0.0 + slope(y), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clamp(dtype):
    x = np.array([np.nan, np.inf, -np.inf, 0.5, -0.5, 2.0, -2.0, 1.0] * 2, dtype)
    expected = np.array([np.nan, 1.0, -1.0, 0.5, -0.5, 1.0, -1.0, 1.0] * 2, dtype)

    @njit
    def of_register(x):
        return clamp(x, 1.0)

    np.testing.assert_array_equal(clamp(x, 1.0), expected)
    assert clamp(x, 1.0).dtype == dtype
    np.testing.assert_array_equal(over_registers(of_register, of_register, x)[0], expected)


@pytest.mark.parametrize(("name", "alpha"), [("elu", -1.0), ("leaky_relu", -0.1), ("scaled_tanh", 0.0)])
def test_outputs_that_hide_the_slope(name, alpha):
    with pytest.raises(ValueError, match=f"activation {name}: alpha was"):
        ACTIVATIONS[name](alpha)


# ------------------------------------------------------------------ cells


@pytest.mark.parametrize("clip", [None, 0.7])
@pytest.mark.parametrize("family", FAMILIES)
def test_equations(family, clip):
    count = FAMILIES[family][0]
    for activations in (["hard_sigmoid", "softsign", "elu"], ["softplus", "affine(0.5,0.1)", "leaky_relu"]):
        check_cell(general_cell(general_name(family, activations[-count:], clip)))


@pytest.mark.parametrize("family", sorted(set(FAMILIES) & set(oracle.CELLS)))
def test_the_usual_activations_are_the_usual_cells(family, monkeypatch):
    """In the oracle's network, on arrays; the clip is one that nothing reaches."""
    usual = {1: ["tanh"], 2: ["sigmoid", "tanh"], 3: ["sigmoid", "tanh", "tanh"]}[FAMILIES[family][0]]
    rng = np.random.default_rng(0)
    parameters = {name: rng.standard_normal(shape) for name, shape in oracle.shapes(family, 3, 4).items()}
    x, doutput = rng.standard_normal((2, 5, 3)), rng.standard_normal((2, 5, 4))
    results = []
    for cell in (oracle.CELLS[family], as_oracle(general_cell(general_name(family, usual, 50.0)))):
        monkeypatch.setitem(oracle.CELLS, family, cell)
        output, _, tape = oracle.forward(family, parameters, x)
        results.append([output, *oracle.backward(tape, doutput)[1].values()])
    for actual, expected in zip(*results, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-13)


def test_clipped_sums_have_no_gradient():
    cell = general_cell("rnn[affine(2.0,0.0);clip=1.5]")
    a, h = np.array([[-4.0, -1.5, 0.3, 1.5, 1.6]]), np.zeros((1, 5))
    new_states, kept = cell.forward((a,), (h,))
    np.testing.assert_array_equal(new_states[0], [[-3.0, -3.0, 0.6, 3.0, 3.0]])
    (da,), _ = cell.backward(kept, (h,), new_states, (np.ones((1, 5)),))
    np.testing.assert_array_equal(da, [[0.0, 2.0, 2.0, 2.0, 0.0]])


@pytest.mark.parametrize(("name", "dtype"), [
    ("rnn[thresholded_relu(0.1);clip=1.0]", "float32"),
    ("gru[hard_sigmoid,scaled_tanh(1.2,0.8)]", "float64"),
    ("gru_reset_before[softsign,softplus;clip=2.0]", "float32"),
    ("lstm[hard_sigmoid,leaky_relu(0.1),elu]", "float64"),
    ("lstm_peephole_coupled[sigmoid,affine(0.5,0.1),tanh;clip=0.5]", "float32"),
])
def test_layers(name, dtype, monkeypatch):
    """Compiled: outputs and gradients are those of the oracle's network around the same functions."""
    monkeypatch.setitem(CELLS, name, general_cell(name))
    monkeypatch.setitem(oracle.CELLS, name, as_oracle(CELLS[name]))
    problem = test_recurrent.Problem(name, 2, 3, 6, 4, 5, lengths=True, num_layers=2)
    expected, _ = problem.expected()
    for key, value in problem.run(problem.layer(dtype)).items():
        test_recurrent.assert_close(value, expected[key], test_recurrent.TOLERANCE[dtype], key, 1.0)


def test_names():
    name = "lstm[hard_sigmoid(0.1,0.5),tanh,elu(1e-1);clip=3.0]"
    assert general_cell(name) is general_cell(name)
    assert general_cell(name).name == name
    assert general_name("gru", ["sigmoid", "tanh"], 3) == "gru[sigmoid,tanh;clip=3.0]"
    assert general_cell("rnn[tanh]").digest != general_cell("rnn[sigmoid]").digest


@pytest.mark.parametrize(("name", "message"), [
    ("lstm[]", "expected 3 activation"),
    ("lstm[tanh]", "expected 3 activation"),
    ("rnn[tanh,tanh]", "expected 1 activation"),
    ("mlp[tanh]", "expected name.activations;clip=number. with a name of rnn, gru"),
    ("rnn[tanh", "expected name"),
    ("rnn[gelu]", "an activation 'gelu'; expected one of affine, elu"),
    ("rnn[tanh(0.1)]", "too many numbers behind 'tanh'"),
    ("rnn[elu(-1.0)]", "alpha was -1.0"),
    ("rnn[affine(1e400)]", "expected finite numbers behind 'affine'"),
    ("rnn[tanh;clip=0]", "a finite number over 0 for clip"),
    ("rnn[tanh;clip=nan]", "a finite number over 0 for clip"),
    ("rnn[tanh;clip=1e400]", "a finite number over 0 for clip"),
])
def test_names_that_say_nothing(name, message):
    with pytest.raises(ValueError, match=message):
        general_cell(name)
