"""The layer-normalised LSTM: its time loops against the oracle and PyTorch's parts, and what it learns."""

from pathlib import Path

import numpy as np
import pytest

import test_recurrent_options
from numbarnn import Recurrent, RNNClassifier, RNNForecaster, RNNRegressor
from numbarnn.cells import CELLS, Cell
from numbarnn.network import Network
from test_recurrent import TOLERANCE, Problem, assert_close

CELL = "lstm_layernorm"
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE)


def problem_with_gains(seed, *sizes, **options):
    """Make a problem whose gains and shifts are not those of the beginning."""
    problem, rng = Problem(CELL, seed, *sizes, **options), np.random.default_rng(seed)
    for name, value in problem.parameters.items():
        if not name.startswith("weight"):
            value += rng.normal(0.0, 0.5, value.shape)
    return problem


# ------------------------------------------------------------------ numbers


@every_dtype
def test_pytorch(dtype):
    with np.load(Path(__file__).parent / "fixtures" / "torch_layernorm.npz") as stored:
        case = dict(stored)
    layer = Recurrent(CELL, 3, 6, bidirectional=True, dtype=dtype)
    layer.load_parameters({name: case[name] for name in layer.parameters})
    output, final = layer.forward(case["x"], tuple(case["state"]), case["lengths"], training=True)
    dx, dstate_0 = layer.backward(case["doutput"], tuple(case["dstate"]))
    found = {"output": output, "final": final, "dx": dx, "dstate_0": dstate_0}
    found |= {f"d_{name}": value for name, value in layer.gradients.items()}
    for name, value in found.items():
        assert_close(value, case[name], 10 * TOLERANCE[dtype], name)


@every_dtype
@pytest.mark.parametrize("hidden_size", [1, 5, 17, 64])
@pytest.mark.parametrize("input_size", [3, 47, 48])  # products of one step, and of several at once
@pytest.mark.parametrize("options", [
    {"n_samples": 9, "n_timesteps": 4, "lengths": True, "num_layers": 2, "bidirectional": True},
    {"n_samples": 3, "n_timesteps": 1}, {"n_samples": 1, "n_timesteps": 7, "state": False},
], ids=["batch", "one step", "one sample"])  # fmt: skip
def test_oracle(dtype, hidden_size, input_size, options):
    problem = problem_with_gains(1, input_size=input_size, hidden_size=hidden_size, **options)
    expected, _ = problem.expected()
    for name, value in problem.run(problem.layer(dtype)).items():
        assert_close(value, expected[name], 3 * TOLERANCE[dtype], name, 1.0)


@pytest.mark.parametrize("options", [{"num_layers": 2, "bidirectional": True}, {"input_size": 60}], ids=str)
def test_gradients_under_a_mask_are_finite_differences(options):
    problem = test_recurrent_options.Problem(CELL, hidden_size=5, **options)
    for name, value in problem.layer.parameters.items():
        if not name.startswith("weight"):
            value += problem.rng.normal(0.0, 0.3, value.shape)
    problem.mask = problem.rng.random((4, 4)) > 0.4
    problem.check_gradients()


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("input_size", [2, 60])
def test_masked_steps_are_as_if_they_were_not_there(bidirectional, input_size):
    test_recurrent_options.test_masked_steps_are_as_if_they_were_not_there(CELL, bidirectional, input_size)


@every_dtype
def test_a_row_has_the_same_bits_in_any_batch_and_with_any_threads(dtype):
    problem = problem_with_gains(2, 40, 6, 5, 37, state=False)
    outputs = [problem.layer(dtype, n_jobs=n_jobs).forward(problem.x)[0] for n_jobs in (1, 2)]
    np.testing.assert_array_equal(*outputs)
    alone, _ = problem.layer(dtype).forward(problem.x[17:18])
    np.testing.assert_array_equal(alone[0], outputs[0][17])


def test_deviation_of_a_row_far_from_zero():
    """Mean 100 and deviation 0.01 in float32, of which squares have nothing left."""
    problem = problem_with_gains(0, 1, 1, 1, 20)
    problem.x[...] = 1.0
    rng = np.random.default_rng(0)
    weights = rng.normal(100.0, 0.01, (80, 1)).astype("float32")
    problem.parameters["weight_ih_l0"] = weights.astype("float64")
    expected, _ = problem.expected()
    output, _ = problem.layer("float32").forward(problem.x, problem.state)
    assert_close(output, expected["output"], 3e-3)


# ------------------------------------------------------------------ what it is


