"""Batches that are cut into chunks, and ways back that are cut into blocks of steps."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from numbarnn import Recurrent
from numbarnn.cells import CELLS
from numbarnn.kernels import sizes

FEW = sizes.CHUNK_ROWS  # so many rows are not cut
OPTIONS = [
    {},
    {"bidirectional": True, "num_layers": 2, "merge": "sum"},
    {"bidirectional": True, "num_layers": 2, "bias": False},
    {"num_layers": 3, "residual": True},
]


def problem(cell, n_samples, n_timesteps, options, masked, n_jobs=1, hidden_size=9):
    """Return a layer of float64, arguments of forward and gradients for backward."""
    rng = np.random.default_rng(0)
    layer = Recurrent(cell, 3, hidden_size, dtype="float64", random_state=0, n_jobs=n_jobs, **options)
    state = tuple(rng.normal(size=shape) for shape in layer.state_shapes(n_samples))
    arguments = {"x": rng.normal(size=(n_samples, n_timesteps, 3)), "state": state}
    arguments["lengths"] = rng.integers(1, n_timesteps + 1, n_samples)
    if masked:
        arguments["mask"] = rng.random((n_samples, n_timesteps)) < 0.8
        arguments["mask"][:, 0] = True
    doutput = rng.normal(size=(n_samples, n_timesteps, layer.output_size))
    dstate = tuple(rng.normal(size=part.shape) for part in state)
    return layer, arguments, doutput, dstate


def states_of(state):
    return state if isinstance(state, tuple) else (state,)


def both_ways(layer, arguments, doutput, dstate):
    """Return output, final states, dx, gradients of initial states, and gradients of parameters."""
    output, final = layer.forward(**arguments, training=True)
    dx, dinitial = layer.backward(doutput, dstate)
    gradients = {name: value.copy() for name, value in layer.gradients.items()}
    return [output, dx], [*states_of(final), *states_of(dinitial)], gradients


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("cell", ["lstm", "gru_reset_before", "mingru"])
def test_a_batch_is_what_its_rows_are(cell, options, masked):
    """Rows have the same bits in a small batch, and gradients of parameters are the sum over such batches."""
    n = 4 * FEW + 3
    layer, arguments, doutput, dstate = problem(cell, n, 40, options, masked)
    rows, states, gradients = both_ways(layer, arguments, doutput, dstate)
    total = dict.fromkeys(gradients, 0)
    for first in range(0, n, FEW):
        part = slice(first, min(n, first + FEW))
        given = {name: value[part] for name, value in arguments.items() if name != "state"}
        given["state"] = tuple(value[:, part] for value in arguments["state"])
        some = both_ways(layer, given, doutput[part], tuple(value[:, part] for value in dstate))
        for whole, few in zip(rows, some[0], strict=True):
            assert_array_equal(whole[part], few)
        for whole, few in zip(states, some[1], strict=True):
            assert_array_equal(whole[:, part], few)
        total = {name: value + some[2][name] for name, value in total.items()}
    for name, value in gradients.items():
        assert_allclose(value, total[name], rtol=1e-11, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_bits_do_not_depend_on_threads(cell):
    """Where chunks, blocks of steps and threads meet: one thread a chunk, several, or all chunks on one."""
    results = []
    for n_jobs in (1, 2, 3, 4, 7):
        given = problem(cell, 2 * FEW + 5, 300, {"bidirectional": True}, True, n_jobs, hidden_size=20)
        results.append(both_ways(*given))
    for rows, states, gradients in results[1:]:
        for one, many in zip(results[0][0] + results[0][1], rows + states, strict=True):
            assert_array_equal(one, many)
        for name, value in gradients.items():
            assert_array_equal(results[0][2][name], value, err_msg=name)


@pytest.mark.parametrize("gradient_bytes", [1000, 10**9])
def test_blocks_cover_every_step_once(gradient_bytes):
    for n_samples, n_timesteps, hidden in ((1, 1, 1), (16, 100, 32), (7, 9999, 5), (300, 17, 300)):
        layer = sizes.layer_sizes(CELLS["gru"], 3, hidden, 4, False)
        batch = sizes.batch_sizes(layer, n_timesteps, n_samples, True)
        steps = sizes.block_steps(batch, 4, gradient_bytes)
        for reverse in (0, 1):
            blocks = sizes.backward_blocks(batch._replace(reverse=reverse), steps)
            assert [step for s0, s1 in reversed(blocks) for step in range(s0, s1)] == [*range(n_timesteps)]
            assert len(blocks) <= sizes.MOST_BLOCKS and (gradient_bytes < 10**9 or len(blocks) == 1)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("options", [{}, {"num_layers": 3, "residual": True}], ids=str)
@pytest.mark.parametrize("cell", sorted(name for name, cell in CELLS.items() if not cell.h_gates))
def test_what_is_computed_again_has_the_same_bits(monkeypatch, cell, options, masked):
    """Long sequences keep only their last steps, of cells whose sums do not depend on h."""
    monkeypatch.setattr(sizes, "BLOCK_BYTES", 5_000)
    for n_samples in (3, 2 * FEW + 5):
        results, kept = [], []
        for most in (1 << 30, 90_000, 0):
            monkeypatch.setattr(sizes, "KEPT_BYTES", most)
            given = problem(cell, n_samples, 150, options, masked, hidden_size=20)
            results.append(both_ways(*given))
            (way,) = given[0]._passes.values()
            kept.append(way._chunks[0]._loops[0][0].sizes.g_slots)
        assert 150 == kept[0] > kept[1] > kept[2]
        for rows, states, gradients in results[1:]:
            for one, other in zip(results[0][0] + results[0][1], rows + states, strict=True):
                assert_array_equal(one, other)
            for name, value in gradients.items():
                assert_array_equal(results[0][2][name], value, err_msg=name)
