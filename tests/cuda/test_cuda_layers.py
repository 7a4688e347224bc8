"""`Recurrent(device="cuda")` against the CPU, and against the oracle."""

import pickle
from itertools import product

import numpy as np
import pytest

import oracle
from numbarnn import Recurrent, load, save
from numbarnn.blocks import as_state, states_of
from numbarnn.cells import CELLS
from numbarnn.cuda import plans
from numbarnn.cuda.driver import SIMULATED

B, T, F, H = 3, 3, 2, 3
RUNNING = [name for name, cell in CELLS.items() if not cell.loops]
HALVES = [name for name in RUNNING if CELLS[name].m_gates]
LENGTHS = np.array([3, 1, 2])
MASK = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 0]], bool)
OPTIONS = {
    "plain": {},
    "no_bias": {"bias": False},
    "layers": {"num_layers": 2},
    "both_ways": {"bidirectional": True},
    "both_ways_lengths": {"num_layers": 2, "bidirectional": True, "lengths": LENGTHS},
    "lengths_state": {"lengths": LENGTHS, "state": True},
    "mask_state": {"mask": MASK, "state": True, "bidirectional": True},
    "mask_lengths": {"mask": MASK, "lengths": LENGTHS},
    "dropout": {"num_layers": 2, "dropout": 0.5, "bidirectional": True},
    "residual": {"num_layers": 2, "residual": True, "lengths": LENGTHS},
    "sum": {"num_layers": 2, "bidirectional": True, "merge": "sum", "mask": MASK},
    "mean": {"num_layers": 2, "bidirectional": True, "merge": "mean", "residual": True},
    "product": {"num_layers": 2, "bidirectional": True, "merge": "product", "dropout": 0.3, "mask": MASK},
    "recurrent_dropout": {"recurrent_dropout": 0.4, "bidirectional": True, "num_layers": 2, "state": True},
    "zoneout": {"zoneout": 0.4, "bidirectional": True, "num_layers": 2, "state": True, "mask": MASK},
    "both": {"recurrent_dropout": 0.3, "zoneout": 0.5, "dropout": 0.5, "num_layers": 2, "residual": True,
             "bidirectional": True, "merge": "sum", "lengths": LENGTHS},
    "both_mask_state": {"recurrent_dropout": 0.5, "zoneout": 0.3, "mask": MASK, "state": True},
    "both_no_output": {"recurrent_dropout": 0.3, "zoneout": 0.3, "return_output": False},
    "no_output": {"num_layers": 2, "bidirectional": True, "return_output": False},
}
CALL = ("lengths", "mask", "return_output")


def run(device, cell, dtype, options):
    """Return all that comes out of both ways, by name."""
    options = dict(options)
    call = {name: options.pop(name) for name in CALL if name in options}
    with_state, n, units = options.pop("state", False), options.pop("batch", B), options.pop("hidden_size", H)
    layer = Recurrent(cell, F, units, dtype=dtype, random_state=0, device=device, **options)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((n, T, F))
    shapes = layer.state_shapes(n)
    state = as_state([rng.standard_normal(shape) for shape in shapes]) if with_state else None
    output, final = layer.forward(x, state, training=True, **call)
    doutput = None if output is None else rng.standard_normal(output.shape)
    dstate = as_state([rng.standard_normal(shape) for shape in shapes])
    dx, dinitial = layer.backward(doutput, dstate)
    found = {"dx": dx, **layer.gradients}
    found |= {f"final {k}": part for k, part in enumerate(states_of(final))}
    found |= {f"dinitial {k}": part for k, part in enumerate(states_of(dinitial))}
    if output is not None:
        found["output"] = output
        found["predicted"] = layer.forward(x, state, **call)[0]
    return found


def assert_alike(found, expected, dtype):
    """Outputs to 1e-5 and gradients to 1e-4 of their size in float32; all to 1e-10 in float64."""
    assert set(found) == set(expected)
    for name, value in expected.items():
        is_output = name in ("output", "predicted") or name.startswith("final")
        limit = 1e-10 if dtype == "float64" else 1e-5 if is_output else 1e-4
        assert found[name].dtype == value.dtype == np.dtype(dtype)
        assert np.abs(found[name] - value).max() <= limit * max(1, np.abs(value).max()), name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", RUNNING)
def test_every_cell_is_as_on_the_cpu(cell, dtype, path):
    options = {"num_layers": 2, "bidirectional": True, "lengths": LENGTHS, "state": True}
    assert_alike(run("cuda", cell, dtype, options), run("cpu", cell, dtype, options), dtype)


@pytest.mark.skipif(SIMULATED, reason="takes minutes in the simulator")
@pytest.mark.parametrize("hidden", [32, 96, 130])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_sizes_of_use_are_as_on_the_cpu(cell, hidden):
    """Blocks of many warps with several rows, on the chip, and layers that are too large for it."""
    options = {"hidden_size": hidden, "batch": 9, "lengths": np.array([3, 1, 2] * 3), "state": True}
    assert_alike(run("cuda", cell, "float32", options), run("cpu", cell, "float32", options), "float32")


