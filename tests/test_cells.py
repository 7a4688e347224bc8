"""The registry of cells: each one's equations on NumPy arrays, and a cell that is added by a user."""

import pickle

import numpy as np
import pytest

import oracle
import test_recurrent
from numbarnn.cells import CELLS, Cell, add_cell, find_cell
from numbarnn.recurrent import Recurrent
from numbarnn.simd import sigmoid, tanh

every_cell = pytest.mark.parametrize("cell", CELLS)


# ------------------------------------------------------------------ a cell with all that a table row can say
# Gates: a is needed as two products apart, b as their sum. Three states.


def toy_forward(gates, states):
    a_h, b, a_x = gates
    _, c_prev, s_prev = states
    b, a = sigmoid(b), tanh(a_x)
    c = b * c_prev + (1.0 - b) * a
    s = 0.5 * s_prev + 0.25 * a_h * c_prev
    return (tanh(c + s), c, s), (a_h, b, a)


def toy_backward(gates, states, new_states, dstates):
    a_h, b, a = gates
    _, c_prev, _ = states
    h, _, _ = new_states
    dh, dc, ds = dstates
    da = dh * (1.0 - h * h)
    dc, ds = dc + da, ds + da
    da_h = 0.25 * ds * c_prev
    db = dc * (c_prev - a) * b * (1.0 - b)
    da_x = dc * (1.0 - b) * (1.0 - a * a)
    return (da_h, db, da_x), (dh * 0.0, dc * b + 0.25 * ds * a_h, 0.5 * ds)


def toy_cell(**changes):
    row = {"name": "toy", "gates": ("a", "b"), "slots": (("a", "h"), ("b", "xh"), ("a", "x")),
           "forward": toy_forward, "backward": toy_backward, "states": ("h", "c", "s"), "forget_gate": "b"}
    return Cell(**{**row, **changes})


def as_oracle(cell):
    """Run the cell's own two functions in the oracle's network: the sums go in and out by the table row."""
    def slots(gx, gh):
        parts = {"x": np.split(gx, len(cell.gates), axis=1), "h": np.split(gh, len(cell.gates), axis=1)}
        return tuple(sum(parts[product][cell.gates.index(gate)] for product in products)
                     for gate, products in cell.slots)

    def forward(gx, gh, states):
        return cell.forward(slots(gx, gh), states)[0]

    def backward(gx, gh, states, dstates):
        new_states, kept = cell.forward(slots(gx, gh), states)
        dslots, dprev = cell.backward(kept, states, new_states, dstates)
        dsums = {"x": np.zeros_like(gx), "h": np.zeros_like(gh)}
        for (gate, products), dslot in zip(cell.slots, dslots, strict=True):
            for product in products:
                np.split(dsums[product], len(cell.gates), axis=1)[cell.gates.index(gate)] += dslot
        return dsums["x"], dsums["h"], dprev

    return oracle.Cell(len(cell.gates), cell.n_states, forward, backward)


@pytest.fixture
def toy(monkeypatch):
    """Register the toy cell for the time of a test."""
    cell = toy_cell()
    monkeypatch.setitem(CELLS, "toy", cell)
    monkeypatch.setitem(oracle.CELLS, "toy", as_oracle(cell))
    return cell


def draw(cell, dtype=np.float64):
    """Both products, previous states and gradients of the new ones."""
    rng = np.random.default_rng(0)
    size = len(cell.gates) * 5
    gx, gh = (rng.standard_normal((4, size)).astype(dtype) for _ in range(2))
    states, dstates = (tuple(rng.standard_normal((len(cell.states), 4, 5)).astype(dtype)) for _ in range(2))
    return gx, gh, states, dstates


# ------------------------------------------------------------------ equations


def check_equations(cell):
    """The gradients that the cell's functions give on NumPy arrays are finite differences."""
    gx, gh, states, dstates = draw(cell)
    run = as_oracle(cell)

    def loss():
        return sum((new * d).sum() for new, d in zip(run.forward(gx, gh, states), dstates, strict=True))

    dgx, dgh, dprev = run.backward(gx, gh, states, dstates)
    for actual, array in [(dgx, gx), (dgh, gh), *zip(dprev, states, strict=True)]:
        np.testing.assert_allclose(actual, oracle.finite_difference(loss, array), rtol=0, atol=1e-8)


@every_cell
def test_equations_on_arrays_are_finite_differences(cell):
    check_equations(CELLS[cell])


@every_cell
def test_equations_on_arrays_are_those_of_the_oracle(cell):
    gx, gh, states, dstates = draw(CELLS[cell])
    ours, known = as_oracle(CELLS[cell]), oracle.CELLS[cell]
    assert ours[:2] == known[:2]
    for actual, expected in zip(ours.forward(gx, gh, states), known.forward(gx, gh, states), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-14)
    results = (run.backward(gx, gh, states, dstates) for run in (ours, known))
    for actual, expected in zip(*((dgx, dgh, *dprev) for dgx, dgh, dprev in results), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-14)


@every_cell
def test_equations_keep_float32(cell):
    _, _, states, dstates = draw(CELLS[cell], np.float32)
    gates = tuple(np.full((4, 5), 0.25, np.float32) for _ in CELLS[cell].slots)
    new_states, kept = CELLS[cell].forward(gates, states)
    dgates, dprev = CELLS[cell].backward(kept, states, new_states, dstates)
    assert {value.dtype.name for value in (*new_states, *kept, *dgates, *dprev)} == {"float32"}
    assert len(kept) == len(dgates) == len(gates)
    assert len(dprev) == len(states)


