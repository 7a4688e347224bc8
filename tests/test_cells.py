"""The registry of cells: each one's equations on NumPy arrays, and a cell that is added by a user."""

import copy
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import oracle
import test_recurrent
from numbarnn.cells import CELLS, Cell, add_cell, check, find_cell
from numbarnn.cells.check import check_cell, register_cell
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


# ------------------------------------------------------------------ and one whose step has two products
# Gate n has rows of weight_hh alone, before those of a and b; a vector v and a scalar s.


def double_forward(gates, states, units):
    a_h, b, a_x = gates
    _, c_prev = states
    v, s = units
    a, b = tanh(a_x + s * a_h), sigmoid(b + v * c_prev)
    c = b * c_prev + (1.0 - b) * a
    return b * c, (c,), (a_h, b, a)


def double_finish(products, kept, states):
    (n,) = products
    _, _, a = kept
    n = tanh(n)
    return n + 0.5 * a * states[0], (n,), kept


def double_finish_backward(products, kept, states, dh):
    (n,) = products
    return (dh * (1.0 - n * n),), kept, dh


def double_backward(kept, states, new_states, dstates, dmiddle, units):
    a_h, b, a = kept
    h_prev, c_prev = states
    _, c = new_states
    dh, dc = dstates
    v, s = units
    dc = dc + dmiddle * b
    db = (dmiddle * c + dc * (c_prev - a)) * b * (1.0 - b)
    da = (0.5 * dh * h_prev + dc * (1.0 - b)) * (1.0 - a * a)
    return (da * s, db, da), (0.5 * dh * a, dc * b + db * v), (db * c_prev, da * a_h)


def double_cell(**changes):
    row = {"name": "double", "gates": ("n", "a", "b"), "forget_gate": "b", "states": ("h", "c"),
           "slots": (("a", "h"), ("b", "xh"), ("a", "x"), ("n", "m")), "vectors": ("v",), "scalars": ("s",),
           "forward": double_forward, "backward": double_backward,
           "finish": double_finish, "finish_backward": double_finish_backward}
    return Cell(**{**row, **changes})


def as_oracle(cell):
    """Run the cell's own functions in the oracle's network: the sums go in and out by the table row."""
    gates_of = {"x": cell.x_rows, "h": cell.h_rows, "m": cell.h_rows}

    def rows(kind, values, gate):
        hidden = values.shape[1] // len(gates_of[kind])
        at = gates_of[kind].index(gate) * hidden
        return values[:, at:at + hidden]

    def gather(**sums):
        return tuple(sum(rows(kind, sums[kind], gate) for kind in products)
                     for gate, products in cell.slots if set(products) <= set(sums))

    def scatter(kind, like, dslots):
        total = np.zeros_like(like)
        for (gate, products), dslot in zip(cell.slots, dslots, strict=True):
            if kind in products:
                rows(kind, total, gate)[...] += dslot
        return total

    def step(gx, gh, states, units, product):
        units = (units,) if units else ()
        if not cell.m_gates:
            return *cell.forward(gather(x=gx, h=gh), states, *units), None, None
        middle, further, kept = cell.forward(gather(x=gx, h=gh), states, *units)
        h, kept_products, kept = cell.finish(gather(m=product(middle)), kept, states)
        return (h, *further), kept, kept_products, middle

    def forward(*arguments):
        return step(*arguments)[0]

    def backward(gx, gh, states, dstates, units, product):
        new_states, kept, kept_products, middle = step(gx, gh, states, units, product)
        dmiddle, dproducts = (), ()
        if cell.m_gates:
            dproducts, kept, dh_prev = cell.finish_backward(kept_products, kept, states, dstates[0])
            dslots = (None,) * cell.n_slots + dproducts
            dstates, dmiddle = (dh_prev, *dstates[1:]), (product.back(middle, scatter("m", gh, dslots)),)
        units = (units,) if units else ()
        dgates, dprev, *dunits = cell.backward(kept, states, new_states, dstates, *dmiddle, *units)
        dslots = dgates + dproducts
        return scatter("x", gx, dslots), scatter("h", gh, dslots), dprev, *sum(dunits, start=())

    counts = len(cell.x_rows), len(cell.h_rows), cell.n_states
    return oracle.Cell(*counts, forward, backward, cell.vectors, cell.scalars, cell.biases)


@pytest.fixture(params=[toy_cell, double_cell], ids=["toy", "double"])
def toy(request, monkeypatch):
    """Register a toy cell for the time of a test."""
    cell = request.param()
    monkeypatch.setitem(CELLS, cell.name, cell)
    monkeypatch.setitem(oracle.CELLS, cell.name, as_oracle(cell))
    return cell


# ------------------------------------------------------------------ equations


