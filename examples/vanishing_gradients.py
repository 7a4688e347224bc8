"""How far back gradients reach: a picture for RNN, GRU and LSTM.

A loss looks at the last of a hundred time steps. `Recurrent.backward` gives its gradient with respect to the
input of every step; its size against the distance in time shows how much a network can learn about what was
long ago. Takes a few seconds and ends in a picture in the current folder.
"""

import numpy as np
from matplotlib.figure import Figure

from numbarnn import Recurrent

N_SAMPLES, N_TIMESTEPS, INPUT_SIZE, HIDDEN_SIZE = 32, 100, 4, 64
CASES = {
    "RNN": {"cell": "rnn"},
    "GRU": {"cell": "gru"},
    "LSTM": {"cell": "lstm"},
    "LSTM, forget bias 3": {"cell": "lstm", "forget_bias": 3.0},
}

rng = np.random.default_rng(0)
x = rng.standard_normal((N_SAMPLES, N_TIMESTEPS, INPUT_SIZE))
doutput = np.zeros((N_SAMPLES, N_TIMESTEPS, HIDDEN_SIZE))
doutput[:, -1] = rng.standard_normal((N_SAMPLES, HIDDEN_SIZE))
distance = np.arange(N_TIMESTEPS)[::-1]

figure = Figure(figsize=(7, 4), layout="constrained")
ax = figure.add_subplot()
for name, options in CASES.items():
    layer = Recurrent(
        input_size=INPUT_SIZE, hidden_size=HIDDEN_SIZE, dtype="float64", random_state=0, **options
    )
    layer.forward(x, training=True)
    dx, _ = layer.backward(doutput)  # (n, T, I)
    norm = np.linalg.norm(dx, axis=2).mean(axis=0)  # of each step, over the samples
    norm /= norm[-1]
    ax.plot(distance, norm, label=name)
    print(f"{name:20}: 20 steps back the gradient is {norm[-21]:.0e} of what it is at the last step")
ax.set_yscale("log")
ax.set_xlabel("time steps before the last")
ax.set_ylabel("gradient norm, last step = 1")
ax.set_title("Gradient of a loss on the last step, by untrained networks", loc="left", fontsize="medium")
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False)
figure.savefig("vanishing_gradients.png", dpi=150)
print("picture: vanishing_gradients.png")