# ------------------------------------------------------------------ a new cell


def test_a_new_cell_passes_every_check(toy):
    """Nothing but its equations and its table row is told to anyone."""
    check_equations(toy)
    test_recurrent.test_random_shapes_against_the_oracle("toy", 0)
    test_recurrent.test_gradients_are_finite_differences("toy")
    test_recurrent.test_nothing_past_the_lengths_is_read("toy")
    test_recurrent.test_results_are_not_overwritten_by_later_calls("toy")
    test_recurrent.test_subnormals_are_flushed_in_backward_only("toy")
    for dtype in test_recurrent.TOLERANCE:
        test_recurrent.test_steps_are_forward("toy", dtype, 2, 9, True)
        test_recurrent.test_number_of_threads_does_not_change_a_bit("toy", dtype)
        test_recurrent.test_nan_and_inf_propagate_and_stay_in_their_row("toy", dtype, np.nan)


def scaled_source(scale):
    """Return the two functions of a cell, h = scale * tanh(a), from one text in a namespace of their own."""
    namespace = {"tanh": tanh, "scale": scale}
    exec("""
def forward(gates, states):
    h = tanh(gates[0])
    return (scale * h,), (h,)
def backward(gates, states, new_states, dstates):
    return (scale * dstates[0] * (1.0 - gates[0] * gates[0]),), (dstates[0] * 0.0,)
""", namespace)
    return namespace["forward"], namespace["backward"]


def scaled_closure(scale):
    """Return the same two functions, with the scale in a closure."""
    def forward(gates, states):
        h = tanh(gates[0])
        return (scale * h,), (h,)

    def backward(gates, states, new_states, dstates):
        return (scale * dstates[0] * (1.0 - gates[0] * gates[0]),), (dstates[0] * 0.0,)

    return forward, backward


@pytest.mark.parametrize("make", [scaled_source, scaled_closure])
def test_cells_of_one_code_and_other_constants_are_other_cells(make, monkeypatch):
    x, outputs = np.ones((1, 1, 1)), []
    for scale in (1.0, 2.0):
        forward, backward = make(scale)
        monkeypatch.setitem(CELLS, "scaled", Cell("scaled", ("h",), (("h", "xh"),), forward, backward))
        layer = Recurrent("scaled", 1, 1, dtype="float64", random_state=0)
        output, _ = layer.forward(x, training=True)
        dx, _ = layer.backward(np.ones((1, 1, 1)))
        outputs.append([output[0, 0, 0], dx[0, 0, 0]])
    np.testing.assert_allclose(outputs[1], np.multiply(outputs[0], 2.0), rtol=1e-12)


def test_rows_that_no_slot_reads_have_no_gradient(monkeypatch):
    """Gate a sees h alone and gate b the input alone; what stood in the gradient before is gone."""
    def forward(gates, states):
        h = tanh(gates[0] + gates[1])
        return (h,), (h, h)

    def backward(gates, states, new_states, dstates):
        da = dstates[0] * (1.0 - gates[0] * gates[0])
        return (da, da), (dstates[0] * 0.0,)

    cell = Cell("apart", ("a", "b"), (("a", "h"), ("b", "x")), forward, backward)
    monkeypatch.setitem(CELLS, "apart", cell)
    layer = Recurrent("apart", 2, 3, dtype="float64", random_state=0)
    layer.bind(np.zeros(layer.n_parameters), np.full(layer.n_parameters, np.nan))
    layer.forward(np.ones((2, 3, 2)), training=True)
    layer.backward(np.ones((2, 3, 3)))
    assert (layer.gradients["weight_ih_l0"][:3] == 0).all()
    assert (layer.gradients["weight_hh_l0"][3:] == 0).all()
    assert (layer.gradients["weight_ih_l0"][3:] != 0).all()


# ------------------------------------------------------------------ the table


def test_table(toy):
    assert list(CELLS)[:4] == ["rnn", "rnn_relu", "lstm", "gru"]
    for name, cell in CELLS.items():
        assert cell.name == name
        assert find_cell(name) is cell
        assert pickle.loads(pickle.dumps(cell)) is cell
    with pytest.raises(ValueError, match="cell was 'transformer'.*lstm"):
        find_cell("transformer")


def test_add_cell(monkeypatch):
    monkeypatch.setitem(CELLS, "toy", None)  # taken out again after the test
    cell = toy_cell()
    assert add_cell(cell) is cell
    assert find_cell("toy") is cell


@pytest.mark.parametrize("slots", [
    (("b", "xh"), ("a", "h"), ("a", "x")),   # in another order than h, xh, x
    (("a", "h"), ("b", "hx"), ("a", "x")),   # no such products
    (("a", "h"), ("d", "xh"), ("a", "x")),   # no such gate
])
def test_bad_table_rows(slots):
    with pytest.raises(ValueError, match="slots"):
        toy_cell(slots=slots)


def test_bad_forget_gate():
    with pytest.raises(ValueError, match="forget_gate"):
        toy_cell(forget_gate="z")
