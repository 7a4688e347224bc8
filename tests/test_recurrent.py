"""Recurrent, over every registered cell, against the oracle, finite differences and PyTorch's numbers."""

import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import numpy as np
import pytest

import oracle
from numbarnn import recurrent
from numbarnn.cells import CELLS
from numbarnn.kernels import scan
from numbarnn.kernels.threads import Program
from numbarnn.recurrent import Recurrent
from numbarnn.streaming import Stepper

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
every_cell = pytest.mark.parametrize("cell", CELLS)
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE)


def as_state(cell, stacked):
    """Array (n_states, L * D, N, H) -> what Recurrent takes: h, or (h, c)."""
    return tuple(stacked) if CELLS[cell].n_states > 1 else stacked[0]


def assert_close(actual, expected, tolerance, what="", least_scale=0.0):
    """Compare arrays, or tuples of them, on the scale of the largest expected value."""
    actual, expected = np.stack(actual), np.stack(expected)
    assert actual.shape == expected.shape, what
    scale = max(np.abs(expected).max(), least_scale)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale, err_msg=what)


class Problem:
    """Options of a layer, input, states and output gradients, in numbers that float32 holds exactly."""

    def __init__(self, cell, seed, n_samples=3, n_timesteps=5, input_size=3, hidden_size=5,
                 state=True, lengths=False, **options):
        rng = np.random.default_rng(seed)
        self.cell = cell
        self.options = {"cell": cell, "input_size": input_size, "hidden_size": hidden_size, **options}
        layers, directions = options.get("num_layers", 1), 1 + options.get("bidirectional", False)

        def draw(*shape):
            return rng.standard_normal(shape).astype(np.float32).astype(np.float64)

        self.x = draw(n_samples, n_timesteps, input_size)
        self.doutput = draw(n_samples, n_timesteps, hidden_size * directions)
        state_shape = (CELLS[cell].n_states, layers * directions, n_samples, hidden_size)
        self.state, self.dstate = (as_state(cell, draw(*state_shape)) if state else None for _ in range(2))
        self.lengths = rng.integers(1, n_timesteps + 1, n_samples) if lengths else None
        layer = self.layer("float32", random_state=seed)
        self.parameters = {name: np.array(value, np.float64) for name, value in layer.parameters.items()}

    def layer(self, dtype="float64", **options):
        """Build the layer; with the problem's parameters once they are drawn."""
        layer = Recurrent(**self.options, dtype=dtype, **options)
        if hasattr(self, "parameters"):
            layer.load_parameters(self.parameters)
        return layer

    def run(self, layer):
        """Forward and backward: dict of everything that comes out."""
        output, state = layer.forward(self.x, self.state, self.lengths, training=True)
        dx, dstate_0 = layer.backward(self.doutput, self.dstate)
        return self._named(output, state, dx, layer.gradients, dstate_0)

    def expected(self):
        """Return what the oracle makes of it, under the same names, and its tape."""
        output, state, tape = oracle.forward(self.cell, self.parameters, self.x, self.state, self.lengths)
        dx, gradients, dstate_0 = oracle.backward(tape, self.doutput, self.dstate)
        gradients = {name: gradients[name] for name in self.parameters}
        return self._named(output, state, dx, gradients, dstate_0), tape

    @staticmethod
    def _named(output, state, dx, gradients, dstate_0):
        return {"output": output, "state": np.array(state), "dx": dx, "dstate_0": np.array(dstate_0),
                **{name: value.copy() for name, value in gradients.items()}}


def random_problem(cell, seed):
    """Draw a shape; sizes small as a rule, now and then over a register, a tile or a share of the batch."""
    rng = np.random.default_rng([seed, 7])

    def size(*limits):
        return int(rng.integers(1, rng.choice(limits), endpoint=True))

    shape = {"n_samples": size(1, 4, 16, 70), "n_timesteps": size(1, 3, 12), "input_size": size(1, 4, 40),
             "hidden_size": size(1, 5, 20, 70), "num_layers": int(rng.integers(1, 4))}
    flags = {name: bool(rng.integers(2)) for name in ("bidirectional", "bias", "state", "lengths")}
    return Problem(cell, seed, **shape, **flags)


def at_a_kink(problem, tape):
    """Whether a rectified unit is so near its kink that rounding decides on which side it lies."""
    sums = {
        "rnn_relu": lambda gx, gh, states, weights: gx + gh,
        "indrnn": lambda gx, gh, states, weights: gx + weights["weight_hh"] * states[0],
    }.get(problem.cell)
    if sums is None:
        return False
    steps = [abs(sums(*step, weights)) for _, steps, weights in tape.parts for _, *step in steps]
    return any(((0 < step) & (step < 3e-6)).any() for step in steps)


