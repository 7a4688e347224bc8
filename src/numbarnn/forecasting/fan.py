"""`FanOut`: one step of a recurrent layer from the same state for many inputs.

The state's product is the same for all inputs of a row; and an input is the sum of one that all rows share
and one of the row's own, so their products are added where the inputs would be: n + m products in place of
n * m.

Letters: n rows, m inputs, D hidden units, G gates, S slots of the cell.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from numbarnn.blocks import Dense, as_state, states_of
from numbarnn.cells import Cell
from numbarnn.kernels.fan import BLOCK, fan_backward, fan_forward
from numbarnn.kernels.threads import Program, Slot, ranges, worthwhile_threads
from numbarnn.recurrent import State
from numbarnn.simd import VECTOR_BYTES

__all__ = ["FanOut"]

NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
MOST_PROGRAMS = 8  # shapes of batches whose programs are kept
FLOPS = 40  # of an element of a slot, about


class FanOut:
    """One step of a layer, for each of n states with each of m inputs.

    Parameters
    ----------
    cell : Cell
    parameters : mapping of str to ndarray
        ``weight_ih_l0`` (G * D, D), ``weight_hh_l0``, ``bias_ih_l0`` and ``bias_hh_l0``, as of a `Recurrent`;
        the arrays themselves are used, so that changes of them are seen.
    n_shared : int
        The first so many columns of the input are those that all rows share.
    own_from : int
        A row's own input has the columns from here on; D if it has none.
    n_jobs : int or None, default=None
        Number of threads; results are the same bits for every number.

    Attributes
    ----------
    gradients : dict of str to ndarray
        By the names of the parameters, as `backward` left them.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn import Recurrent
    >>> from numbarnn.forecasting.fan import FanOut
    >>> layer = Recurrent("gru", 8, 8, random_state=0)
    >>> fan = FanOut(layer.cell, layer.parameters, n_shared=6, own_from=6)
    >>> state, shared = np.zeros((1, 5, 8), "float32"), np.ones((3, 6), "float32")
    >>> h = fan.forward(state, shared, own=np.ones((5, 2), "float32"))
    >>> h.shape  # 3 inputs for each of 5 states
    (15, 8)
    >>> x = np.ones((5, 1, 8), "float32")
    >>> bool(np.allclose(h[::3], layer.forward(x)[0][:, 0], atol=1e-6))
    True
    """

    def __init__(
        self, cell: Cell, parameters: Mapping[str, NDArray], n_shared: int, own_from: int,
        n_jobs: int | None = None,
    ) -> None:
        self.cell, self._n_jobs = cell, n_jobs
        weight, recurrent, bias, recurrent_bias = (parameters[f"{name}_l0"] for name in NAMES)
        self._units, self.dtype = recurrent.shape[1], recurrent.dtype
        self._weights = {"hidden": recurrent, "shared": weight[:, :n_shared], "own": weight[:, own_from:]}
        self._biases = {"hidden": recurrent_bias, "shared": np.zeros_like(bias), "own": bias}
        pairs = {f"{name}.weight": (value, np.zeros_like(value)) for name, value in self._weights.items()}
        pairs |= {f"{name}.bias": (value, np.zeros_like(value)) for name, value in self._biases.items()}
        self._pairs, self._n_shared, self._own_from = pairs, n_shared, own_from
        self._layers = {name: Dense(pairs, name, n_jobs) for name in self._weights}
        lanes = VECTOR_BYTES // self.dtype.itemsize
        self._padded = -(-self._units // lanes) * lanes
        self._programs: dict[tuple, Program] = {}
        self._tape: tuple | None = None
        self.gradients = {f"{name}_l0": np.zeros_like(parameters[f"{name}_l0"]) for name in NAMES}

    @property
    def n_jobs(self) -> int | None:
        """Number of threads."""
        return self._n_jobs

    @n_jobs.setter
    def n_jobs(self, value: int | None) -> None:
        self._n_jobs = value
        for layer in self._layers.values():
            layer.n_jobs = value

    def forward(self, state: State, shared: NDArray, own: NDArray | None, training: bool = False) -> NDArray:
        """Take the step.

        Parameters
        ----------
        state : ndarray or tuple of ndarray, each of shape (1, n, D)
        shared : ndarray of shape (m, n_shared)
        own : ndarray of shape (n, D - own_from), or None if that is 0
        training : bool, default=False
            Keep what `backward` needs.

        Returns
        -------
        h : ndarray of shape (n * m, D)
            Those of a row behind each other.
        """
        states = states_of(state)
        n, m, units = states[0].shape[1], len(shared), self._units
        hidden = self._layers["hidden"].forward(states[0][0], training)
        row = self._biases["own"] if own is None else self._layers["own"].forward(own, training)
        fill = np.empty if units == self._padded else np.zeros
        base = fill((n, len(self.cell.slots), self._padded), self.dtype)
        parts = (hidden, dict(self._places("h"))), (row, dict(self._places("x")))
        for slot in range(len(self.cell.slots)):  # each is written once
            sums = [products[..., places[slot]] for products, places in parts if slot in places]
            if len(sums) == 2:
                np.add(*sums, out=base[:, slot, :units])
            else:
                base[:, slot, :units] = sums[0]
        inputs = np.zeros((m, len(self.cell.slots), self._padded), self.dtype)
        sums = self._layers["shared"].forward(shared, training)
        for slot, gate in self._places("x"):
            inputs[:, slot, :units] = sums[:, gate]
        if len(states) == 1 and units == self._padded:
            old = np.ascontiguousarray(states[0][0], self.dtype).reshape(n, 1, units)
        else:
            old = np.zeros((n, len(states), self._padded), self.dtype)
            for k, part in enumerate(states):
                old[:, k, :units] = part[0]
        h = np.empty((n * m, self._padded), self.dtype)
        self._run(fan_forward, n, m, base=base, inputs=inputs, states=old, out=h)
        self._tape = (base, inputs, old, own is not None) if training else None
        return h if units == self._padded else np.ascontiguousarray(h[:, :units])

    def backward(self, dh: NDArray) -> tuple[NDArray, NDArray | None, State]:
        """Go back through the last ``forward(training=True)``, and fill `gradients`.

        Parameters
        ----------
        dh : ndarray of shape (n * m, D)

        Returns
        -------
        dshared : ndarray of shape (m, n_shared)
        down : ndarray of shape (n, D - own_from) or None
        dstate : ndarray or tuple of ndarray, each of shape (1, n, D)

        Raises
        ------
        RuntimeError
            If there was no ``forward(training=True)`` before it.
        """
        if self._tape is None:
            raise RuntimeError("backward was called without forward(training=True) before it")
        (base, inputs, old, has_own), self._tape = self._tape, None
        n, m, units = len(base), len(inputs), self._units
        if units < self._padded:
            dh = np.pad(dh, ((0, 0), (0, self._padded - units)))
        dh = np.ascontiguousarray(dh, self.dtype)
        dbase, dold = np.zeros_like(base), np.zeros_like(old)
        dparts = np.zeros((-(-n // BLOCK), *inputs.shape), self.dtype)
        self._run(
            fan_backward, n, m, base=base, inputs=inputs, states=old, dout=dh, dbase=dbase, dparts=dparts,
            dstates=dold,
        )  # fmt: skip
        dsums = self._of_gates(dbase, "x")
        if has_own:
            down = self._layers["own"].backward(dsums)
        else:
            down = None
            np.sum(dsums, axis=0, out=self._pairs["own.bias"][1])
        dshared = self._layers["shared"].backward(self._of_gates(dparts.sum(axis=0), "x"))
        dstates = [dold[np.newaxis, :, k, :units] for k in range(old.shape[1])]
        dstates[0] = dstates[0] + self._layers["hidden"].backward(self._of_gates(dbase, "h"))
        self._collect()
        return dshared, down, as_state(dstates)

    def _collect(self):
        """Put the gradients of the parts of the weights together."""
        gradients, pairs = [self.gradients[f"{name}_l0"] for name in NAMES], self._pairs
        gradients[0][...] = 0
        gradients[0][:, : self._n_shared] += pairs["shared.weight"][1]
        gradients[0][:, self._own_from :] += pairs["own.weight"][1]
        gradients[1][...], gradients[3][...] = pairs["hidden.weight"][1], pairs["hidden.bias"][1]
        gradients[2][...] = pairs["own.bias"][1]

    def _places(self, products):
        """Return (slot, columns of its gate) for each slot that has this product in it."""
        units = self._units
        for slot, (gate, has) in enumerate(self.cell.slots):
            if products in has:
                at = self.cell.gates.index(gate) * units
                yield slot, slice(at, at + units)

    def _of_gates(self, dslots, products):
        """Bring the gradient of slots (n, S, padded) to that of a product's columns (n, G * D)."""
        shape = len(dslots), len(self.cell.gates) * self._units
        places = list(self._places(products))
        gates = {gate.start for _, gate in places}
        if len(places) == len(gates) == len(self.cell.gates):  # each once: no zeros to add to
            sums = np.empty(shape, self.dtype)
            for slot, gate in places:
                sums[:, gate] = dslots[:, slot, : self._units]
            return sums
        sums = np.zeros(shape, self.dtype)
        for slot, gate in places:
            sums[:, gate] += dslots[:, slot, : self._units]
        return sums

    def _run(self, kernel, n, m, **arrays):
        """Run a kernel over all rows, as a program that is kept."""
        key = kernel.function.__name__, n, m, self._n_jobs
        if key not in self._programs:
            if len(self._programs) >= MOST_PROGRAMS:
                self._programs.clear()
            self._programs[key] = self._program(kernel, n, m, list(arrays))
        program = self._programs[key]
        for name, array in arrays.items():
            program.put(name, array)
        program.run()

    def _program(self, kernel, n, m, names):
        n_slots, n_states = len(self.cell.slots), self.cell.n_states
        threads = worthwhile_threads(n * m * n_slots * self._padded * FLOPS, self._n_jobs)
        blocks = -(-n // BLOCK)
        scratch = np.zeros((blocks, n_slots + n_states, self._padded), self.dtype)
        numbers = n, m, self._padded, n_slots, n_states
        arrays = [*map(Slot, names), np.zeros(n_states * self._padded, self.dtype)][: len(kernel.names) - 9]
        tasks = [
            (kernel, self.cell, *share, *numbers, scratch, *arrays) for share in ranges(blocks, threads)
        ]
        return Program(self.dtype, threads, [tasks])