@every_cell
def test_equations_on_arrays_are_finite_differences(cell):
    check_cell(CELLS[cell])  # dtypes, shapes and numbers of values as well


@every_cell
def test_equations_on_arrays_are_those_of_the_oracle(cell, monkeypatch):
    known, ours = oracle.CELLS[cell], as_oracle(CELLS[cell])
    rng, shapes = np.random.default_rng(0), oracle.shapes(cell, 3, 5, num_layers=2)
    parameters = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    x, doutput = rng.standard_normal((4, 6, 3)), rng.standard_normal((4, 6, 5))
    results = []
    for run in (known, ours):
        monkeypatch.setitem(oracle.CELLS, cell, run)
        assert oracle.shapes(cell, 3, 5, num_layers=2) == shapes
        output, state, tape = oracle.forward(cell, parameters, x)
        dx, gradients, dstate_0 = oracle.backward(tape, doutput)
        results.append([output, *np.atleast_3d(state), dx, *np.atleast_3d(dstate_0), *gradients.values()])
    for actual, expected in zip(*results, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


@every_cell
@pytest.mark.parametrize("field", ["gates", "products", "states", "units"])
def test_nan_in_any_argument_reaches_a_result(cell, field):
    cell = CELLS[cell]
    point = check._draw(cell, np.float64)
    for k in range(len(getattr(point, field))):
        values = [value.copy() for value in getattr(point, field)]
        values[k][..., 0] = np.nan
        results, _, _ = check._run(cell, point._replace(**{field: tuple(values)}))
        is_unused = field == "states" and cell.states[k] == "h" and cell.name.startswith(("rnn", "lstm"))
        assert np.isnan(np.stack(results)[:, 0, 0]).any() != is_unused


def test_minlstm_keeps_its_digits_where_both_gates_are_nearly_shut():
    """In float32 the published quotient is 0 / 0 there."""
    for dtype, tolerance in (("float32", 1e-6), ("float64", 1e-13)):
        i, f = np.meshgrid(*2 * [np.array([-200, -90, -30, -17, -5, 0, 5, 17, 30, 90, 200], dtype)])
        n, h_prev = np.zeros_like(i), np.ones_like(i)
        (h,), _ = CELLS["minlstm"].forward((i, f, n), (h_prev,))
        assert h.dtype == dtype
        expected = oracle._share(i.astype(float), f.astype(float))
        np.testing.assert_allclose(h, expected, rtol=0, atol=tolerance)


def test_gradients_at_a_kink_are_those_of_the_flat_side():
    zero, one = np.zeros((1, 1)), np.ones((1, 1))
    for cell, units in ((CELLS["rnn_relu"], ()), (CELLS["indrnn"], ((one,),))):
        new_states, kept = cell.forward((zero,), (zero,), *units)
        dgates, *_ = cell.backward(kept, (zero,), new_states, (one,), *units)
        assert dgates == (0.0,)


# ------------------------------------------------------------------ a new cell


def test_a_new_cell_passes_every_check(toy):
    """Nothing but its equations and its table row is told to anyone."""
    check_cell(toy)
    test_recurrent.test_random_shapes_against_the_oracle(toy.name, 0)
    test_recurrent.test_gradients_are_finite_differences(toy.name)
    test_recurrent.test_nothing_past_the_lengths_is_read(toy.name)
    test_recurrent.test_results_are_not_overwritten_by_later_calls(toy.name)
    test_recurrent.test_subnormals_are_flushed_in_backward_only(toy.name)
    for dtype in test_recurrent.TOLERANCE:
        test_recurrent.test_steps_are_forward(toy.name, dtype, 2, 9, True)
        test_recurrent.test_number_of_threads_does_not_change_a_bit(toy.name, dtype)
        test_recurrent.test_nan_and_inf_propagate_and_stay_in_their_row(toy.name, dtype, np.nan)


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


def test_there_are_rows_for_what_a_slot_reads_alone(monkeypatch):
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
    assert {name: array.shape for name, array in layer.parameters.items()} == {
        "weight_ih_l0": (3, 2), "weight_hh_l0": (3, 3), "bias_ih_l0": (3,), "bias_hh_l0": (3,)}
    layer.bind(np.zeros(layer.n_parameters), np.full(layer.n_parameters, np.nan))
    layer.forward(np.ones((2, 3, 2)), training=True)
    layer.backward(np.ones((2, 3, 3)))
    for gradient in layer.gradients.values():
        assert np.isfinite(gradient).all() and (gradient != 0).all()


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


# ------------------------------------------------------------------ a cell of one's own


def lstm_with(**changes):
    """Return an LSTM under the name "mine", with other functions or another table row."""
    lstm = CELLS["lstm"]
    row = {"name": "mine", "gates": lstm.gates, "slots": lstm.slots, "states": lstm.states,
           "forward": lstm.forward, "backward": lstm.backward}
    return Cell(**{**row, **changes})


def changed_backward(cell, change):
    """Return the backward of a cell with its results changed by a function of lists of them."""
    def backward(*arguments):
        results = [list(values) for values in cell.backward(*arguments)]
        change(results)
        return tuple(tuple(values) for values in results)

    return backward


def scaled(result, place):
    def change(results):
        results[result][place] = results[result][place] * 1.5

    return change


def zeroed(result, place):
    def change(results):
        results[result][place] = results[result][place] * 0.0

    return change


def test_check_cell_names_the_gradient_that_is_wrong():
    lstm = CELLS["lstm"]
    for change, name in [(scaled(0, 1), r"slot 1 \(gate f, products 'xh'\), through new state h: \S+ where"),
                         (scaled(1, 1), "state c, through new state c: "),
                         (zeroed(0, 3), r"slot 3 \(gate o")]:
        with pytest.raises(ValueError, match=name) as raised:
            check_cell(lstm_with(backward=changed_backward(lstm, change)))
        assert raised.value.args[0].count("where finite differences give") <= 3  # by h, by c, by both

    double = double_cell()
    for change, name in [(scaled(2, 0), "the vector v"), (zeroed(2, 1), "the scalar s"),
                         (scaled(0, 0), r"slot 0 \(gate a, products 'h'\), through the middle vector")]:
        with pytest.raises(ValueError, match=name):
            check_cell(double_cell(backward=changed_backward(double, change)))

    def finish_backward(products, kept, states, dh):
        return (dh * products[0],), kept, dh

    with pytest.raises(ValueError, match=r"slot 3 \(gate n, products 'm'\), through new state h"):
        check_cell(double_cell(finish_backward=finish_backward))


def test_check_cell_sees_what_is_wrong_with_two_results_together():
    def change(results):
        results[0][0] = results[0][0] + results[1][1] * results[0][3]  # zero if either is

    lstm = CELLS["lstm"]
    with pytest.raises(ValueError, match=r"slot 0 \(gate i"):
        check_cell(lstm_with(backward=changed_backward(lstm, change)))


calls = iter(range(100))


@pytest.mark.parametrize(("forward", "message"), [
    (lambda g, s: (g[:2], g, s), r"forward returned a tuple of 3 .* expected \(new_states, kept\)"),
    (lambda g, s: (g[:2], g[:3]), "kept of forward was a tuple of 3 .* 4 .* each slot"),
    (lambda g, s: (g[:1], g), "new_states of forward was a tuple of 1 "),
    (lambda g, s: (g[:2], list(g)), "kept of forward was list; expected a tuple of 4"),
    (lambda g, s: (g[:2], (1.0, *g[1:])), r"value 0 of kept of forward had shape \(\)"),
    (lambda g, s: ((g[0], g[1].sum(axis=1)), g), "value 1 of new_states of forward had shape"),
    (lambda g, s: ((g[0], g[1] * np.float64(2)), g), "had dtype float64 where gates had float32"),
    (lambda g, s: ((g[0], g[1] + float(next(calls))), g), "was another in a second call"),
    (lambda g, s: ((g[0].__iadd__(1.0), g[1]), g), "changed their argument gates"),
    (lambda g, s: ((g[0] - g[0].max(axis=1, keepdims=True), g[1]), g), "each unit by itself"),
    (lambda g: (g[:2], g), "forward was given its 2 arguments"),
])
def test_check_cell_says_what_is_wrong_with_what_is_returned(forward, message):
    with pytest.raises(ValueError, match=f"^cell 'mine': .*{message}"):
        check_cell(lstm_with(forward=forward, backward=lambda k, s, n, d: (k, s)))


def test_check_cell_says_what_cannot_be_compiled():
    def forward(gates, states):
        return (np.tanh(gates[0]),), (np.tanh(gates[0]),)

    def backward(kept, states, new_states, dstates):
        return (dstates[0] * (1.0 - kept[0] * kept[0]),), (dstates[0] * 0.0,)

    message = "'mine': forward cannot be compiled: .*tanh.*; expected .* numbarnn.simd"
    with pytest.raises(ValueError, match=message):
        check_cell(Cell("mine", ("h",), (("h", "xh"),), forward, backward))


def unmarked(a):
    return a * 2.0


def calls_unmarked(gates, states):
    return (unmarked(gates[0]),), gates


def asks_if(gates, states):
    return (gates[0] if gates[0] > 0 else states[0],), gates


def unpacks_too_many(gates, states):
    a, b = gates
    return (a,), gates


def doubled_backward(kept, states, new_states, dstates):
    return (dstates[0] * 2.0,), (dstates[0] * 0.0,)


@pytest.mark.parametrize(("changes", "message"), [
    ({"forward": calls_unmarked}, "'mine': forward .* calls 'unmarked'; .*numba.extending.register_jitable"),
    ({"forward": asks_if}, "'mine': forward raised ValueError: .*no `if`"),
    ({"forward": unpacks_too_many}, "'mine': forward raised ValueError: not enough values"),
    ({"forward": lambda g, s: ((g[5],), g)}, "'mine': forward raised IndexError"),
    ({"backward": lambda k, s, n, d: (k[3],)}, "'mine': backward raised IndexError"),
    ({"slots": "xh"}, "slots was 'xh'; expected a tuple"),
    ({"slots": ("h", "xh")}, "slots had 'h'; expected one of the gates"),
    ({"slots": (("h", "xh"), ("h", "xh"))}, r"slots had \('h', 'xh'\) twice"),
    ({"gates": ("h", "q")}, "gates had 'q', which no slot has"),
    ({"states": ()}, "states was .*; expected one at least"),
    ({"name": "lstm"}, "name was 'lstm', a built-in cell"),
    ({"name": "no name"}, "name was 'no name'; expected letters"),
])
def test_check_cell_says_where_an_error_was_made(changes, message):
    row = {"name": "mine", "gates": ("h",), "slots": (("h", "xh"),), "backward": doubled_backward,
           "forward": lambda gates, states: ((gates[0] * 2.0,), gates)}
    check_cell(Cell(**row))
    with pytest.raises(ValueError, match=message):
        check_cell(Cell(**row | changes))


def test_check_cell_takes_cells_alone():
    for function in (check_cell, register_cell):
        with pytest.raises(TypeError, match="cell was 'lstm'; expected a numbarnn.cells.Cell"):
            function("lstm")


def test_register_cell(monkeypatch):
    monkeypatch.setattr(check, "_OWN", set())
    monkeypatch.setitem(CELLS, "mine", None)
    monkeypatch.delitem(CELLS, "mine")  # also what the test leaves there
    for name, expected in (("lstm", "another name"), ("no name", "letters"), ("", "letters")):
        with pytest.raises(ValueError, match=f"name was {name!r}.*; expected {expected}"):
            register_cell(lstm_with(name=name))
    assert CELLS["lstm"].name == "lstm"

    wrong = lstm_with(backward=changed_backward(CELLS["lstm"], scaled(0, 1)))
    with pytest.raises(ValueError, match="gate f"):
        register_cell(wrong)
    assert "mine" not in CELLS
    assert register_cell(wrong, check=False) is find_cell("mine") is wrong
    old = Recurrent("mine", 4, 5, random_state=0)
    pickled = pickle.dumps(old)
    with pytest.warns(UserWarning, match='cell "mine" was registered before with other equations'):
        right = register_cell(lstm_with())
    assert find_cell("mine") is right
    for copied in (lambda: copy.deepcopy(old), lambda: pickle.loads(pickled)):
        with pytest.warns(UserWarning, match='cell "mine" has other equations here than where the layer'):
            copied()
    register_cell(lstm_with())  # the same equations
    copy.deepcopy(Recurrent("mine", 4, 5))
    x = np.ones((2, 3, 4))
    mine, lstm = (Recurrent(cell, 4, 5, random_state=0).forward(x)[0] for cell in ("mine", "lstm"))
    np.testing.assert_array_equal(mine, lstm)


def test_the_page_on_own_cells_runs(monkeypatch, capsys):
    monkeypatch.setattr(check, "_OWN", set())
    monkeypatch.setitem(CELLS, "mine", None)
    monkeypatch.delitem(CELLS, "mine")
    page = (Path(__file__).parent.parent / "docs" / "own_cell.md").read_text(encoding="utf-8")
    namespace = {}
    for code in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        exec(code, namespace)
    assert "gradient of state h, through new state h" in capsys.readouterr().out
    x = np.random.default_rng(0).standard_normal((20, 4, 2))
    namespace["model"].set_params(max_iter=2, tol=0.0, early_stopping=False)
    with pytest.warns(ConvergenceWarning):
        namespace["model"].fit(x, x[:, -1, 0])
    assert np.isfinite(namespace["model"].predict(x)).all()


def test_zeros_must_go_back_to_zeros():
    """As a cell that divides by what it kept: NaN in the units that fill up a register."""
    def backward(kept, states, new_states, dstates):
        (h,) = kept
        return (dstates[0] * (1.0 - h * h) * h / h,), (dstates[0] * 0.0,)

    rnn = CELLS["rnn"]
    with pytest.raises(ValueError, match="backward of zeros alone"):
        check_cell(Cell("divides", rnn.gates, rnn.slots, rnn.forward, backward))
