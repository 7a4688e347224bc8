"""Network: a stack of recurrent layers and a dense head, with all parameters in one vector.

An optimizer sees two flat vectors, `parameters` and `gradients`; the layers work on views of them.

Letters in comments: n samples, T steps, F inputs, H hidden units, D directions, K raw outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from numbarnn.kernels.dense import Products
from numbarnn.recurrent import Recurrent

__all__ = ["Network"]


class Network:
    """Recurrent layers with a dense head on the last valid step, or on every step.

    Parameters
    ----------
    cell : str
        A name in `numbarnn.cells.CELLS`.
    input_size, hidden_size, n_outputs : int
    num_layers : int, default=1
    bidirectional : bool, default=False
        The head then sees the last state of the forward direction beside that of the reverse direction, which
        has come to the first step.
    dropout : float, default=0.0
        Between the layers, in training only.
    return_sequences : bool, default=False
        An output for every step, not only for the last.
    dtype : {"float32", "float64"}, default="float32"
    random_state : int or None, default=None
    init, forget_bias, n_jobs
        See `numbarnn.Recurrent`.

    Attributes
    ----------
    parameters, gradients : ndarray of shape (n_parameters,)
        All parameters: the layers' first, then the head's weight and bias. They are changed in place.
    penalized : ndarray of bool of shape (n_parameters,)
        True for weights, False for biases.
    config : dict
        The arguments that make a network of this shape.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.network import Network
    >>> network = Network("gru", input_size=3, hidden_size=8, n_outputs=2, random_state=0)
    >>> network.forward(np.zeros((5, 10, 3), "float32")).shape
    (5, 2)
    """

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        n_outputs: int,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        return_sequences: bool = False,
        dtype: DTypeLike = "float32",
        random_state: int | None = None,
        *,
        init: str = "uniform",
        forget_bias: float | None = None,
        n_jobs: int | None = None,
    ) -> None:
        self.config: dict[str, Any] = {
            "cell": cell, "input_size": input_size, "hidden_size": hidden_size, "n_outputs": n_outputs,
            "num_layers": num_layers, "bidirectional": bidirectional, "dropout": dropout,
            "return_sequences": return_sequences, "dtype": np.dtype(dtype).name,
        }  # fmt: skip
        self.return_sequences = return_sequences
        self.dtype = np.dtype(dtype)
        self._directions = 2 if bidirectional else 1
        rng = np.random.default_rng(random_state)
        self.recurrent = Recurrent(
            cell, input_size, hidden_size, num_layers=num_layers, bidirectional=bidirectional,
            dropout=dropout, dtype=dtype, random_state=int(rng.integers(2**31)), init=init,
            forget_bias=forget_bias, n_jobs=n_jobs,
        )  # fmt: skip
        n_features = hidden_size * self._directions
        n_recurrent = self.recurrent.n_parameters
        n_parameters = n_recurrent + n_outputs * (n_features + 1)
        self._parameters = np.zeros(n_parameters, dtype)
        self.gradients = np.zeros(n_parameters, dtype)
        self.recurrent.bind(self._parameters[:n_recurrent], self.gradients[:n_recurrent])
        self._head = _head_views(self._parameters[n_recurrent:], n_outputs, n_features)
        self._dhead = _head_views(self.gradients[n_recurrent:], n_outputs, n_features)
        # as PyTorch's Linear: uniform within one over the root of the number of inputs
        bound = n_features**-0.5
        self._parameters[n_recurrent:] = rng.uniform(-bound, bound, n_parameters - n_recurrent)
        self.penalized = np.concatenate(
            [np.full(values.size, "bias" not in name) for name, values in self.named_parameters.items()]
        )
        self._tape: tuple | None = None
        self._products = Products(dtype, most=32)

    @property
    def parameters(self) -> np.ndarray:
        """All parameters in one vector, which may be changed in place."""
        self.recurrent._stepper = None  # its packed weights may be about to be out of date
        return self._parameters

    @property
    def named_parameters(self) -> dict[str, np.ndarray]:
        """Views of the parameters under PyTorch's names, "recurrent." and "head." in front."""
        names = {f"recurrent.{name}": values for name, values in self.recurrent.parameters.items()}
        return names | {"head.weight": self._head[0], "head.bias": self._head[1]}

    def forward(
        self, x: np.ndarray, lengths: np.ndarray | None = None, training: bool = False
    ) -> np.ndarray:
        """Raw output of the head.

        Parameters
        ----------
        x : ndarray of shape (n_samples, n_timesteps, input_size)
            In the network's dtype.
        lengths : ndarray of int of shape (n_samples,), default=None
            Valid steps of each sample; None for all.
        training : bool, default=False
            Keep what `backward` needs, and apply dropout.

        Returns
        -------
        raw_output : ndarray of shape (n_samples, n_outputs) or (n_samples, n_timesteps, n_outputs)
        """
        output, state = self.recurrent.forward(
            x, lengths=lengths, training=training, return_output=self.return_sequences
        )
        if self.return_sequences:
            features = output.reshape(-1, output.shape[2])  # [n * T, D * H]
        else:
            features = self._last(state)  # [n, D * H]
        weight, bias = self._head
        raw = self._product(features, weight.T) + bias
        if training:
            self._tape = features, state
        return raw.reshape(*x.shape[:2], -1) if self.return_sequences else raw

    def backward(self, draw: np.ndarray) -> None:
        """Fill `gradients` for the last `forward` that was called with training=True.

        Parameters
        ----------
        draw : ndarray of the shape of the raw output
            Gradient of the loss with respect to it.
        """
        if self._tape is None:
            raise RuntimeError("backward was called without forward(training=True) before it")
        (features, state), self._tape = self._tape, None
        (weight, _), (dweight, dbias) = self._head, self._dhead
        doutputs = draw.reshape(-1, draw.shape[-1])
        dweight[...] = self._product(doutputs.T, features, transposed=True)
        np.sum(doutputs, axis=0, out=dbias)
        dfeatures = self._product(doutputs, weight)
        if self.return_sequences:
            doutput = dfeatures.reshape(*draw.shape[:2], -1)
            self.recurrent.backward(doutput, input_gradient=False)
        else:
            self.recurrent.backward(None, self._dstate(dfeatures, state), input_gradient=False)

    def _product(self, a, b, transposed=False):
        return self._products(a, b, self.recurrent.n_jobs, transposed)

    def _last(self, state):
        """Return the final h of the top layer, direction beside direction: [D, n, H] -> [n, D * H]."""
        h = state[0] if isinstance(state, tuple) else state
        top = h[-self._directions :]
        return top[0] if self._directions == 1 else np.concatenate(list(top), axis=1)

    def _dstate(self, dfeatures, state):
        """Gradient of the final states: zero but for h of the top layer."""
        states = state if isinstance(state, tuple) else (state,)
        dstates = tuple(np.zeros_like(s) for s in states)
        hidden = dstates[0].shape[2]
        for direction in range(self._directions):
            part = dfeatures[:, direction * hidden : (direction + 1) * hidden]
            dstates[0][direction - self._directions] = part
        return dstates if isinstance(state, tuple) else dstates[0]

    def snapshot(self) -> tuple[np.ndarray, dict]:
        """Return a copy of the parameters and of the state of dropout's generator, for `restore`."""
        return self._parameters.copy(), self.recurrent._random.bit_generator.state

    def restore(self, snapshot: tuple[np.ndarray, dict]) -> None:
        """Go back to a state that `snapshot` returned."""
        self.parameters[...] = snapshot[0]
        self.recurrent._random.bit_generator.state = snapshot[1]

    def __getstate__(self) -> dict:
        """Only what the network is: buffers and compiled code are made anew."""
        recurrent = self.recurrent
        return {
            "config": self.config,
            "n_jobs": recurrent.n_jobs,
            "parameters": self._parameters,
            "random": recurrent._random,  # what dropout is drawn from
        }

    def __setstate__(self, state: dict) -> None:
        """Build the network again."""
        # without dropout at first: that it does nothing in a single layer was said when the network was made
        self.__init__(**{**state["config"], "dropout": 0.0}, n_jobs=state["n_jobs"], random_state=0)
        self.config = state["config"]
        self.recurrent.dropout = self.config["dropout"]
        self._parameters[...] = state["parameters"]
        self.recurrent._random = state["random"]


def _head_views(vector, n_outputs, n_features):
    """Cut the head's part of a flat vector into weight [K, D * H] and bias [K]."""
    split = n_outputs * n_features
    return vector[:split].reshape(n_outputs, n_features), vector[split:]