def amplification(problem, expected):
    """By how much changes of the last digits of input and parameters grow in the oracle, where it is much.

    A layer norm divides by the deviation of a row, which is small where units are nearly alike.
    """
    if problem.cell != "lstm_layernorm":
        return 1.0
    rng, size = np.random.default_rng(0), 1e-8
    moved, worst = object.__new__(Problem), 1.0
    moved.__dict__.update(problem.__dict__)
    for _ in range(2):
        moved.x = problem.x * (1.0 + size * rng.uniform(-1, 1, problem.x.shape))
        moved.parameters = {name: value * (1.0 + size * rng.uniform(-1, 1, value.shape))
                            for name, value in problem.parameters.items()}
        for name, value in moved.expected()[0].items():
            scale = max(np.abs(expected[name]).max(), 1e-3 if name in ("output", "state") else 1.0)
            worst = max(worst, 0.5 * np.abs(value - expected[name]).max() / scale / size)
    return worst


@every_cell
@pytest.mark.parametrize("block", range(10))
def test_random_shapes_against_the_oracle(cell, block):
    """200 shapes a cell, in ten blocks of 20, each in both precisions.

    The gradients that are put in have size 1, and errors are measured against it where what comes out is
    smaller: behind saturated units digits are lost to 1 - h * h in any program (in PyTorch as many).
    """
    seed, done = 1000 * block, 0
    while done < 20:
        problem, seed = random_problem(cell, seed), seed + 1
        expected, tape = problem.expected()
        if at_a_kink(problem, tape):
            continue
        done += 1
        growth = amplification(problem, expected)
        for dtype, tolerance in TOLERANCE.items():
            actual = problem.run(problem.layer(dtype))
            assert actual.keys() == expected.keys()
            for name, value in actual.items():
                assert value.dtype == dtype
                least_scale = 0.0 if name in ("output", "state") else 1.0
                what = f"seed {seed - 1} {dtype} {name}"
                assert_close(value, expected[name], growth * tolerance, what, least_scale)


@every_cell
@pytest.mark.parametrize(("n_samples", "n_timesteps", "input_size", "hidden_size"), [
    (150, 3, 5, 40),     # several shares of the batch
    (2, 200, 3, 4),      # long
    (7, 4, 300, 20),     # the input product is the larger one
    (9, 4, 7, 200),      # more than one panel of the hidden product
    (1, 1, 150, 150),
])
def test_larger_shapes_against_the_oracle(cell, n_samples, n_timesteps, input_size, hidden_size):
    problem = Problem(cell, 5, n_samples, n_timesteps, input_size, hidden_size, lengths=True)
    expected, _ = problem.expected()
    actual = problem.run(problem.layer("float64"))
    for name, value in actual.items():
        assert_close(value, expected[name], 1e-12, name)


@pytest.mark.parametrize("cell", ["rnn", "rnn_relu", "lstm", "gru"])
@every_dtype
def test_pytorch(cell, dtype, torch_cases):
    tolerance = max(TOLERANCE[dtype], 1e-10)
    for case in torch_cases(cell):
        layer = Recurrent(cell, **case.options, dtype=dtype)
        layer.load_parameters(case.parameters)
        assert list(layer.parameters) == list(case.parameters)
        output, state = layer.forward(case.x, case.state, case.lengths, training=True)
        dx, dstate_0 = layer.backward(case.doutput, case.dstate)
        assert_close(output, case.output, tolerance, case.name)
        assert_close(state, case.final, tolerance, case.name)
        assert_close(dx, case.dx, tolerance, case.name)
        assert_close(dstate_0, case.dstate_0, tolerance, case.name)
        for name, expected in case.gradients.items():
            assert_close(layer.gradients[name], expected, tolerance, f"{case.name} {name}")


@every_cell
def test_gradients_are_finite_differences(cell):
    problem = Problem(cell, 3, 2, 3, 3, 2, lengths=True, num_layers=2, bidirectional=True)
    layer = problem.layer()

    def loss():
        output, state = layer.forward(problem.x, problem.state, problem.lengths)
        return (output * problem.doutput).sum() + np.sum(np.stack(state) * np.stack(problem.dstate))

    actual = problem.run(layer)
    n_states = CELLS[cell].n_states
    states = problem.state if n_states > 1 else (problem.state,)
    dstate_0 = actual.pop("dstate_0")
    for state, gradient in zip(states, dstate_0 if n_states > 1 else [dstate_0], strict=True):
        np.testing.assert_allclose(gradient, oracle.finite_difference(loss, state), rtol=0, atol=1e-6)
    for name, array in {"dx": problem.x, **layer.parameters}.items():
        np.testing.assert_allclose(actual[name], oracle.finite_difference(loss, array), rtol=0, atol=1e-6,
                                   err_msg=name)


def test_parts_of_backward_can_be_left_out():
    problem = Problem("gru", 0)
    layer = problem.layer()
    whole = problem.run(layer)
    layer.forward(problem.x, problem.state, training=True)
    dx, dstate_0 = layer.backward(problem.doutput, problem.dstate, input_gradient=False)
    assert dx is None
    np.testing.assert_array_equal(dstate_0, whole["dstate_0"])
    for name, value in layer.gradients.items():  # overwritten, not added to
        np.testing.assert_array_equal(value, whole[name])
    layer.forward(problem.x, problem.state, training=True)
    of_none = layer.backward(problem.doutput)
    layer.forward(problem.x, problem.state, training=True)
    of_zeros = layer.backward(problem.doutput, np.zeros_like(problem.dstate))
    for none, zeros in zip(of_none, of_zeros, strict=True):
        np.testing.assert_array_equal(none, zeros)


