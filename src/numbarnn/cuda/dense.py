"""Dense layers on the device: what `numbarnn.blocks.Dense` is on a CPU, several behind each other."""

from __future__ import annotations

from typing import Any, NamedTuple

from numbarnn.cuda import pointwise
from numbarnn.cuda.blas import Matrix
from numbarnn.cuda.program import Program

__all__ = ["Dense", "DenseWay"]


class Dense(NamedTuple):
    """A dense layer: where its weight and bias are, and its sizes."""

    weight: int
    bias: int
    inputs: int
    outputs: int


class DenseWay:
    """Both ways through dense layers, for the arrays of a network that have them.

    A subclass has `_network`, with ``parameters``, ``gradients`` and ``zero``; `_drops`, whether rectified
    layers have dropout; and `_ones`, as many as there are rows at most.
    """

    _network: Any
    _drops: bool
    _ones: Any

    def _dense(
        self, program: Program, rows: int, dense: list[Dense], read: list, masks: list, rectified: int
    ) -> None:
        network, p = self._network, self._network.parameters
        for k, each in enumerate(dense):
            weights, y, count = Matrix(p, each.weight, each.inputs).T, read[k + 1], rows * each.outputs
            seen = Matrix(read[k], 0, each.inputs)
            program.product(rows, each.outputs, each.inputs, seen, weights, Matrix(y, 0, each.outputs))
            bias = each.outputs, int(k < rectified), network.zero, p, each.bias, y
            program.each(pointwise.add_bias, count, count, *bias)
            if self._drops and k < rectified:
                program.each(pointwise.multiply, count, count, masks[k], y)

    def _dense_back(
        self, program: Program, rows: int, dense: list[Dense], read: list, dread: list, masks: list,
        rectified: int, input_gradient: bool,
    ) -> None:
        network = self._network
        for k, each in reversed([*enumerate(dense)]):
            dy, count = dread[k + 1], rows * each.outputs
            if self._drops and k < rectified:
                program.each(pointwise.multiply, count, count, masks[k], dy)
            if k < rectified:  # what dropout has set to zero has no gradient any more
                program.each(pointwise.drop_negative, count, count, read[k + 1], dy)
            slopes, seen = Matrix(dy, 0, each.outputs), Matrix(read[k], 0, each.inputs)
            to = Matrix(network.gradients, each.weight, each.inputs)
            program.product(each.outputs, each.inputs, rows, slopes.T, seen, to)
            to, ones = Matrix(network.gradients, each.bias, each.outputs), Matrix(self._ones, 0, rows)
            program.product(1, each.outputs, rows, ones, slopes, to)
            if k > 0 or input_gradient:
                weights = Matrix(network.parameters, each.weight, each.inputs)
                to = Matrix(dread[k], 0, each.inputs)
                program.product(rows, each.inputs, each.outputs, slopes, weights, to)
