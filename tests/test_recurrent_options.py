"""Options of Recurrent that the oracle does not know, against finite differences and compositions."""

import numpy as np
import pytest

import oracle
from numbarnn.cells import CELLS
from numbarnn.recurrent import Recurrent

CELLS_OF_EVERY_KIND = ("lstm", "gru", "gru_reset_before", "indrnn")


class Problem:
    """A layer, its inputs and the gradient of a loss; the layer draws the same noise in every call."""

    def __init__(self, cell, n_samples=4, n_timesteps=4, input_size=3, hidden_size=5, **options):
        self.rng = rng = np.random.default_rng(0)
        self.layer = Recurrent(cell, input_size, hidden_size, dtype="float64", random_state=1, **options)
        self.noise = self.layer._random.bit_generator.state
        self.x = rng.standard_normal((n_samples, n_timesteps, input_size))
        self.lengths = rng.integers(1, n_timesteps + 1, n_samples)
        self.mask = None
        directions = 1 + options.get("bidirectional", False)
        layers = options.get("num_layers", 1) * directions
        self.state = rng.standard_normal((CELLS[cell].n_states, layers, n_samples, hidden_size))
        self.dstate = rng.standard_normal(self.state.shape)
        self.doutput = rng.standard_normal((n_samples, n_timesteps, self.layer.output_size))

    def forward(self, training=True):
        """Run forward, with the same noise as the last time."""
        self.layer._random.bit_generator.state = self.noise
        state = tuple(self.state) if len(self.state) > 1 else self.state[0]
        return self.layer.forward(self.x, state, self.lengths, training, mask=self.mask)

    def loss(self):
        """Sum up everything that comes out, each with a weight."""
        output, state = self.forward()
        return (output * self.doutput).sum() + (np.reshape(state, self.state.shape) * self.dstate).sum()

    def check_gradients(self):
        """Hold all that backward returns against finite differences."""
        self.forward()
        dstate = tuple(self.dstate) if len(self.dstate) > 1 else self.dstate[0]
        dx, dinitial = self.layer.backward(self.doutput, dstate)
        gradients = {name: value.copy() for name, value in self.layer.gradients.items()}
        found = [("x", self.x, dx), ("state", self.state, np.reshape(dinitial, self.state.shape))]
        found += [(name, self.layer.parameters[name], value) for name, value in gradients.items()]
        for name, array, gradient in found:
            expected = oracle.finite_difference(self.current_loss, array)
            np.testing.assert_allclose(gradient, expected, rtol=0, atol=3e-8, err_msg=name)

    def current_loss(self):
        """Return the loss of parameters that were changed in place."""
        self.layer.parameters  # noqa: B018 packed weights are out of date
        return self.loss()


@pytest.mark.parametrize(
    ("cell", "rates"),
    [("lstm", (0.4, 0.0)), ("gru", (0.0, 0.3)), ("gru_reset_before", (0.3, 0.4))],  # each is compiled
)
def test_gradients_with_noise_on_the_states(cell, rates):
    problem = Problem(cell, num_layers=2, bidirectional=True, recurrent_dropout=rates[0], zoneout=rates[1])
    problem.mask = problem.rng.random((4, 4)) > 0.3
    problem.check_gradients()


@pytest.mark.parametrize("merge", ["sum", "mean", "product"])
@pytest.mark.parametrize("residual", [False, True])
def test_gradients_of_merged_and_residual_layers(merge, residual):
    Problem("gru", num_layers=2, bidirectional=True, merge=merge, residual=residual).check_gradients()


@pytest.mark.parametrize("cell", ["lstm", "gru", "gru_reset_before"])
def test_gradients_of_residual_layers(cell):
    Problem(cell, input_size=5, num_layers=3, residual=True, dropout=0.3).check_gradients()


def test_gradients_with_everything_at_once():
    problem = Problem(
        "lstm", hidden_size=17, input_size=3, num_layers=2, bidirectional=True, merge="mean", residual=True,
        dropout=0.2, recurrent_dropout=0.3, zoneout=(0.1, 0.4),
    )
    problem.mask = problem.rng.random((4, 4)) > 0.3
    problem.check_gradients()


@pytest.mark.parametrize("cell", CELLS_OF_EVERY_KIND)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("input_size", [2, 60])  # input products step by step, and for several steps at once
def test_masked_steps_are_as_if_they_were_not_there(cell, bidirectional, input_size):
    problem = Problem(
        cell, n_timesteps=7, input_size=input_size, bidirectional=bidirectional, num_layers=2
    )
    problem.lengths = None
    problem.mask = problem.rng.random((4, 7)) > 0.4
    problem.mask[0] = False  # nothing at all
    problem.mask[1] = True
    problem.x[~problem.mask] = np.nan
    output, state = problem.forward(training=False)
    states = np.reshape(state, problem.state.shape)
    np.testing.assert_array_equal(states[:, :, 0], problem.state[:, :, 0])
    np.testing.assert_array_equal(output[~problem.mask], 0)
    for r in range(1, 4):
        kept = problem.mask[r]
        initial = problem.state[:, :, r : r + 1]
        alone, final = problem.layer.forward(
            problem.x[r : r + 1, kept], tuple(initial) if len(initial) > 1 else initial[0]
        )
        np.testing.assert_array_equal(output[r, kept], alone[0])
        np.testing.assert_array_equal(states[:, :, r : r + 1], np.reshape(final, initial.shape))