@every_cell
@every_dtype
def test_training_and_evaluation_give_the_same_bits(cell, dtype):
    problem = Problem(cell, 1, 20, 9, 3, 17, num_layers=2, bidirectional=True, lengths=True)
    layer = problem.layer(dtype)
    output, state = layer.forward(problem.x, problem.state, problem.lengths)
    trained = problem.run(layer)
    np.testing.assert_array_equal(output, trained["output"])
    np.testing.assert_array_equal(state, trained["state"])


@every_cell
@every_dtype
@pytest.mark.parametrize(("layers", "hidden_size", "bias"), [(1, 1, True), (1, 33, False), (3, 20, True)])
def test_steps_are_forward(cell, dtype, layers, hidden_size, bias):
    for n_samples in (1, 7):
        problem = Problem(cell, 2, n_samples, 6, 3, hidden_size, num_layers=layers, bias=bias)
        layer = problem.layer(dtype)
        for state in (None, problem.state):
            expected, final = layer.forward(problem.x, state)
            for t in range(6):
                output, state = layer.step(problem.x[:, t], state)
                assert output.dtype == dtype
                assert_close(output, expected[:, t], TOLERANCE[dtype])
            assert_close(state, final, TOLERANCE[dtype])


# ------------------------------------------------------------------ threads


@every_cell
@every_dtype
def test_number_of_threads_does_not_change_a_bit(cell, dtype):
    problem = Problem(cell, 4, 100, 9, 5, 64, num_layers=2, bidirectional=True, lengths=True)
    one, two, four = (problem.run(problem.layer(dtype, n_jobs=n_jobs)) for n_jobs in (1, 2, 4))
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name], err_msg=name)
        np.testing.assert_array_equal(value, four[name], err_msg=name)


def test_layers_in_python_threads_of_their_own():
    """Four Python threads, two layers, of which each is trained by one thread at a time."""
    problems = [Problem("lstm", 0, 64, 20, 8, 40), Problem("gru", 1, 50, 22, 8, 50)]
    expected = [problem.run(problem.layer()) for problem in problems]

    def work(k):
        problem = problems[k % 2]
        layer = problem.layer(n_jobs=2)
        return [problem.run(layer) for _ in range(10)]

    with ThreadPoolExecutor(4) as pool:
        for k, results in enumerate(pool.map(work, range(4))):
            for result in results:
                for name, value in result.items():
                    np.testing.assert_array_equal(value, expected[k % 2][name], err_msg=name)


def test_one_layer_evaluated_by_several_python_threads():
    problems = [Problem("lstm", 0, 64, 20, 8, 40), Problem("gru", 1, 50, 22, 8, 50)]
    layers = [problem.layer(n_jobs=2) for problem in problems]
    expected = [layer.forward(problem.x)[0] for layer, problem in zip(layers, problems, strict=True)]

    def work(k):
        return [layers[k % 2].forward(problems[k % 2].x)[0] for _ in range(20)]

    with ThreadPoolExecutor(4) as pool:
        for k, results in enumerate(pool.map(work, range(4))):
            for output in results:
                np.testing.assert_array_equal(output, expected[k % 2])


# ------------------------------------------------------------------ numbers that are none


@every_cell
@every_dtype
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_nan_and_inf_propagate_and_stay_in_their_row(cell, dtype, value):
    """Hidden and input sizes are odd, so that padding that is multiplied by inf would show."""
    problem = Problem(cell, 6, 9, 6, 3, 7, num_layers=2, bidirectional=True)
    layer = problem.layer(dtype)
    clean = problem.run(layer)
    problem.x[4, 2, 1] = value
    with np.errstate(all="ignore"):
        expected, _ = problem.expected()
    actual = problem.run(layer)
    others = np.arange(9) != 4
    for name in ("output", "dx"):
        np.testing.assert_array_equal(actual[name][others], clean[name][others])
    for name in ("state", "dstate_0"):
        np.testing.assert_array_equal(actual[name][..., others, :], clean[name][..., others, :])
    if abs(value) > 1e30 or np.isnan(value):  # a float32 of 1e30 may overflow where a float64 does not
        # what inf is behind a gate that is shut depends on whether the gate is 0 or nearly so
        same = np.isfinite if cell in ("mingru", "minlstm") else np.isnan
        for name in ("output", "state"):
            np.testing.assert_array_equal(same(actual[name]), same(expected[name]))
    if np.isnan(value):
        assert np.isnan(actual["output"][4]).all()
        assert np.isnan(actual["weight_ih_l0"]).any()


