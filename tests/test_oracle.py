"""The oracle against finite differences and against PyTorch."""

import numpy as np
import pytest

import oracle


def _problem(cell, layers, bidirectional, with_lengths, bias=True, seed=0, shape=(2, 3, 3, 2)):
    """Random network, input, initial state and output gradients."""
    rng = np.random.default_rng(seed)
    n_samples, n_timesteps, n_inputs, hidden = shape
    directions = 2 if bidirectional else 1
    draw = rng.standard_normal
    parameters = {name: 0.6 * draw(size) for name, size in
                  oracle.shapes(cell, n_inputs, hidden, layers, bias, bidirectional).items()}
    x = draw((n_samples, n_timesteps, n_inputs))
    state_shape = (layers * directions, n_samples, hidden)
    state, dstate = (draw((oracle.CELLS[cell].n_states, *state_shape)) for _ in range(2))
    lengths = rng.integers(1, n_timesteps + 1, n_samples) if with_lengths else None
    doutput = draw((n_samples, n_timesteps, hidden * directions))
    masks = [2.0 * (rng.random(doutput.shape) < 0.5) for _ in range(layers - 1)]
    return parameters, x, state, lengths, doutput, dstate, masks


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", oracle.CELLS)
def test_gradients_are_finite_differences(cell, layers, bidirectional, with_lengths):
    problem = _problem(cell, layers, bidirectional, with_lengths)
    parameters, x, state, lengths, doutput, dstate, masks = problem

    def as_state(stacked):
        return tuple(stacked) if len(stacked) > 1 else stacked[0]

    def loss():
        output, final, _ = oracle.forward(cell, parameters, x, as_state(state), lengths, masks)
        return (output * doutput).sum() + (np.stack(final) * dstate.reshape(np.stack(final).shape)).sum()

    _, _, tape = oracle.forward(cell, parameters, x, as_state(state), lengths, masks)
    dx, gradients, dstate_0 = oracle.backward(tape, doutput, as_state(dstate))
    np.testing.assert_allclose(dx, oracle.finite_difference(loss, x), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(np.reshape(dstate_0, state.shape), oracle.finite_difference(loss, state),
                               rtol=1e-6, atol=1e-6)
    assert set(gradients) == set(parameters)
    for name, value in parameters.items():
        np.testing.assert_allclose(gradients[name], oracle.finite_difference(loss, value),
                                   rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("cell", ["rnn", "rnn_relu", "lstm", "gru"])
def test_oracle_is_pytorch(cell, torch_cases):
    for case in torch_cases(cell):
        output, state, tape = oracle.forward(cell, case.parameters, case.x, case.state, case.lengths)
        dx, gradients, dstate_0 = oracle.backward(tape, case.doutput, case.dstate)
        close = {"rtol": 0, "atol": 1e-10, "err_msg": case.name}
        np.testing.assert_allclose(output, case.output, **close)
        np.testing.assert_allclose(state, case.final, **close)
        np.testing.assert_allclose(dx, case.dx, **close)
        np.testing.assert_allclose(dstate_0, case.dstate_0, **close)
        for name, expected in case.gradients.items():
            np.testing.assert_allclose(gradients[name], expected, **close)


def test_past_the_end_nothing_is_read_and_nothing_moves():
    parameters, x, state, _, doutput, dstate, _ = _problem("gru", 1, True, False, shape=(3, 4, 2, 3))
    lengths = np.array([1, 4, 2])
    past = np.arange(4) >= lengths[:, None]
    x[past] = np.nan
    output, final, tape = oracle.forward("gru", parameters, x, state[0], lengths)
    dx, gradients, _ = oracle.backward(tape, doutput, dstate[0])
    assert (output[past] == 0).all()
    assert (dx[past] == 0).all()
    assert all(np.isfinite(value).all() for value in gradients.values())
    np.testing.assert_array_equal(final[0], output[np.arange(3), lengths - 1, :3])
    np.testing.assert_array_equal(final[1], output[:, 0, 3:])


def test_layers_without_weights_of_the_state_and_with_parameters_of_units():
    assert list(oracle.shapes("mingru", 3, 2)) == ["weight_ih_l0", "bias_ih_l0"]
    assert oracle.shapes("indrnn", 3, 2, bias=False) == {"weight_ih_l0": (2, 3), "weight_hh_l0": (2,)}
    article = oracle.shapes("article_lstm", 3, 2, bidirectional=True)
    assert article["weight_ih_l0_reverse"] == (8, 3)
    assert article["weight_hh_l0_reverse"] == (10, 2)
    assert article["alpha_l0"] == article["beta_l0_reverse"] == (1,)


def test_minlstm_is_the_published_equation():
    """The oracle has the form in logarithms; where nothing is small it is f / (f + i)."""
    i, f = np.random.default_rng(0).standard_normal((2, 50))
    published = oracle.sigmoid(f) / (oracle.sigmoid(f) + oracle.sigmoid(i))
    np.testing.assert_allclose(oracle._share(i, f), published, rtol=1e-13)
