"""What is measured: cases, the data and weights that every contender gets, and our own side of them.

Data and weights follow from the case alone, so that a contender in another process makes the same ones.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

KINDS = ("train", "forward", "step", "fit")
CELLS = ("lstm", "gru", "rnn")
GATES = {"lstm": 4, "gru": 3, "rnn": 1, "rnn_relu": 1}
LAYER_SHAPES = ((32, 100, 1, 32), (32, 100, 8, 64), (64, 100, 16, 128), (64, 50, 64, 256), (64, 50, 256, 512))
STEP_HIDDEN = (8, 16, 32, 64, 128)
FIT_HIDDEN = (32, 64, 128)
FIT_EPOCHS = 2
STEPS_PER_CALL = 100


class Case(NamedTuple):
    """One line of the table.

    Attributes
    ----------
    kind : {"train", "forward", "step", "fit"}
        Training step of a layer (forward, backward, gradients of all parameters), forward only, one time step
        at batch 1, or whole epochs of training a regressor with Adam.
    cell : str
        "lstm", "gru", "rnn" or "rnn_relu".
    batch, steps, inputs, hidden : int
        Rows of a minibatch, time steps, features of a step, hidden size.
    input_gradient : bool
        Whether a training step computes the gradient of its input too.
    n_windows : int
        Windows of the training set; only for "fit".
    """

    kind: str
    cell: str
    batch: int
    steps: int
    inputs: int
    hidden: int
    input_gradient: bool = False
    n_windows: int = 0

    @property
    def label(self) -> str:
        """Name of the case without its sizes."""
        return f"{self.kind}{'+dX' if self.input_gradient else ''} {self.cell}"

    @property
    def flops(self) -> int:
        """Floating-point operations of the products alone: of one call, of one epoch for "fit"."""
        sums = 2 * self.batch * self.steps * GATES[self.cell] * self.hidden
        forward = sums * (self.inputs + self.hidden)
        if self.kind in ("forward", "step"):
            return forward
        step = 2 * forward + sums * (self.hidden + self.inputs * self.input_gradient)
        return step * self.n_windows // self.batch if self.kind == "fit" else step

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(batch, steps, inputs, hidden)."""
        return self.batch, self.steps, self.inputs, self.hidden


class Job(NamedTuple):
    """A case made ready to run by one contender.

    Attributes
    ----------
    run : callable
        The work that is timed.
    results : callable
        Does the work once and returns name -> ndarray, to be compared between contenders.
    count : int
        How many units (training steps, time steps, epochs) one ``run`` does.
    """

    run: Callable[[], Any]
    results: Callable[[], dict[str, np.ndarray]]
    count: int = 1


def make_cases(cells: Sequence[str] = CELLS, kinds: Sequence[str] = KINDS, quick: bool = False) -> list[Case]:
    """List the cases of the tables; ``quick`` keeps the smaller half of the sizes.

    Examples
    --------
    >>> [case.shape for case in make_cases(["gru"], ["forward"], quick=True)]
    [(32, 100, 1, 32), (32, 100, 8, 64), (64, 100, 16, 128)]
    """
    cases = []
    for kind in kinds:
        for cell in cells:
            if kind == "step":
                cases += [Case(kind, cell, 1, 1, 1, hidden) for hidden in STEP_HIDDEN[: 3 if quick else None]]
            elif kind == "fit":
                sizes = FIT_HIDDEN[: 1 if quick else None]
                cases += [Case(kind, cell, 64, 48, 7, hidden, n_windows=8000) for hidden in sizes]
            else:
                gradients = (False, True) if kind == "train" else (False,)
                shapes = LAYER_SHAPES[: 3 if quick else None]
                cases += [Case(kind, cell, *shape, dx) for shape in shapes for dx in gradients]
    return cases


def layer_data(case: Case) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Make the input and the weights of a layer.

    Returns
    -------
    x : ndarray of shape (batch, steps, inputs), float32
    weights : dict of str to ndarray, float32
        PyTorch's names and layout, drawn from U(-1/sqrt(hidden), 1/sqrt(hidden)).
    """
    rng = np.random.default_rng(0)
    rows = GATES[case.cell] * case.hidden
    bound = 1 / math.sqrt(case.hidden)
    shapes = {
        "weight_ih_l0": (rows, case.inputs),
        "weight_hh_l0": (rows, case.hidden),
        "bias_ih_l0": (rows,),
        "bias_hh_l0": (rows,),
    }
    weights = {name: rng.uniform(-bound, bound, shape).astype(np.float32) for name, shape in shapes.items()}
    x = rng.standard_normal((case.batch, case.steps, case.inputs)).astype(np.float32)
    return x, weights


def fit_data(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Make windows of noisy sinusoids and the next value of their first channel.

    Returns
    -------
    X : ndarray of shape (n_windows, steps, inputs), float32
    y : ndarray of shape (n_windows,), float32
    """
    rng = np.random.default_rng(0)
    t = np.arange(case.n_windows + case.steps)[:, None]
    period = rng.uniform(5, 50, case.inputs)
    series = np.sin(2 * np.pi * t / period) + 0.2 * rng.standard_normal((len(t), case.inputs))
    series = series.astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(series[:-1], case.steps, axis=0).swapaxes(1, 2)
    return np.ascontiguousarray(windows), series[case.steps :, 0].copy()


def our_job(case: Case, threads: int, device: str = "cpu") -> Job:
    """Make a case ready for numbarnn, through its public interface only; on "cuda" only fits."""
    if case.kind == "fit":
        return _our_fit(case, threads, device)
    from numbarnn import Recurrent

    x, weights = layer_data(case)
    layer = Recurrent(case.cell, case.inputs, case.hidden, n_jobs=threads)
    layer.load_parameters(weights)
    if case.kind == "train":
        return _our_training_step(case, layer, x)
    if case.kind == "forward":
        return Job(lambda: layer.forward(x), lambda: {"output": layer.forward(x)[0]})

    x_t = x[:, 0].copy()

    def run() -> np.ndarray:
        state = None
        for _ in range(STEPS_PER_CALL):
            output, state = layer.step(x_t, state)
        return output

    return Job(run, lambda: {"output": run()}, STEPS_PER_CALL)


def _our_training_step(case: Case, layer: Any, x: np.ndarray) -> Job:
    def run() -> tuple[np.ndarray, np.ndarray | None]:
        output, _ = layer.forward(x, training=True)
        doutput = np.zeros_like(output)
        doutput[:, -1] = 1
        dx, _ = layer.backward(doutput, input_gradient=case.input_gradient)
        return output, dx

    def results() -> dict[str, np.ndarray]:
        output, dx = run()
        found = {"output": output, **{name: array.copy() for name, array in layer.gradients.items()}}
        return found if dx is None else {**found, "dx": dx}

    return Job(run, results)


def _our_fit(case: Case, threads: int, device: str) -> Job:
    from numbarnn import RNNRegressor

    X, y = fit_data(case)

    def run() -> Any:
        model = RNNRegressor(
            cell=case.cell,
            hidden_size=case.hidden,
            solver="adam",
            batch_size=case.batch,
            max_iter=FIT_EPOCHS,
            max_grad_norm=1.0,
            n_jobs=threads,
            random_state=0,
            device=device,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # two epochs do not converge, and are not meant to
            return model.fit(X, y)

    def results() -> dict[str, np.ndarray]:
        model = run()
        return {"mse": np.mean((model.predict(X).ravel() - y) ** 2)}

    return Job(run, results, FIT_EPOCHS)