@every_cell
def test_nothing_past_the_lengths_is_read(cell):
    problem = Problem(cell, 6, 9, 6, 3, 7, num_layers=2, bidirectional=True, lengths=True)
    layer = problem.layer("float32")
    clean = problem.run(layer)
    past = np.arange(6) >= problem.lengths[:, None]
    problem.x[past] = np.nan
    problem.doutput[past] = np.nan
    for name, value in problem.run(layer).items():
        np.testing.assert_array_equal(value, clean[name], err_msg=name)
    assert (clean["output"][past] == 0).all()
    assert (clean["dx"][past] == 0).all()


def subnormal_product():
    """1e-40 in float32, which a processor that flushes subnormals makes zero."""
    with np.errstate(under="ignore"):
        return (np.full(64, 1e-30, np.float32) * np.full(64, 1e-10, np.float32)).min()


@every_cell
def test_subnormals_are_flushed_in_backward_only(cell):
    problem = Problem(cell, 0, 20, 30, 1, 9)
    problem.doutput[:, :-1] = 0
    for n_jobs in (1, 2):
        layer = problem.layer("float32", n_jobs=n_jobs)
        assert subnormal_product() > 0
        problem.run(layer)
        assert subnormal_product() > 0
        layer.forward(problem.x, problem.state, training=True)
        with pytest.raises(ValueError, match="doutput"):
            layer.backward(problem.doutput[1:])
        assert subnormal_product() > 0


# ------------------------------------------------------------------ memory


def test_evaluation_leaves_nothing_for_backward():
    problem = Problem("lstm", 0)
    layer = problem.layer()
    with pytest.raises(RuntimeError, match=r"forward\(.*training=True\)"):
        layer.backward(problem.doutput)
    layer.forward(problem.x)
    with pytest.raises(RuntimeError, match=r"forward\(.*training=True\)"):
        layer.backward(problem.doutput)
    layer.forward(problem.x, training=True)
    layer.backward(problem.doutput)
    with pytest.raises(RuntimeError, match=r"forward\(.*training=True\)"):
        layer.backward(problem.doutput)


def test_evaluation_between_forward_and_backward_is_harmless_or_an_error():
    problem = Problem("gru", 0)
    layer = problem.layer()
    expected = problem.run(layer)
    layer.forward(problem.x, problem.state, training=True)
    layer.forward(-problem.x)
    try:
        dx, _ = layer.backward(problem.doutput, problem.dstate)
    except RuntimeError:
        return
    np.testing.assert_array_equal(dx, expected["dx"])


def test_buffers_are_reused():
    problem = Problem("lstm", 0, 64, 40, 4, 64)
    layer = problem.layer("float32")
    problem.run(problem.layer("float32"))  # compiling takes memory, too
    peaks, sizes = [], []
    for _ in range(3):
        tracemalloc.start()
        result = layer.forward(problem.x, training=True), layer.backward(problem.doutput)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        sizes.append(result[0][0].nbytes + result[1][0].nbytes)
    inputs = (problem.x.nbytes + problem.doutput.nbytes) // 2  # these are float64, and are copied
    assert peaks[1] < peaks[0] / 2
    assert peaks[2] < 1.5 * (sizes[2] + inputs)


@every_cell
def test_results_are_not_overwritten_by_later_calls(cell):
    first, second = (Problem(cell, seed, num_layers=2, bidirectional=True) for seed in (0, 1))
    layer = first.layer()
    output, state = layer.forward(first.x, first.state, training=True)
    dx, dstate_0 = layer.backward(first.doutput, first.dstate)
    results = [output, state, dx, dstate_0, first.x, first.state, first.doutput, first.dstate]
    copies = [np.array(result) for result in results]
    second.run(layer)
    layer.forward(second.x)
    for result, copy in zip(results, copies, strict=True):
        np.testing.assert_array_equal(result, copy)


def test_shapes_may_change_from_call_to_call():
    layer = Recurrent("gru", 3, 5, num_layers=2, dtype="float64", random_state=0)
    for n_samples, n_timesteps in [(2, 3), (40, 9), (1, 1), (2, 3), (41, 2)]:
        problem = Problem("gru", n_samples, n_samples, n_timesteps, num_layers=2)
        layer.load_parameters(problem.parameters)
        expected, _ = problem.expected()
        for name, value in problem.run(layer).items():
            assert_close(value, expected[name], 1e-12, name)


# ------------------------------------------------------------------ parameters


@every_cell
@pytest.mark.parametrize("options", [{}, {"num_layers": 3, "bidirectional": True}, {"bias": False}], ids=str)
def test_parameters_are_named_and_shaped_as_in_pytorch(cell, options):
    layer = Recurrent(cell, 3, 5, random_state=0, **options)
    expected = oracle.shapes(cell, 3, 5, **options)
    for arrays in (layer.parameters, layer.gradients):
        assert {name: array.shape for name, array in arrays.items()} == expected
        assert list(arrays) == list(expected)
    assert layer.n_parameters == sum(np.prod(shape) for shape in expected.values())