def test_gradients_under_a_mask():
    problem = Problem("lstm", num_layers=2, bidirectional=True)
    problem.mask = problem.rng.random((4, 4)) > 0.4
    problem.check_gradients()


@pytest.mark.parametrize("merge", ["sum", "mean", "product"])
def test_merged_directions_are_those_of_two_layers(merge):
    """The sum, mean or product of what two layers of one direction put out, as Keras merges them."""
    both = Recurrent("gru", 3, 5, bidirectional=True, merge=merge, dtype="float64", random_state=0)
    x = np.random.default_rng(0).standard_normal((2, 6, 3))
    outputs = []
    for suffix, step in (("", 1), ("_reverse", -1)):
        one = Recurrent("gru", 3, 5, dtype="float64")
        one.load_parameters({name: both.parameters[name + suffix] for name in one.parameters})
        outputs.append(one.forward(x[:, ::step])[0][:, ::step])
    combine = {"sum": np.add, "product": np.multiply, "mean": lambda a, b: (a + b) / 2}[merge]
    np.testing.assert_allclose(both.forward(x)[0], combine(*outputs), rtol=0, atol=1e-15)


def test_residual_layers_add_their_input():
    layer = Recurrent("lstm", 5, 5, num_layers=2, residual=True, dtype="float64", random_state=0)
    x = np.random.default_rng(0).standard_normal((2, 6, 5))
    expected = x
    for k in range(2):
        one = Recurrent("lstm", 5, 5, dtype="float64")
        names = {name: name.replace("_l0", f"_l{k}") for name in one.parameters}
        one.load_parameters({name: layer.parameters[other] for name, other in names.items()})
        expected = expected + one.forward(expected)[0]
    np.testing.assert_allclose(layer.forward(x)[0], expected, rtol=0, atol=1e-15)


def test_evaluation_has_no_recurrent_dropout_and_the_mean_of_zoneout():
    options = {"dtype": "float64", "random_state": 0}
    x = np.random.default_rng(0).standard_normal((2, 6, 3))
    plain = Recurrent("rnn", 3, 5, **options)
    dropped = Recurrent("rnn", 3, 5, recurrent_dropout=0.5, **options)
    np.testing.assert_array_equal(dropped.forward(x)[0], plain.forward(x)[0])
    zoned = Recurrent("rnn", 3, 5, zoneout=0.25, **options)
    h = np.zeros((2, 5))
    for t in range(6):
        h = 0.25 * h + 0.75 * plain.step(x[:, t], h[np.newaxis])[0]
        np.testing.assert_allclose(zoned.forward(x)[0][:, t], h, rtol=0, atol=1e-15)


@pytest.mark.parametrize("cell", CELLS_OF_EVERY_KIND)
@pytest.mark.parametrize("residual", [False, True])
def test_steps_of_a_layer_with_zoneout_are_forward(cell, residual):
    options = {"zoneout": 0.3, "residual": residual, "dtype": "float64", "random_state": 0}
    layer = Recurrent(cell, 3, 17, num_layers=3, **options)
    x, state = np.random.default_rng(0).standard_normal((3, 5, 3)), None
    for t in range(5):
        output, state = layer.step(x[:, t], state)
    expected, final = layer.forward(x)
    np.testing.assert_allclose(output, expected[:, -1], rtol=0, atol=1e-15)
    np.testing.assert_allclose(np.array(state), np.array(final), rtol=0, atol=1e-15)


def test_a_mask_of_recurrent_dropout_is_one_for_a_sequence():
    """With a rate near 1 nothing of h comes back: each step is as the first."""
    layer = Recurrent("rnn", 1, 64, recurrent_dropout=0.999999, dtype="float64", random_state=0)
    output, _ = layer.forward(np.ones((2, 5, 1)), training=True)
    np.testing.assert_array_equal(output, output[:, :1].repeat(5, axis=1))


def test_zoneout_keeps_about_as_many_units_as_it_says():
    layer = Recurrent("gru", 1, 64, zoneout=0.3, random_state=0)
    x = np.random.default_rng(0).standard_normal((8, 50, 1)).astype("float32")
    output, _ = layer.forward(x, training=True)
    assert abs((output[:, 1:] == output[:, :-1]).mean() - 0.3) < 0.02


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"recurrent_dropout": 1.0}, ValueError, "recurrent_dropout was 1.0; expected a probability"),
        ({"zoneout": -0.1}, ValueError, "zoneout was -0.1; expected a probability"),
        ({"zoneout": (0.1, 0.1, 0.1)}, ValueError, "expected a number, or one for each of"),
        ({"zoneout": "a"}, TypeError, "zoneout was 'a'; expected a number"),
        ({"merge": "max"}, ValueError, "merge was 'max'; expected one of concat, sum, mean, product"),
        ({"residual": 1}, TypeError, "residual was 1; expected True or False"),
        ({"residual": True}, ValueError, "residual was True with one layer"),
        ({"cell": "indrnn", "recurrent_dropout": 0.1}, ValueError, "has no recurrent weights"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        Recurrent(**{"cell": "lstm", "input_size": 3, "hidden_size": 4, **options})


@pytest.mark.parametrize(
    ("mask", "error"),
    [(np.ones((2, 3)), TypeError), (np.ones((2, 4), bool), ValueError), ([[1], [0, 1]], ValueError)],
)
def test_bad_masks(mask, error):
    with pytest.raises(error, match="mask "):
        Recurrent("gru", 1, 4).forward(np.zeros((2, 3, 1)), mask=mask)
