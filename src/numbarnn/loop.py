"""`Loop`: the time loop of one direction on a batch: its arrays, and the tasks that work on them."""

from __future__ import annotations

from typing import NamedTuple

from numpy.typing import NDArray

from numbarnn.cells import Cell
from numbarnn.cells.base import Noisy
from numbarnn.kernels import scan
from numbarnn.kernels.sizes import EMPTY, Sizes, weight_gradient_blocks
from numbarnn.kernels.threads import Slot
from numbarnn.layer import Direction


class Rows(NamedTuple):
    """Rows of a flat array, and how far apart two time steps are and two samples."""

    array: NDArray | Slot
    t: int
    r: int

    def part(self, at: int) -> Rows:
        """Return the same rows from element `at` of each on."""
        array = self.array
        whole = isinstance(array, Slot)
        return self._replace(array=Slot(array.name, array.offset + at) if whole else array[at:])


class Loop(NamedTuple):
    """The time loop of a direction; `numbarnn.kernels.scan` has the shapes of the arrays."""

    direction: Direction
    cell: Cell | Noisy
    sizes: Sizes
    block: int  # steps of a block of the way back
    x: NDArray
    h: NDArray
    g: NDArray
    c: NDArray
    d: NDArray
    dh: NDArray
    e: NDArray
    n: NDArray
    kept: NDArray  # states before the blocks that are computed again

    def forward(self, rows: tuple[int, int], lengths: Slot, z: NDArray, output: Rows) -> list[tuple]:
        """List the tasks, to be done in turn, that take rows forward from their input rows `z`."""
        T, block = self.sizes.T, self.block
        if not self.kept.size:
            return [self._forward(rows, (0, T), lengths, z, output)]
        tasks = []
        for s0 in range(0, T, block):
            if s0 < T - self.sizes.g_slots:
                tasks.append(self._move_states(rows, s0, 0))
            tasks.append(self._forward(rows, (s0, min(T, s0 + block)), lengths, z, output))
        return tasks

    def _forward(
        self, rows: tuple[int, int], steps: tuple[int, int], lengths: Slot, z: NDArray, output: Rows
    ) -> tuple:
        loop = self.direction.cell.loops[0] if self.direction.cell.loops else scan.scan_forward
        arrays = z, self.direction.packed, self.x, self.h, self.g, self.c, self.n
        return (loop, self.cell, self.sizes, *rows, *steps, lengths, *arrays, *output)

    def _move_states(self, rows: tuple[int, int], step: int, back: int) -> tuple:
        """Give the task that puts the states before a block of steps aside, or `back`."""
        sizes = self.sizes
        at = step // self.block * sizes.B * (sizes.R + sizes.E * self.direction.padded)
        place = *rows, step % sizes.x_slots, back, self.h, self.c, self.kept, at
        return (scan.keep_states, sizes, *place)

    def backward(
        self, rows: tuple[int, int], steps: tuple[int, int], lengths: Slot, z: NDArray, gradient: Rows
    ) -> list[tuple]:
        """List the tasks that take rows back; they go forward once more where what they need is gone."""
        loop = self.direction.cell.loops[1] if self.direction.cell.loops else scan.scan_backward
        arrays = self.direction.packed, self.h, self.g, self.c, self.d, self.dh, self.e, self.n
        back = (loop, self.cell, self.sizes, *rows, *steps, lengths, *gradient, *arrays)
        if steps[0] >= self.sizes.T - self.sizes.g_slots:
            return [back]
        nowhere = Rows(EMPTY[self.x.dtype], 0, 0)
        again = self._forward(rows, steps, lengths, z, nowhere)
        return [self._move_states(rows, steps[0], 1), again, back]

    def input_gradient(
        self, rows: tuple[int, int], steps: tuple[int, int], add: int, dz: NDArray
    ) -> tuple:
        """Give the task that fills the gradient of what the layer reads, or adds to it."""
        direction = self.direction
        panels = direction.padded_inputs, direction.input_panel, direction.input_group
        place = (*rows, *self._times(steps), add, direction.wxt, self.g, dz)
        return (scan.input_gradient, self.sizes, *place, *panels)

    def _times(self, steps: tuple[int, int]) -> tuple[int, int]:
        """Give the range in time of a range of steps."""
        T = self.sizes.T
        return (T - steps[1], T - steps[0]) if self.sizes.reverse else steps

    def weight_gradient(
        self, z: NDArray, threads: int, dw: NDArray, blocks: list[tuple[int, int]]
    ) -> list[list[tuple]]:
        """List the tasks that fill dw (dwx, dwh, ...), from the input rows `z`: a list for each piece.

        It has a task for each block of steps, to be done in this order; different pieces at any time.
        """
        direction, sizes = self.direction, self.sizes
        B, padded = sizes.B, direction.padded
        before, middle = sizes.reverse * B * sizes.LX, sizes.x_slots * B * sizes.LX
        second = sizes.J * sizes.g_slots * B * sizes.S
        J, S = sizes.J, sizes.S
        products = [(J, self.x, before, sizes.LX, sizes.D, 0, S, sizes.Sh, dw[sizes.wh : sizes.wm])]
        if not direction.joined:
            products.append((J, z, 0, sizes.LZ, sizes.I + 1, S - sizes.Sx, S, sizes.Sx, dw[: sizes.wh]))
        place = middle, sizes.LM, padded + 1, second, sizes.Sm, sizes.Sm
        products.append((sizes.JR, self.x, *place, dw[sizes.wm : sizes.u]))
        steps = [self._times(block) for block in blocks]
        pieces = []
        for n_blocks, a, a_at, stride, depth, g_at, g_stride, columns, part in products:
            if columns:
                arguments = (a, a_at, stride, depth, self.g, g_at, g_stride, columns, part)
                for piece in weight_gradient_blocks(n_blocks, depth, columns, z.itemsize, threads):
                    head = scan.weight_gradient, sizes, *piece
                    pieces.append([(*head, *t, int(k > 0), *arguments) for k, t in enumerate(steps)])
        return pieces

    def unit_gradient(self, dw: NDArray) -> list[tuple]:
        """List the task that fills the gradient of parameters of single units, if there are any."""
        sizes, n_scalars = self.sizes, len(self.direction.cell.scalars)
        part = dw[sizes.u : sizes.wht]
        return [(scan.unit_gradient, sizes, n_scalars, self.e, part)] if sizes.K else []