@every_cell
def test_uniform_initialisation(cell):
    one, same, other = (Recurrent(cell, 20, 16, random_state=seed).parameters for seed in (0, 0, 1))
    bounds = {f"{name}_l0": ends for name, ends in CELLS[cell].initial.items()}
    for name, (low, high) in bounds.items():
        assert low <= one[name].min() and one[name].max() <= high
        assert low == high or np.ptp(one[name]) > 0.5 * (high - low)
    flat = np.concatenate([value.ravel() for name, value in one.items() if name not in bounds])
    assert np.abs(flat).max() <= 0.25
    assert np.abs(flat).max() > 0.24
    assert abs(flat.mean()) < 0.02
    for name, value in one.items():
        np.testing.assert_array_equal(value, same[name])
        assert np.array_equal(value, other[name]) == (np.ptp(bounds.get(name, (0, 1))) == 0)


@every_cell
def test_orthogonal_initialisation(cell):
    parameters = Recurrent(cell, 20, 16, random_state=0, init="orthogonal").parameters
    recurrent, inputs = parameters.get("weight_hh_l0", np.zeros(16)), parameters["weight_ih_l0"]
    if recurrent.ndim == 2:  # not of a cell whose units see themselves alone, or nothing
        np.testing.assert_allclose(recurrent.T @ recurrent, np.eye(16), atol=1e-5)
    limit = np.sqrt(6 / sum(inputs.shape))  # Glorot's bound, over the whole matrix as in Keras
    assert 0.9 * limit < np.abs(inputs).max() <= limit * (1 + 1e-6)
    assert all((value == 0).all() for name, value in parameters.items() if name.startswith("bias"))


@pytest.mark.parametrize("init", ["uniform", "orthogonal"])
def test_forget_bias(init):
    parameters = Recurrent("lstm", 3, 4, num_layers=2, random_state=0, init=init, forget_bias=1.5).parameters
    for layer in range(2):
        total = parameters[f"bias_ih_l{layer}"] + parameters[f"bias_hh_l{layer}"]
        np.testing.assert_array_equal(total[4:8], 1.5)
        assert (total[:4] != 1.5).all()


@every_cell
def test_bound_vectors_are_the_parameters_and_gradients(cell):
    problem = Problem(cell, 0, num_layers=2)
    layer = problem.layer()
    expected = problem.run(layer)
    flat, gradient = np.zeros(layer.n_parameters), np.zeros(layer.n_parameters)
    layer.bind(flat, gradient)
    np.testing.assert_array_equal(flat, np.concatenate([p.ravel() for p in problem.parameters.values()]))
    actual = problem.run(layer)
    for name, value in actual.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    np.testing.assert_array_equal(gradient, np.concatenate([expected[p].ravel() for p in layer.parameters]))
    flat *= 0.5  # an optimiser's step in place
    halved = {name: 0.5 * value for name, value in problem.parameters.items()}
    output, _ = layer.forward(problem.x)
    np.testing.assert_allclose(output, oracle.forward(cell, halved, problem.x)[0], atol=1e-12)


def test_arrays_of_a_layer_are_not_replaced_but_written_into():
    layer = Recurrent("gru", 3, 5, random_state=0)
    for views in (layer.parameters, layer.gradients):
        name, value = next(iter(views.items()))
        with pytest.raises(TypeError, match=r"layer.parameters\[name\]\[...\] = value"):
            views[name] = value
        with pytest.raises(TypeError, match="load_parameters"):
            views.update({name: value})
        for copied in (dict(views), deepcopy(views), pickle.loads(pickle.dumps(views))):
            copied[name] = np.zeros(1)
    layer.parameters["bias_hh_l0"][...] = 1
    assert (layer.parameters["bias_hh_l0"] == 1).all()


def test_backward_is_not_for_parameters_loaded_or_bound_after_forward():
    layer = Recurrent("gru", 3, 5, random_state=0)
    vectors = [np.zeros(layer.n_parameters, np.float32) for _ in range(2)]
    for change in (lambda: layer.load_parameters(layer.parameters), lambda: layer.bind(*vectors)):
        layer.forward(X, training=True)
        change()
        with pytest.raises(RuntimeError, match="nothing kept; .* after any load_parameters or bind"):
            layer.backward(None)


def test_weights_stay_packed_for_steps_of_several_numbers_of_samples(monkeypatch):
    made = []

    class Counted(Stepper):
        def __init__(self, *arguments):
            made.append(arguments)
            super().__init__(*arguments)

    monkeypatch.setattr(recurrent, "Stepper", Counted)
    layer = Recurrent("gru", 3, 5, random_state=0)
    first = [layer.step(X[:n, 0])[0] for n in (1, 2)]
    for n in (1, 2, 1):
        np.testing.assert_array_equal(layer.step(X[:n, 0])[0], first[n - 1])
    assert len(made) == 2
    layer.parameters["bias_hh_l0"][...] += 1
    assert (layer.step(X[:1, 0])[0] != first[0]).any()
    for _ in range(2):
        for n in range(1, 7):  # more than are kept
            layer.step(np.zeros((n, 3), np.float32))
    assert len(made) == 3 + 12 - 1