@pytest.mark.parametrize("cell", RUNNING)
def test_noise_of_every_cell_is_as_on_the_cpu(cell, path):
    options = {"zoneout": 0.4, "lengths": LENGTHS, "state": True, "bidirectional": True}
    options |= {"recurrent_dropout": 0.4} if CELLS[cell].h_rows else {}
    found, expected = (run(device, cell, "float64", options) for device in ("cuda", "cpu"))
    assert_alike(found, expected, "float64")


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_every_option_is_as_on_the_cpu(cell, name, path):
    dtype = {"lstm": "float32", "gru": "float64"}[cell]
    assert_alike(run("cuda", cell, dtype, OPTIONS[name]), run("cpu", cell, dtype, OPTIONS[name]), dtype)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_projections_are_as_on_the_cpu(name, dtype):
    options = {"proj_size": 2, **OPTIONS[name]}  # as wide as the input: with `residual` it is added
    assert_alike(run("cuda", "lstm", dtype, options), run("cpu", "lstm", dtype, options), dtype)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("cell", HALVES)
def test_two_products_in_a_step_are_as_on_the_cpu(cell, name):
    dtype = "float32" if cell in ("gru_reset_before", "article_lstm") else "float64"
    assert_alike(run("cuda", cell, dtype, OPTIONS[name]), run("cpu", cell, dtype, OPTIONS[name]), dtype)


@pytest.mark.slow
@pytest.mark.parametrize("cell", RUNNING)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_combination_is_as_on_the_cpu(cell, dtype, path):
    for layers, bidirectional, bias, lengths, mask, state, dropout, residual in product(
        (1, 2), (False, True), (False, True), (None, LENGTHS), (None, MASK), (False, True), (0.0, 0.5),
        (False, True),
    ):  # fmt: skip
        if layers == 1 and (dropout or residual):
            continue
        for merge in ("concat", "sum", "mean", "product") if bidirectional else ("concat",):
            options = {
                "num_layers": layers, "bidirectional": bidirectional, "bias": bias, "lengths": lengths,
                "mask": mask, "state": state, "dropout": dropout, "residual": residual, "merge": merge,
            }  # fmt: skip
            found, expected = (run(device, cell, dtype, options) for device in ("cuda", "cpu"))
            assert_alike(found, expected, dtype)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_is_what_the_oracle_says(cell, path):
    layer = Recurrent(cell, F, 5, 2, bidirectional=True, dtype="float64", random_state=0, device="cuda")
    x = np.random.default_rng(0).standard_normal((B, T, F))
    output, _ = layer.forward(x, lengths=LENGTHS, training=True)
    expected, _, tape = oracle.forward(cell, layer.parameters, x, lengths=LENGTHS)
    doutput = np.random.default_rng(1).standard_normal(output.shape)
    dx, _ = layer.backward(doutput)
    dx_expected, gradients, _ = oracle.backward(tape, doutput)
    np.testing.assert_allclose(output, expected, atol=1e-10)
    np.testing.assert_allclose(dx, dx_expected, atol=1e-10)
    for name, value in gradients.items():
        np.testing.assert_allclose(layer.gradients[name], value, atol=1e-10)


def test_input_gradient_and_gradients_may_be_left_out(path):
    layer = Recurrent("lstm", F, H, random_state=0, device="cuda")
    x = np.ones((B, T, F))
    layer.forward(x, training=True)
    assert layer.backward(None, input_gradient=False)[0] is None
    assert not any(value.any() for value in layer.gradients.values())
    with pytest.raises(RuntimeError, match="backward was called with nothing kept"):
        layer.backward(None)


def test_runs_are_the_same_bits(path):
    options = {"num_layers": 2, "bidirectional": True, "lengths": LENGTHS, "dropout": 0.5}
    first, *others = (run("cuda", "gru", "float32", options) for _ in range(3))
    for other in others:
        assert all((first[name] == other[name]).all() for name in first)


def test_what_missing_steps_hold_is_not_looked_at():
    layer = Recurrent("gru", F, H, random_state=0, device="cuda")
    x = np.ones((B, T, F))
    x[~MASK] = np.nan
    output, _ = layer.forward(x, mask=MASK, training=True)
    layer.backward(np.ones_like(output))
    assert np.isfinite(output).all()
    assert all(np.isfinite(value).all() for value in layer.gradients.values())


def test_streaming_goes_on_from_the_device():
    layer = Recurrent("gru", F, H, random_state=0, device="cuda")
    x = np.random.default_rng(0).standard_normal((1, T, F))
    output, _ = layer.forward(x)
    state = None
    for t in range(T):
        here, state = layer.step(x[:, t], state)
        np.testing.assert_allclose(here, output[:, t], atol=1e-6)


def test_parameters_changed_in_place_are_used():
    layer = Recurrent("rnn", F, H, random_state=0, device="cuda")
    for value in layer.parameters.values():
        value[...] = 0
    assert not layer.forward(np.ones((1, 1, F)))[0].any()


def test_is_pickled_saved_and_used_on_the_other_device(tmp_path):
    layer = Recurrent("gru", F, H, random_state=0, device="cuda")
    x = np.ones((1, T, F))
    expected = layer.forward(x)[0]
    save(layer, tmp_path / "layer.safetensors")
    for copy in (pickle.loads(pickle.dumps(layer)), load(tmp_path / "layer.safetensors")):
        assert copy.device == "cuda"
        for copy.device in ("cpu", "cuda"):
            np.testing.assert_allclose(copy.forward(x)[0], expected, atol=1e-6)


def test_plans_are_by_size():
    from numbarnn.cuda.functions import equations

    eq = equations(CELLS["lstm"], np.dtype("float32"))
    assert plans.plan(eq, 32, 32, 132).rows == 1
    assert plans.plan(eq, 512, 32, 132) is None
    gru = equations(CELLS["gru"], np.dtype("float64"))
    assert plans.plan(gru, 512, 32, 132) is None
