"""A node RNN, LSTM or GRU: its attributes and inputs, checked, and how it is run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numbarnn import Recurrent
from numbarnn.interop.onnx.cells import GATES, Operator, find_compiled, weights_from_onnx
from numbarnn.interop.onnx.equations import (
    ACTIVATIONS,
    Options,
    Weights,
    activation_parameters,
    run_equations,
)

INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
DEFAULT_ACTIVATIONS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}


class RecurrentNode:
    """A node of the operators RNN, LSTM or GRU.

    Parameters
    ----------
    label : str
        What errors call it.
    op_type : {"RNN", "LSTM", "GRU"}
    attributes : dict
    outputs : sequence of bool
        Which of Y, Y_h and Y_c are wanted.
    fixed_weights : bool, default=False
        Whether W, R, B and P are the same in all calls, so that compiled layers are kept from call to call.

    Raises
    ------
    ValueError
        If an attribute has no meaning.

    Notes
    -----
    A direction with the usual activations and without clipping runs in `numbarnn.Recurrent`, if there is a
    cell with its equations; all others in `numbarnn.interop.onnx.equations`, which is slower. Whatever the
    type of X is, float64 is computed in: the tolerance of ONNX's own tests, 1e-7 near zero, is less than the
    rounding of float32.

    Where the documentation leaves something open, or ONNX Runtime does not follow it:

    * `clip` bounds what the gates' functions f and g are given, not the argument of h in an LSTM, as in
      ONNX Runtime.
    * `activation_alpha` and `activation_beta` hold a value for each function that has such a parameter, in
      the order of the functions; those left out have the default of the operator of that name (ONNX Runtime
      takes 0 for some). More values than that are an error: their meaning differs between runtimes.
    * A sequence of length 0 ends in its initial state (in ONNX Runtime, in zeros).
    """

    def __init__(
        self,
        label: str,
        op_type: str,
        attributes: dict[str, Any],
        outputs: Sequence[bool],
        fixed_weights: bool = False,
    ) -> None:
        self.label, self.op_type, self.outputs, self.fixed = label, op_type, outputs, fixed_weights
        self.hidden_size = attributes.get("hidden_size")
        self.reverse = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}.get(
            attributes.get("direction", "forward"), ()
        )
        if not self.reverse:
            expected = "'forward', 'reverse' or 'bidirectional'"
            raise ValueError(f"{label}: direction was {attributes['direction']!r}; expected {expected}")
        self.layout = attributes.get("layout", 0)
        if self.layout not in (0, 1):
            raise ValueError(f"{label}: layout was {self.layout}; expected 0 or 1")
        clip = attributes.get("clip")
        if clip is not None and not clip > 0:
            raise ValueError(f"{label}: clip was {clip}; expected a number above 0")
        names = self._activation_names(attributes.get("activations"))
        functions = self._bind_activations(names, attributes)
        linear_before_reset = attributes.get("linear_before_reset", 0) != 0
        input_forget = attributes.get("input_forget", 0) != 0
        self._options, self._operators = [], []
        for k in range(len(self.reverse)):
            here = slice(k * self._n_functions, (k + 1) * self._n_functions)
            self._options.append(Options(functions[here], clip, linear_before_reset, input_forget))
            self._operators.append(self._operator(names[here], self._options[-1]))
        self._kept: dict[int, Weights] = {}  # of each direction, if they are fixed, and its layer
        self._layers: dict[int, Recurrent] = {}

    @property
    def _n_functions(self) -> int:
        return len(DEFAULT_ACTIVATIONS[self.op_type])

    def _activation_names(self, names: Sequence[str] | None) -> list[str]:
        """Return the names for all directions, checked."""
        expected = self._n_functions * len(self.reverse)
        if names is None:
            return DEFAULT_ACTIVATIONS[self.op_type] * len(self.reverse)
        if self.op_type == "RNN" and len(names) == 2:  # as the attribute's default is, whatever the direction
            names = names[:expected]
        if len(names) != expected:
            raise ValueError(f"{self.label}: activations had {len(names)} names; expected {expected}")
        for name in names:
            if name not in ACTIVATIONS:
                raise ValueError(
                    f"{self.label}: activations had {name!r}; expected one of {', '.join(ACTIVATIONS)}"
                )
        return list(names)

    def _bind_activations(self, names: Sequence[str], attributes: dict[str, Any]) -> tuple:
        """Give the functions their parameters, in their order."""
        values = {key: list(attributes.get(f"activation_{key}", ())) for key in ("alpha", "beta")}
        functions = []
        for name in names:
            chosen = {}
            for key, default in activation_parameters(name).items():
                chosen[key] = values[key].pop(0) if values[key] else default
                if chosen[key] is None:
                    raise ValueError(f"{self.label}: activation_{key} had no value for {name}")
            functions.append(partial(ACTIVATIONS[name], **chosen))
        for key, left in values.items():
            if left:
                raise ValueError(
                    f"{self.label}: activation_{key} had {len(left)} values more than there are activations "
                    f"with {key} in {list(names)}"
                )
        return tuple(functions)

    def _operator(self, names: list[str], options: Options) -> Operator | None:
        """Say what one direction is, if it may be one of our cells."""
        if options.clip is not None or (names != DEFAULT_ACTIVATIONS[self.op_type] and self.op_type != "RNN"):
            return None
        if self.op_type == "RNN":
            return Operator("RNN", {"activations": names})
        if self.op_type == "GRU":
            return Operator("GRU", {"linear_before_reset": int(options.linear_before_reset)})
        return Operator("LSTM", {"input_forget": 1} if options.input_forget else {})

    def __call__(self, *inputs: NDArray | None) -> list[NDArray | None]:
        """Run the node.

        Parameters
        ----------
        *inputs : ndarray or None
            X, W, R, B, sequence_lens, initial_h, initial_c, P, as in ONNX's documentation; the last ones may
            be left out.

        Returns
        -------
        outputs : list of ndarray or None
            Y, Y_h and, of an LSTM, Y_c, in the type of X; None for those that are not wanted.

        Raises
        ------
        ValueError, TypeError
            If an input has another shape or type than it must have.
        """
        given = dict(zip(INPUTS, inputs, strict=False))
        self._check_inputs(given)
        x = np.asarray(given["X"], np.float64)
        x = x if self.layout else x.transpose(1, 0, 2)  # [n, T, I]
        n_samples, n_timesteps, _ = x.shape
        lengths = given.get("sequence_lens")
        lengths = np.full(n_samples, n_timesteps) if lengths is None else lengths.astype(np.int64)
        outputs, finals = [], []
        for k, reverse in enumerate(self.reverse):
            weights = self._weights(given, k)
            shape = n_samples, weights.r.shape[1]
            states = tuple(self._initial(given.get(name), k, shape) for name in self._states)
            here = reverse_valid(x, lengths) if reverse else x
            output, final = self._run_direction(k, weights, here, lengths, states)
            outputs.append(reverse_valid(output, lengths) if reverse else output)
            finals.append(final)
        y = np.stack(outputs, axis=2)  # [n, T, D, H]
        y = y if self.layout else y.transpose(1, 2, 0, 3)
        found = [y, *(np.stack(states, axis=self.layout) for states in zip(*finals, strict=True))]
        return [
            np.ascontiguousarray(array, given["X"].dtype) if wanted else None
            for array, wanted in zip(found, self.outputs, strict=False)
        ]

    @property
    def _states(self) -> tuple[str, ...]:
        return ("initial_h", "initial_c") if self.op_type == "LSTM" else ("initial_h",)

    def _check_inputs(self, given: dict[str, NDArray | None]) -> None:
        """Check types and shapes."""
        for name in ("X", "W", "R"):
            if np.ndim(given[name]) != 3:
                raise ValueError(
                    f"{self.label}: input {name} had shape {np.shape(given[name])}; expected 3 dimensions"
                )
        x = given["X"]
        samples, steps = (0, 1) if self.layout else (1, 0)
        n, n_timesteps, n_inputs = x.shape[samples], x.shape[steps], x.shape[2]
        hidden = given["R"].shape[2] if self.hidden_size is None else self.hidden_size
        directions, rows = len(self.reverse), len(GATES[self.op_type]) * hidden
        state = (n, directions, hidden) if self.layout else (directions, n, hidden)
        shapes = {
            "W": (directions, rows, n_inputs), "R": (directions, rows, hidden), "B": (directions, 2 * rows),
            "sequence_lens": (n,), "initial_h": state, "initial_c": state, "P": (directions, 3 * hidden),
        }  # fmt: skip
        if 0 in (n, n_timesteps, n_inputs, hidden):
            raise ValueError(f"{self.label}: input X had shape {x.shape}; expected no dimension of size 0")
        for name, shape in shapes.items():
            array = given.get(name)
            if array is not None and array.shape != shape:
                raise ValueError(f"{self.label}: input {name} had shape {array.shape}; expected {shape}")
        lengths = given.get("sequence_lens")
        if lengths is not None:
            outside = (lengths < 0) | (lengths > n_timesteps)
            if lengths.dtype.kind not in "iu" or outside.any():
                expected = f"integers from 0 to {n_timesteps}"
                raise ValueError(f"{self.label}: input sequence_lens was {lengths}; expected {expected}")
        if x.dtype.name not in ("bfloat16", "float16", "float32", "float64"):
            raise TypeError(f"{self.label}: input X had dtype {x.dtype}; expected floating-point numbers")

    def _initial(self, states: NDArray | None, k: int, shape: tuple[int, int]) -> NDArray:
        """Return a state before the first step in direction k, (n, H)."""
        if states is None:
            return np.zeros(shape)
        return np.asarray(states[:, k] if self.layout else states[k], np.float64)

    def _weights(self, given: dict[str, NDArray | None], k: int) -> Weights:
        """Return the weights of direction k."""
        if k in self._kept:
            return self._kept[k]
        found = (given.get(name) for name in ("W", "R", "B", "P"))
        weights = Weights(*(None if array is None else np.asarray(array[k], np.float64) for array in found))
        if self.fixed:
            self._kept[k] = weights
        return weights

    def _run_direction(
        self, k: int, weights: Weights, x: NDArray, lengths: NDArray, states: tuple[NDArray, ...]
    ) -> tuple[NDArray, tuple[NDArray, ...]]:
        """Run direction k forward in time over x: compiled where there is such a cell."""
        operator = self._operators[k]
        cell = operator and find_compiled(operator._replace(peepholes=weights.p is not None))
        if cell is None:
            return run_equations(self.op_type, weights, self._options[k], x, lengths, states)
        layer = self._layers.get(k) or self._make_layer(cell, weights)
        if self.fixed:
            self._layers[k] = layer
        # a layer takes lengths from 1: what has none is run for a step that is then forgotten
        initial = tuple(state[np.newaxis] for state in states)
        output, final = layer.forward(
            np.ascontiguousarray(x), initial if len(initial) > 1 else initial[0], np.maximum(lengths, 1)
        )
        final = final if isinstance(final, tuple) else (final,)
        valid = (lengths > 0)[:, np.newaxis]
        output *= valid[:, :, np.newaxis]
        return output, tuple(np.where(valid, new[0], old) for new, old in zip(final, states, strict=True))

    @staticmethod
    def _make_layer(cell: str, weights: Weights) -> Recurrent:
        layer = Recurrent(
            cell, weights.w.shape[1], weights.r.shape[1], bias=weights.b is not None, dtype=np.float64,
            random_state=0,
        )  # fmt: skip
        layer.load_parameters(weights_from_onnx(cell, *weights))
        return layer


def reverse_valid(x: NDArray, lengths: NDArray) -> NDArray:
    """Reverse the valid steps of each sequence, and leave what is behind them where it is.

    Parameters
    ----------
    x : ndarray of shape (n_samples, n_timesteps, n_features)
    lengths : ndarray of int of shape (n_samples,)
    """
    steps = np.arange(x.shape[1])
    ends = lengths[:, np.newaxis]
    source = np.where(steps < ends, ends - 1 - steps, steps)
    return np.take_along_axis(x, source[:, :, np.newaxis], axis=1)