# ------------------------------------------------------------------ dropout


def test_dropout_is_off_in_evaluation():
    problem = Problem("lstm", 0, num_layers=2, dropout=0.5)
    output, _ = problem.layer().forward(problem.x, problem.state)
    assert_close(output, problem.expected()[0]["output"], 1e-12)


def test_dropout_keeps_the_mean():
    """A linear second layer ("rnn_relu" with a large bias) shows the mean of its input."""
    layer = Recurrent("rnn_relu", 2, 8, num_layers=2, dropout=0.25, dtype="float64", random_state=0)
    layer.parameters["weight_hh_l1"][:] = 0
    layer.parameters["bias_ih_l1"][:] = 100
    x = np.random.default_rng(0).standard_normal((300, 20, 2))
    trained, evaluated = layer.forward(x, training=True)[0], layer.forward(x)[0]
    spread = (trained - evaluated).std()
    assert spread > 0.01
    assert abs((trained - evaluated).mean()) < 5 * spread / np.sqrt(300 * 20)


def test_dropout_follows_the_seed():
    problem = Problem("gru", 0, num_layers=3, dropout=0.5, bidirectional=True)
    first, same, other = (problem.layer(random_state=seed) for seed in (3, 3, 4))
    results = [problem.run(first) for _ in range(2)]
    for result in results:
        for name, value in problem.run(same).items():
            np.testing.assert_array_equal(value, result[name], err_msg=name)
    assert not np.array_equal(results[0]["output"], results[1]["output"])  # a new mask every call
    assert not np.array_equal(results[0]["output"], problem.run(other)["output"])


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_gradient_goes_through_the_dropout_mask(cell):
    problem = Problem(cell, 3, 2, 3, 3, 2, num_layers=3, bidirectional=True, dropout=0.4, lengths=True)

    def loss():
        output, state = problem.layer(random_state=9).forward(
            problem.x, problem.state, problem.lengths, training=True)
        return (output * problem.doutput).sum() + np.sum(np.stack(state) * np.stack(problem.dstate))

    actual = problem.run(problem.layer(random_state=9))
    for name, array in {"dx": problem.x, **problem.parameters}.items():
        np.testing.assert_allclose(actual[name], oracle.finite_difference(loss, array), rtol=0, atol=1e-6,
                                   err_msg=name)


# ------------------------------------------------------------------ input


@every_dtype
def test_any_real_array_is_taken(dtype):
    layer = Recurrent("gru", 3, 4, dtype=dtype, random_state=0)
    x = np.arange(24).reshape(2, 4, 3) % 5
    expected, _ = layer.forward(x.astype(dtype))
    read_only = x.astype(dtype)
    read_only.setflags(write=False)
    unaligned = np.frombuffer(b"-" + x.astype(dtype).tobytes(), np.uint8)[1:].view(dtype).reshape(x.shape)
    for same in (x, x.astype("i1"), x.astype(">f4"), x.astype(">f8"), x.astype("f2"), x.tolist(),
                 np.asfortranarray(x, dtype), x[::-1].astype(dtype)[::-1], read_only, unaligned,
                 np.repeat(x.astype(dtype), 2, axis=2)[:, :, ::2]):
        np.testing.assert_array_equal(layer.forward(same)[0], expected)


def test_states_and_gradients_of_any_layout_are_taken():
    problem = Problem("lstm", 0)
    layer = problem.layer()
    expected = problem.run(layer)

    def strange(array):
        return np.asfortranarray(array).astype(">f8")

    layer.forward(strange(problem.x), tuple(map(strange, problem.state)), training=True)
    dx, dstate_0 = layer.backward(strange(problem.doutput), tuple(map(strange, problem.dstate)))
    np.testing.assert_array_equal(dx, expected["dx"])
    np.testing.assert_array_equal(dstate_0, expected["dstate_0"])


X = np.zeros((2, 4, 3))
STATE = np.zeros((1, 2, 5))


@pytest.mark.parametrize(("argument", "given"), [
    ("x", {"x": X[0]}),
    ("x", {"x": X[None]}),
    ("x", {"x": X[:, :, :2]}),
    ("x", {"x": X[:, :0]}),
    ("x", {"x": X[:0]}),
    ("x", {"x": X.astype(str)}),
    ("x", {"x": np.full(X.shape, None)}),
    ("x", {"x": X.astype(complex)}),
    ("x", {"x": None}),
    ("lengths", {"lengths": [1, 5]}),
    ("lengths", {"lengths": [0, 4]}),
    ("lengths", {"lengths": [-1, 4]}),
    ("lengths", {"lengths": [4]}),
    ("lengths", {"lengths": [[4, 4]]}),
    ("lengths", {"lengths": [1.5, 4]}),
    ("lengths", {"lengths": ["a", "b"]}),
    ("lengths", {"lengths": 4}),
    ("state", {"state": STATE[0]}),
    ("state", {"state": STATE[:, :1]}),
    ("state", {"state": np.zeros((2, 2, 5))}),
    ("state", {"state": STATE[:, :, :4]}),
    ("state", {"state": (STATE, STATE)}),
    ("state", {"state": STATE.astype(str)}),
])
def test_bad_input_is_an_error_that_names_the_argument(argument, given):
    layer = Recurrent("gru", 3, 5, random_state=0)
    with pytest.raises((ValueError, TypeError), match=rf"^{argument}\b"):
        layer.forward(**{"x": X, **given})


