"""One step for many inputs against the recurrent layer, which does each of them by itself."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from numbarnn import Recurrent
from numbarnn.cells import CELLS
from numbarnn.forecasting.base import as_state, states_of
from numbarnn.forecasting.fan import FanOut
from numbarnn.forecasting.networks import Widths, make_network
from numbarnn.forecasting.segment import SegmentNetwork
from numbarnn.forecasting.windows import Batch, Layout

TOLERANCE = {"float64": {"rtol": 1e-12, "atol": 1e-12}, "float32": {"rtol": 1e-4, "atol": 1e-5}}
# columns that all rows share, and where a row's own begin, of 11
SPLITS = {"beside": (7, 7), "overlapping": (7, 0), "shared only": (11, 11)}


def make(cell, split="beside", dtype="float64", n=5, m=3, units=11, n_jobs=1):
    """Return a layer, a fan of its parameters, states, inputs, and the gradient of h."""
    rng = np.random.default_rng(1)
    layer = Recurrent(cell, units, units, dtype=dtype, random_state=0, n_jobs=1)
    n_shared, own_from = (part * units // 11 for part in SPLITS[split])
    fan = FanOut(layer.cell, layer.parameters, n_shared, own_from, n_jobs)
    state = as_state([rng.normal(size=(1, n, units)).astype(dtype) for _ in layer.cell.states])
    shared = rng.normal(size=(m, n_shared)).astype(dtype)
    own = rng.normal(size=(n, units - own_from)).astype(dtype) if own_from < units else None
    return layer, fan, state, shared, own, rng.normal(size=(n * m, units)).astype(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("cell", [name for name, cell in CELLS.items() if cell.is_plain])
def test_fan_is_the_layer_on_every_input(cell, split, dtype):
    layer, fan, state, shared, own, dh = make(cell, split, dtype)
    units, n, m = layer.hidden_size, states_of(state)[0].shape[1], len(shared)
    x = np.zeros((n, m, units), dtype)
    x[:, :, : shared.shape[1]] = shared
    if own is not None:
        x[:, :, -own.shape[1] :] += own[:, np.newaxis]
    repeated = as_state([np.repeat(part, m, axis=1) for part in states_of(state)])
    h, _ = layer.forward(x.reshape(n * m, 1, units), repeated, training=True)
    dx, dstate = layer.backward(dh[:, np.newaxis])

    found = fan.forward(state, shared, own, training=True)
    dshared, down, dold = fan.backward(dh)
    assert_allclose(found, h[:, 0], **TOLERANCE[dtype])
    assert found.dtype == dshared.dtype == dtype
    dx = dx.reshape(n, m, units)
    assert_allclose(dshared, dx.sum(axis=0)[:, : shared.shape[1]], **TOLERANCE[dtype])
    if own is None:
        assert down is None
    else:
        assert_allclose(down, dx.sum(axis=1)[:, -own.shape[1] :], **TOLERANCE[dtype])
    for one, other in zip(states_of(dold), states_of(dstate), strict=True):
        assert_allclose(one, other.reshape(1, n, m, units).sum(axis=2), **TOLERANCE[dtype])
    for name, gradient in layer.gradients.items():
        assert_allclose(fan.gradients[name], gradient, **TOLERANCE[dtype], err_msg=name)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_bits_depend_neither_on_threads_nor_on_other_rows(cell):
    results = []
    for n_jobs in (1, 2):
        _, fan, state, shared, own, dh = make(cell, dtype="float32", n=300, m=4, units=44)
        fan.n_jobs = n_jobs
        h = fan.forward(state, shared, own, training=True)
        dshared, down, dstate = fan.backward(dh)
        results.append([h, dshared, down, *states_of(dstate), *fan.gradients.values()])
    for one, two in zip(*results, strict=True):
        assert_array_equal(one, two)
    first = as_state([part[:, :1].copy() for part in states_of(state)])
    assert_array_equal(fan.forward(first, shared, own[:1]), h[:4])


def test_changed_parameters_are_seen():
    layer, fan, state, shared, own, _ = make("gru")
    before = fan.forward(state, shared, own)
    layer.parameters["weight_ih_l0"][:] *= 2
    assert (fan.forward(state, shared, own) != before).all()


def test_backward_without_forward():
    _, fan, state, shared, own, dh = make("gru")
    fan.forward(state, shared, own)
    with pytest.raises(RuntimeError, match="backward was called without"):
        fan.backward(dh)


class Plain(SegmentNetwork):
    """The same with a step of the recurrent layer for each row and segment."""

    _fans_out = False


@pytest.mark.parametrize("static", [0, 2])
@pytest.mark.parametrize("n_ids", [1, 4])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_networks_of_both_kinds_agree(cell, n_ids, static):
    layout, widths = Layout(12, 10, 4, 4), Widths(static=static)
    options = {
        "n_ids": n_ids, "widths": widths, "cell": cell, "hidden_size": 10, "dtype": "float64",
        "random_state": 0,
    }  # fmt: skip
    fanned, plain = make_network("segment", layout, 1, **options), Plain(layout, 1, **options)
    assert isinstance(fanned.decoder, FanOut) and isinstance(plain.decoder, Recurrent)
    rng = np.random.default_rng(0)
    of_series = rng.normal(size=(6, static)) if static else None
    batch = Batch(rng.normal(size=(6, 3, 4)), None, rng.integers(n_ids, size=6), static=of_series)
    raw, expected = fanned.forward(batch, training=True), plain.forward(batch, training=True)
    assert_allclose(raw, expected, rtol=1e-12, atol=1e-12)
    for network in (fanned, plain):
        network.backward(np.ones_like(raw))
    assert_allclose(fanned.gradients, plain.gradients, rtol=1e-12, atol=1e-12)


def test_what_cannot_be_shared_is_not():
    layout = Layout(12, 10, 4, 4)
    for options in ({"num_layers": 2}, {"widths": Widths(future=1)}):
        assert isinstance(make_network("segment", layout, 1, hidden_size=8, **options).decoder, Recurrent)
