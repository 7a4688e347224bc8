"""One direction of a layer on the device: its arrays, and the launches and products of both its ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from numbarnn.cuda import halves, loops, pointwise, scan
from numbarnn.cuda.blas import Matrix
from numbarnn.cuda.driver import empty, upload
from numbarnn.cuda.noise import size_of
from numbarnn.cuda.plans import plan

if TYPE_CHECKING:
    from numbarnn.cuda.layers import Layers, Shape
    from numbarnn.cuda.program import Program

__all__ = ["Direction"]


class Direction:
    """One direction of a layer on batches of one shape; `numbarnn.cuda.scan` says what its arrays hold.

    Parameters
    ----------
    layers : Layers
    shape : Shape
    k, i : int
        The layer, and the direction in it.
    width, at : int
        Row length of its output, and where in a row it stands.
    puts : bool
        Whether there is an output.
    valid, ones : device array
        Which steps count, (T, B), and as many ones.

    Attributes
    ----------
    n : Scan
    h, c, d, e : device array
        States of all steps, and gradients of those before the first step, once gone back.
    h_end, c_end : int
        Where the final states begin.
    own, down : device array
        Its output and the gradient of it, (T, B, width of h), where two directions are merged.
    """

    def __init__(
        self, layers: Layers, shape: Shape, k: int, i: int, width: int, at: int, puts: bool, valid: Any,
        ones: Any,
    ) -> None:
        self._layers, self._shape, self._valid, self._ones = layers, shape, valid, ones
        self._index, self._at = k * layers.per_layer + i, layers.places[k][i]
        places = [self._at.get(name, 0) for name in ("weight_hh", "bias_ih", "bias_hh", "units")]
        biased, masked = int("bias_ih" in self._at), int(shape.masked)
        self.n = scan.Scan(shape.T, shape.B, i, masked, biased, int(puts), *places, width, at)
        self._plan = plan(layers.eq, layers.H, shape.B, layers.n_processors)
        self._make_arrays(shape)

    def _make_arrays(self, shape: Shape) -> None:
        layers, (T, B, noise) = self._layers, (shape.T, shape.B, shape.noise)
        eq, H, HR, dtype, back = layers.eq, layers.H, layers.HR, layers.dtype, int(shape.training)
        second = int(eq.M > 0)
        self._gx = empty(T * B * eq.X * H, dtype)
        self._gh = empty(0 if self._plan or not eq.R else B * eq.R * H, dtype)
        self.h = upload(np.zeros((1 + noise.drops) * (T + 1) * B * HR, dtype))
        # where nothing is kept a step overwrites the states, but for a cell that looks at the old ones twice
        slots = T if shape.training or second else 0
        self.c = upload(np.zeros((slots + 1) * B * eq.E * H, dtype))
        self.h_end = T * (1 - self.n.reverse) * B * HR
        self._c_step = B * eq.E * H * (slots > 0)
        self.c_end = T * (1 - self.n.reverse) * self._c_step
        kept = B * eq.S * H * (T if shape.training else second)
        if shape.training:
            self.kept = empty(kept + size_of(noise, eq, H, HR, T, B), dtype)
        else:  # the means of zoneout are behind it
            self.kept = upload(np.concatenate([np.zeros(kept, dtype), np.array(layers.zoneout, dtype)]))
        self._m = empty(B * H * (T if shape.training else second) * second, dtype)
        self._q = empty(B * HR * eq.M * (T if shape.training else second), dtype)
        own = (layers.merge > 0) * self.n.puts
        self.own, self.down = empty(T * B * HR * own, dtype), empty(T * B * HR * own * back, dtype)
        self.d, self.e = empty((1 + noise.drops) * B * HR * back, dtype), empty(B * eq.E * H * back, dtype)
        self._du, self._dm = empty(B * eq.K * H * back, dtype), empty(B * H * second * back, dtype)
        self.factors, self.parts = kept, kept + noise.drops * B * HR  # in kept, those of dropout and zoneout
        self._seen = noise.drops * (T + 1) * B * HR  # in h, what the recurrent weights see

    def _step(self, s: int) -> int:
        """Return the s-th step that is taken."""
        return self.n.T - 1 - s if self.n.reverse else s

    # ---- states

    def _move(
        self, program: Program, kernel: Callable, numbers: tuple, states: Any, h_at: int, c_at: int, h: Any,
        c: Any,
    ) -> None:
        """Add what copies states of all directions to ours, or ours to them."""
        layers, B = self._layers, self.n.B
        eq, H, HR = layers.eq, layers.H, layers.HR
        if HR == H:
            arguments = B, H, eq.E, self._index, *numbers, states, h, h_at, c, c_at
            program.each(kernel, (1 + eq.E) * B * H, *arguments)
            return
        cut = layers.n_directions * B * HR  # h is narrower than c: each by itself
        for width, part, own, at in ((HR, states[:cut], h, h_at), (H, states[cut:], c, c_at)):
            program.each(kernel, B * width, B, width, 0, self._index, *numbers, part, own, at, own, at)

    def _place(self, program: Program, given: bool, states: Any, places: tuple) -> None:
        numbers = int(given), self._layers.dtype.type(0)
        self._move(program, pointwise.place_states, numbers, states, *places)

    def collect(self, program: Program, final: Any) -> None:
        """Add what copies the states after the last step to those of all directions."""
        self._move(program, pointwise.collect_states, (), final, self.h_end, self.c_end, self.h, self.c)

    def start_back(self, program: Program, given: bool, dfinal: Any) -> None:
        """Add what sets the gradient of the final states, or sets it to zero."""
        self._place(program, given, dfinal, (0, 0, self.d, self.e))

    def collect_back(self, program: Program, dinitial: Any) -> None:
        """Add what copies the gradient of the initial states to that of all directions."""
        self._move(program, pointwise.collect_states, (), dinitial, 0, 0, self.d, self.e)

    # ---- forward

    def forward(self, program: Program, initial: Any, inputs: Any, width: int, out: Any) -> None:
        """Add the way through all steps.

        Parameters
        ----------
        program : Program
        initial : device array
            Initial states of all directions, if there are others than zeros.
        inputs, out : device array
            Rows that are read, `width` wide, and where the output goes.
        width : int
        """
        layers, n, shape = self._layers, self.n, self._shape
        eq, H, HR, p, first = layers.eq, layers.H, layers.HR, layers.parameters, n.T * n.reverse
        if shape.starts or not shape.training:  # in training nothing writes over the zeros that are there
            places = first * n.B * HR, first * self._c_step, self.h, self.c
            self._place(program, shape.starts, initial, places)
        weights, gates = Matrix(p, self._at["weight_ih"], width).T, eq.X * H
        seen, to = Matrix(inputs, 0, width), Matrix(self._gx, 0, gates)
        program.product(n.T * n.B, gates, width, seen, weights, to)
        if self._plan is not None:
            rows, mapping = self._plan.rows, self._plan.forward
            kernel = loops.forward_loop(eq, H, rows, mapping, shape.training, shape.noise)
            arrays = self._valid, p, self._gx, self.h, self.c, self.kept, out
            program.launch(kernel, -(-n.B // rows), mapping.threads, n, *arrays)
            return
        if shape.noise.drops:
            at = first * n.B * HR
            place = self.h, at, self.kept, self.factors, self.h, self._seen + at
            program.each(pointwise.multiply_to, n.B * HR, n.B * HR, 0, *place)
        for t in map(self._step, range(n.T)):
            state = Matrix(self.h, self._seen + (t + n.reverse) * n.B * HR, HR)
            for gate, many in layers.seen_runs:
                weights = Matrix(p, n.weight + gate * H * HR, HR).T
                program.product(n.B, many * H, HR, state, weights, Matrix(self._gh, gate * H, eq.R * H))
            self._forward_step(program, t, out)

    def _forward_step(self, program: Program, t: int, out: Any) -> None:
        """Add what follows the product with the state."""
        layers, n, training, noise = self._layers, self.n, self._shape.training, self._shape.noise
        eq, H, HR, p = layers.eq, layers.H, layers.HR, layers.parameters
        if not eq.M:
            arrays = self._valid, p, self._gx, self._gh, self.h, self.c, self.kept, out
            program.each(scan.forward_step(eq, H, training, noise), n.B * H, n, t, *arrays)
            return
        arrays = self._valid, p, self._gx, self._gh, self.h, self.c, self.kept, self._m
        program.each(halves.first_half(eq, H, HR, training, noise), n.B * H, n, t, *arrays)
        middle, row = Matrix(self._m, t * training * n.B * H, H), eq.M * HR
        for slot, place, many in self._second():
            to = Matrix(self._q, t * training * n.B * row + slot * HR, row)
            program.product(n.B, many * HR, H, middle, Matrix(p, place, H).T, to)
        arrays = self._valid, p, self.h, self.c, self.kept, self._q, out
        program.each(halves.finish(eq, H, HR, training, noise), n.B * HR, n, t, *arrays)

    def _second(self) -> list[tuple[int, int, int]]:
        """Return for each run of second products the first slot, where its weights are, and how many."""
        H, at = self._layers.H, self._at
        begin = at["weight_hr"] if self._layers.eq.projects else at["weight_hh"]
        return [(slot, begin + gate * H * H, many) for slot, gate, many in self._layers.m_runs]

    # ---- backward

    def backward(self, program: Program, dout: Any, given: bool) -> None:
        """Add the way back through all steps: `kept` becomes the gradient of the slots."""
        layers, n, shape = self._layers, self.n._replace(puts=int(given)), self._shape
        eq, H, HR, p, noise = layers.eq, layers.H, layers.HR, layers.parameters, shape.noise
        arrays = self._valid, p, self.h, self.c, self.kept, dout, self.d, self.e, self._du
        if self._plan is not None:
            kernel = loops.backward_loop(eq, H, self._plan.rows, self._plan.backward, noise)
            program.launch(kernel, -(-n.B // self._plan.rows), self._plan.backward.threads, n, *arrays)
            return
        if eq.K:
            program.each(pointwise.fill, n.B * eq.K * H, n.B * eq.K * H, layers.dtype.type(0), self._du)
        through = n.B * HR * noise.drops
        if noise.drops:
            program.each(pointwise.fill, n.B * HR, n.B * HR, layers.dtype.type(0), self.d[through:])
        for t in map(self._step, range(n.T - 1, -1, -1)):
            if eq.M:
                self._halves_back(program, n, t, dout)
            else:
                program.each(scan.backward_step(eq, H, noise), n.B * H, n, t, *arrays)
            for i, (slot, gate, many) in enumerate(layers.h_runs):
                slopes = Matrix(self.kept, (t * n.B * eq.S + slot) * H, eq.S * H)
                weights, to = Matrix(p, n.weight + gate * H * HR, HR), Matrix(self.d, through, HR)
                program.product(n.B, HR, many * H, slopes, weights, to, add=i > 0 or not noise.drops)
        if noise.drops:
            place = self.d, through, self.kept, self.factors, self.d, 0
            program.each(pointwise.multiply_to, n.B * HR, n.B * HR, 1, *place)

    def _halves_back(self, program: Program, n: scan.Scan, t: int, dout: Any) -> None:
        layers, noise = self._layers, self._shape.noise
        eq, H, HR, p = layers.eq, layers.H, layers.HR, layers.parameters
        arrays = self._valid, self.h, self.c, self.kept, self._q, dout, self.d
        program.each(halves.finish_back(eq, H, HR, noise), n.B * HR, n, t, *arrays)
        row, to = eq.M * HR, Matrix(self._dm, 0, H)
        for i, (slot, place, many) in enumerate(self._second()):
            slopes = Matrix(self._q, t * n.B * row + slot * HR, row)
            program.product(n.B, H, many * HR, slopes, Matrix(p, place, H), to, add=i > 0)
        arrays = self._valid, p, self.h, self.c, self.kept, self.d, self._dm, self.e, self._du
        program.each(halves.first_half_back(eq, H, HR, noise), n.B * H, n, t, *arrays)

    def weight_gradients(self, program: Program, inputs: Any, width: int) -> None:
        """Add the products over all steps and rows: of the gates' gradient with what the weights saw."""
        layers, n, at, g = self._layers, self.n, self._at, self._layers.gradients
        eq, H, HR, N = layers.eq, layers.H, layers.HR, n.T * n.B
        before = Matrix(self.h, self._seen + n.reverse * n.B * HR, HR)
        kinds = (("ih", layers.x_runs, Matrix(inputs, 0, width), width), ("hh", layers.h_runs, before, HR))
        for kind, runs, seen, columns in kinds:
            for slot, gate, many in runs:
                slopes = Matrix(self.kept, slot * H, eq.S * H)
                to = Matrix(g, at[f"weight_{kind}"] + gate * H * columns, columns)
                program.product(many * H, columns, N, slopes.T, seen, to)
                if f"bias_{kind}" in at:
                    self._sum(program, N, slopes, many * H, at[f"bias_{kind}"] + gate * H)
        for slot, place, many in self._second() if eq.M else ():
            slopes, seen = Matrix(self._q, slot * HR, eq.M * HR), Matrix(self._m, 0, H)
            program.product(many * HR, H, N, slopes.T, seen, Matrix(g, place, H))
            if "bias_hh" in at and not eq.projects:
                self._sum(program, N, slopes, many * H, at["bias_hh"] + (place - at["weight_hh"]) // H)
        if eq.K:
            row, vectors = eq.K * H, eq.V * H
            self._sum(program, n.B, Matrix(self._du, 0, row), vectors, at["units"])
            for k in range(eq.V, eq.K):
                sums, ones = Matrix(empty(H, layers.dtype), 0, H), Matrix(self._ones, 0, n.B)
                program.product(1, H, n.B, ones, Matrix(self._du, k * H, row), sums)
                to = Matrix(g, at["units"] + vectors + k - eq.V, 1)
                program.product(1, 1, H, sums, Matrix(self._ones, 0, 1), to)

    def _sum(self, program: Program, rows: int, values: Matrix, columns: int, place: int) -> None:
        """Add the sum over rows, which becomes a gradient."""
        to = Matrix(self._layers.gradients, place, columns)
        program.product(1, columns, rows, Matrix(self._ones, 0, rows), values, to)

    def input_gradient(self, program: Program, dinputs: Any, width: int, add: bool) -> None:
        """Add the gradient of the rows that were read, or what is added to it."""
        layers, n = self._layers, self.n
        eq, H = layers.eq, layers.H
        for i, (slot, gate, many) in enumerate(layers.x_runs):
            slopes, to = Matrix(self.kept, slot * H, eq.S * H), Matrix(dinputs, 0, width)
            weights = Matrix(layers.parameters, self._at["weight_ih"] + gate * H * width, width)
            program.product(n.T * n.B, width, many * H, slopes, weights, to, add or i > 0)