@pytest.mark.parametrize("state", [
    STATE, (STATE,), (STATE, STATE[:, :1]), (STATE, STATE, STATE), (STATE, None),
])
def test_bad_state_of_lstm(state):
    with pytest.raises((ValueError, TypeError), match=r"^state\b"):
        Recurrent("lstm", 3, 5).forward(X, state)


@pytest.mark.parametrize(("argument", "given"), [
    ("doutput", {"doutput": np.zeros((2, 4, 3))}),
    ("doutput", {"doutput": np.zeros((2, 5))}),
    ("doutput", {"doutput": np.full((2, 4, 5), "a")}),
    ("dstate", {"dstate": STATE[0]}),
    ("dstate", {"dstate": STATE[:, :1]}),
    ("dstate", {"dstate": (STATE, STATE)}),
])
def test_bad_gradients(argument, given):
    layer = Recurrent("gru", 3, 5, random_state=0)
    layer.forward(X, training=True)
    with pytest.raises((ValueError, TypeError), match=rf"^{argument}\b"):
        layer.backward(**{"doutput": np.zeros((2, 4, 5)), **given})
    layer.backward(np.zeros((2, 4, 5)))  # the mistake may be put right


@pytest.mark.parametrize(("argument", "value"), [
    ("cell", "transformer"), ("cell", None), ("cell", 3),
    ("input_size", 0), ("input_size", None), ("input_size", 2.5), ("input_size", "3"),
    ("hidden_size", 0), ("hidden_size", None), ("hidden_size", -4),
    ("num_layers", 0), ("num_layers", 1.5),
    ("dropout", -0.1), ("dropout", 1.5), ("dropout", "a"), ("dropout", np.nan),
    ("dtype", "float16"), ("dtype", "int32"), ("dtype", "nonsense"),
    ("init", "zeros"), ("random_state", "seed"), ("n_jobs", 0), ("n_jobs", "two"),
    ("forget_bias", "one"), ("bias", "yes"), ("bidirectional", 2),
])
def test_bad_options(argument, value):
    with pytest.raises((ValueError, TypeError), match=rf"^{argument}\b"):
        Recurrent(**{"input_size": 3, "hidden_size": 5, argument: value})


@pytest.mark.parametrize(("argument", "value"), [
    ("hidden_size", 10**9), ("hidden_size", 2**63), ("input_size", 2**40), ("num_layers", 10**9),
    ("num_layers", 2**63),
])
def test_sizes_that_no_memory_holds(argument, value):
    with pytest.raises(ValueError, match=f"{argument}.* {value}.*; expected at most"):
        Recurrent(**{"input_size": 3, "hidden_size": 5, argument: value})


class Attached:
    """As a tensor of PyTorch that requires its gradient."""

    def __array__(self, *_, **__):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad")


@pytest.mark.parametrize(("argument", "given"), [
    ("x", {"x": Attached()}),
    ("x", {"x": np.ma.masked_array(X, mask=X == 0)}),
    ("training", {"training": "yes"}),
    ("training", {"training": 1}),
    ("return_output", {"return_output": "no"}),
])
def test_what_numpy_would_take_for_something_else(argument, given):
    layer = Recurrent("gru", 3, 5, random_state=0)
    with pytest.raises((ValueError, TypeError), match=rf"^{argument} was "):
        layer.forward(**{"x": X, **given})
    layer.forward(np.ma.masked_array(X), training=np.True_)  # nothing is masked there
    with pytest.raises(TypeError, match="^input_gradient was 'no'; expected True or False"):
        layer.backward(None, input_gradient="no")
    layer.backward(None)


def test_device_that_is_set_later_is_checked_and_ends_what_was_kept():
    layer = Recurrent("gru", 3, 5, random_state=0)
    layer.forward(X, training=True)
    with pytest.raises(ValueError, match=r"^device was 'gpu'; expected one of cpu, cuda"):
        layer.device = "gpu"
    layer.backward(None)
    layer.forward(X, training=True)
    layer.device = "cuda"
    with pytest.raises(RuntimeError, match="nothing kept"):
        layer.backward(None)


def test_bad_parameters():
    layer = Recurrent("gru", 3, 5, random_state=0)
    good = {name: value.copy() for name, value in layer.parameters.items()}
    bad = [({k: v for k, v in good.items() if k != "bias_hh_l0"}, "bias_hh_l0"),
           ({**good, "weight_ih_l1": good["weight_ih_l0"]}, "weight_ih_l1"),
           ({**good, "weight_ih_l0": good["weight_ih_l0"].T}, "weight_ih_l0"),
           ({**good, "bias_ih_l0": np.full(15, "a")}, "bias_ih_l0")]
    for parameters, name in bad:
        with pytest.raises((ValueError, TypeError), match=name):
            layer.load_parameters(parameters)
    for name, value in layer.parameters.items():  # nothing is loaded by halves
        np.testing.assert_array_equal(value, good[name])


