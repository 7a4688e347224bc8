"""A training loop by hand: forward, backward and gradient descent on the low-level layer.

The task: at every step, give back the number that was read three steps before. Takes a few seconds and ends
in the error; always answering zero would give 0.333.
"""

import numpy as np

from numbarnn import Recurrent

N_SAMPLES, N_TIMESTEPS, HIDDEN_SIZE, DELAY, RATE = 32, 40, 32, 3, 0.5

rng = np.random.default_rng(0)
layer = Recurrent("gru", input_size=1, hidden_size=HIDDEN_SIZE, random_state=0)
weight = rng.normal(0, HIDDEN_SIZE**-0.5, (HIDDEN_SIZE, 1)).astype(np.float32)
bias = np.zeros(1, np.float32)


def draw():
    """Return new sequences and targets, both (n, T, 1)."""
    x = rng.uniform(-1, 1, (N_SAMPLES, N_TIMESTEPS, 1)).astype(np.float32)
    target = np.zeros_like(x)
    target[:, DELAY:] = x[:, :-DELAY]
    return x, target


for iteration in range(1001):
    x, target = draw()
    output, _ = layer.forward(x, training=True)  # (n, T, H)
    error = output @ weight + bias - target  # (n, T, 1)
    if iteration % 250 == 0:
        print(f"iteration {iteration:4}: mean squared error {np.square(error).mean():.4f}")

    # the loss is half the squared error, summed over time, averaged over the sequences
    dprediction = error / N_SAMPLES
    layer.backward(dprediction @ weight.T, input_gradient=False)

    gradients = [
        *layer.gradients.values(),
        np.einsum("nth,ntk->hk", output, dprediction),
        dprediction.sum((0, 1)),
    ]
    parameters = [*layer.parameters.values(), weight, bias]
    norm = np.sqrt(sum(np.square(gradient).sum() for gradient in gradients))
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter -= RATE * min(1, 1 / norm) * gradient  # gradients longer than one are cut down to it

x, target = draw()
output, _ = layer.forward(x)
print(f"mean squared error on new sequences: {np.square(output @ weight + bias - target).mean():.4f}")