def test_scale_of_weights_and_inputs_makes_no_difference():
    layer = Recurrent(CELL, 3, 20, dtype="float64", random_state=0)
    x = 100.0 * np.random.default_rng(0).standard_normal((2, 6, 3))
    layer.parameters["weight_hh_l0"][...] *= 100.0
    output, _ = layer.forward(x)
    for name in ("weight_ih_l0", "weight_hh_l0"):
        layer.parameters[name][...] *= 1000.0
    np.testing.assert_allclose(layer.forward(x)[0], output, rtol=0, atol=1e-4)


@every_dtype
def test_one_unit_has_nothing_to_be_compared_with(dtype):
    """Its deviation is 0: h = sigmoid(o) tanh(shift), and c has no gradient through h."""
    layer = Recurrent(CELL, 2, 1, dtype=dtype, random_state=0)
    x = np.random.default_rng(0).standard_normal((3, 4, 2))
    np.testing.assert_array_equal(layer.forward(x)[0], 0)
    layer.parameters["shift_c_l0"][...] = 0.7
    layer.parameters["shift_o_l0"][...] = 50.0
    output, _ = layer.forward(x, training=True)
    np.testing.assert_allclose(output, np.tanh(0.7), rtol=1e-6)
    _, (_, dc) = layer.backward(np.ones_like(output))
    np.testing.assert_array_equal(dc, 0)
    assert all((layer.gradients[f"shift_{gate}_l0"] == 0).all() for gate in "ifg")


def test_parameters():
    """No biases within what is normalised; gains begin at 1, and shifts at 0 but for the forget gate's."""
    for init in ("uniform", "orthogonal"):
        layer = Recurrent(CELL, 3, 4, num_layers=2, init=init, forget_bias=1.5, random_state=0)
        for name, value in layer.parameters.items():
            kind = name.partition("_")[0]
            assert kind in ("weight", "gain", "shift")
            if kind != "weight":
                expected = 1.0 if kind == "gain" else 1.5 if name.startswith("shift_f") else 0.0
                assert value.shape == (4,) and (value == expected).all()
    assert (Recurrent(CELL, 3, 4).parameters["shift_f_l0"] == 0).all()
    assert set(Recurrent(CELL, 3, 4, bias=False).parameters) == set(Recurrent(CELL, 3, 4).parameters)


def test_gains_are_not_penalised():
    network = Network(CELL, 3, 4, 1, random_state=0)
    sizes = {name: value.size for name, value in network.named_parameters.items()}
    assert network._store.penalized.sum() == sum(size for name, size in sizes.items() if "weight" in name)


@pytest.mark.parametrize("options", [{"recurrent_dropout": 0.1}, {"zoneout": 0.1}])
def test_noise_on_the_states_is_refused(options):
    with pytest.raises(ValueError, match='cell "lstm_layernorm" expects 0 of both'):
        Recurrent(CELL, 3, 4, **options)


def test_bad_initial():
    lstm = CELLS["lstm"]
    with pytest.raises(ValueError, match="initial had .'gain'.; expected names of"):
        Cell("bad", lstm.gates, lstm.slots, lstm.forward, lstm.backward, initial={"gain": (1.0, 1.0)})


# ------------------------------------------------------------------ it learns


def sums(n_samples, n_timesteps=12):
    """Sum of the values that are marked, of different scales in each sequence."""
    rng = np.random.default_rng(0)
    values, marks = rng.standard_normal((n_samples, n_timesteps)), rng.random((n_samples, n_timesteps)) < 0.2
    return np.stack([values, marks], axis=2), (values * marks).sum(axis=1)


def test_regressor_learns_a_sum():
    x, y = sums(600)
    options = {"hidden_size": 16, "max_iter": 60, "learning_rate_init": 0.01, "tol": 0.0, "random_state": 0}
    model = RNNRegressor(CELL, n_iter_no_change=100, **options)
    with pytest.warns(UserWarning, match="max_iter"):
        model.fit(x[:500], y[:500])
    assert model.score(x[500:], y[500:]) > 0.9


def test_classifier_learns_a_sign():
    x, y = sums(500)
    options = {"hidden_size": 16, "max_iter": 40, "learning_rate_init": 0.01, "tol": 0.0, "random_state": 0}
    model = RNNClassifier(CELL, num_layers=2, bidirectional=True, n_iter_no_change=100, **options)
    with pytest.warns(UserWarning, match="max_iter"):
        model.fit(x[:400], y[:400] > 0)
    assert model.score(x[400:], y[400:] > 0) > 0.85


def test_forecaster_learns_a_sine():
    y = np.sin(np.arange(400) * 0.4)
    model = RNNForecaster(8, cell=CELL, context_length=24, hidden_size=16, max_iter=20,
                          learning_rate_init=0.01, random_state=0)
    forecast = model.fit(y[:-8]).predict()
    assert np.abs(np.ravel(forecast) - y[-8:]).max() < 0.2