def test_bad_vectors_to_bind():
    layer = Recurrent("gru", 3, 5, random_state=0)
    good = np.zeros(layer.n_parameters, np.float32)
    for bad in (good[1:], good.astype(float), np.zeros(2 * len(good), np.float32)[::2]):
        with pytest.raises((ValueError, TypeError), match=r"^parameters\b"):
            layer.bind(bad, good.copy())
        with pytest.raises((ValueError, TypeError), match=r"^gradients\b"):
            layer.bind(good.copy(), bad)
    read_only = good.copy()
    read_only.setflags(write=False)
    with pytest.raises(ValueError, match="^gradients was a read-only array"):
        layer.bind(good, read_only)
    before = [value.copy() for value in layer.parameters.values()]
    with pytest.raises(ValueError, match="^gradients shared memory with parameters"):
        layer.bind(good, good)
    for value, expected in zip(layer.parameters.values(), before, strict=True):
        np.testing.assert_array_equal(value, expected)


def test_bad_steps():
    layer = Recurrent("gru", 3, 5, random_state=0)
    for bad in (X, X[0, 0], X[:, 0, :2], X[:0, 0], X[:, 0].astype(str)):
        with pytest.raises((ValueError, TypeError), match=r"^x_t\b"):
            layer.step(bad)
    with pytest.raises((ValueError, TypeError), match=r"^state\b"):
        layer.step(X[:, 0], STATE[0])
    with pytest.raises((ValueError, RuntimeError), match="bidirectional"):
        Recurrent("gru", 3, 5, bidirectional=True).step(X[:, 0])


# ------------------------------------------------------------------ calls that are broken off or come between


def test_call_that_is_broken_off_leaves_no_trace(monkeypatch):
    """Ctrl-C around any program of a call with larger buffers: afterwards all is as in a new layer."""
    small, large = Problem("lstm", 0, 3, 4, 5, 6, num_layers=2), Problem("lstm", 0, 9, 8, 5, 6, num_layers=2)
    expected = small.run(small.layer())
    run = Program.run
    for fatal in range(100):
        layer = small.layer()
        small.run(layer)
        calls = iter(range(100))

        def broken(program, calls=calls, fatal=fatal):
            if next(calls) == fatal:
                raise KeyboardInterrupt
            run(program)
            if next(calls) == fatal:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Program, "run", broken)
            try:
                large.run(layer)
            except KeyboardInterrupt:
                pass
            else:
                break
        with pytest.raises(RuntimeError, match="nothing kept"):
            layer.backward(None)
        for name, value in small.run(layer).items():
            np.testing.assert_array_equal(value, expected[name], err_msg=name)
    assert fatal == 4


def test_forward_of_another_thread_before_backward():
    """The other call discards what was kept: an error, or the right gradient, and no crash."""
    problem = Problem("gru", 0, 20, 10, 3, 16)
    layer = problem.layer(n_jobs=1)
    expected = problem.run(layer)["weight_hh_l0"].copy()
    other = np.random.default_rng(0).standard_normal((41, 13, 3))
    ends = []

    def disturb():
        for n in range(1, 42):
            layer.forward(other[:n])

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(disturb)
        while not done.done():
            try:
                np.testing.assert_array_equal(problem.run(layer)["weight_hh_l0"], expected)
                ends.append("gradient")
            except RuntimeError as error:
                assert "nothing kept" in str(error)
        done.result()


def test_read_only_arrays_are_no_other_signature():
    problem = Problem("gru", 0, 4, 5, 3, 6)
    layer = problem.layer()
    problem.run(layer)
    layer.step(problem.x[:, 0])
    before = len(scan.scan_step.signatures)
    lengths = np.full(4, 5)
    for array in (problem.x, problem.doutput, lengths):
        array.setflags(write=False)
    layer.forward(problem.x, lengths=lengths, training=True)
    layer.backward(problem.doutput)
    layer.step(np.ascontiguousarray(problem.x[:, 0]))
    assert len(scan.scan_step.signatures) == before


def test_lengths_are_those_of_the_forward_call():
    problem = Problem("gru", 0, 4, 5, 3, 6)
    lengths = np.array([1, 2, 3, 4])
    results = []
    for change in (False, True):
        layer, given = problem.layer(), lengths.copy()
        layer.forward(problem.x, lengths=given, training=True)
        given[:] = 5 if change else given
        results.append(layer.backward(problem.doutput)[0])
    np.testing.assert_array_equal(*results)


def test_dropout_between_no_layers_warns():
    with pytest.warns(UserWarning, match="dropout was 0.5"):
        Recurrent("gru", 2, 3, dropout=0.5)
