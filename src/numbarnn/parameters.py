"""Named parameters in one flat vector, as optimizers want them, and their gradients in another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import DTypeLike, NDArray

from numbarnn.limits import check_count

__all__ = ["Parameters", "dense_shapes", "dense_stack_shapes", "starts_of"]


class Parameters:
    """Named arrays in one flat vector, and their gradients in another.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Names in the order in which the arrays lie.
    dtype : {"float32", "float64"}

    Attributes
    ----------
    values, gradients : ndarray of shape (n_parameters,)
    penalized : ndarray of bool of shape (n_parameters,)
        True where the name has "weight" in it.

    Examples
    --------
    >>> from numbarnn.parameters import Parameters
    >>> parameters = Parameters({"head.weight": (2, 3), "head.bias": (2,)}, "float32")
    >>> value, gradient = parameters["head.weight"]
    >>> value.shape, int(parameters.penalized.sum()), parameters.values.size
    ((2, 3), 6, 8)
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype: DTypeLike) -> None:
        self._shapes = dict(shapes)
        sizes = [math.prod(shape) for shape in self._shapes.values()]
        if self._shapes:
            name = max(self._shapes, key=lambda name: math.prod(self._shapes[name]))
            check_count(sum(sizes), f"{name} had shape {self._shapes[name]}")
        ends = np.cumsum([0, *sizes]).tolist()
        self._spans = dict(zip(self._shapes, zip(ends[:-1], ends[1:], strict=True), strict=True))
        self.values, self.gradients = np.zeros(ends[-1], dtype), np.zeros(ends[-1], dtype)
        self.penalized = np.repeat(["weight" in name for name in self._shapes], sizes)

    def __contains__(self, name: str) -> bool:
        """Whether there is an array of this name."""
        return name in self._shapes

    def __iter__(self):
        """Go through the names."""
        return iter(self._shapes)

    def __getitem__(self, name: str) -> tuple[NDArray, NDArray]:
        """Return views of an array and of its gradient."""
        start, end = self._spans[name]
        shape = self._shapes[name]
        return self.values[start:end].reshape(shape), self.gradients[start:end].reshape(shape)

    def flat(self, prefix: str) -> tuple[NDArray, NDArray]:
        """Return all that begins with `prefix`, and its gradients, as flat views; it must lie together."""
        spans = [span for name, span in self._spans.items() if name.startswith(prefix)]
        part = slice(spans[0][0], spans[-1][1])
        return self.values[part], self.gradients[part]

    def initialize(self, rng: np.random.Generator) -> None:
        """Draw initial values: of dense layers as `torch.nn.Linear` does, of all else from N(0, 1).

        Parameters
        ----------
        rng : numpy.random.Generator
        """
        for name, shape in self._shapes.items():
            layer, _, kind = name.rpartition(".")
            if kind in ("weight", "bias"):
                bound = self._shapes[f"{layer}.weight"][1] ** -0.5
                self[name][0][...] = rng.uniform(-bound, bound, shape)
            else:
                self[name][0][...] = rng.standard_normal(shape)


def starts_of(arrays: Mapping[str, NDArray]) -> dict[str, int]:
    """Return where each of some arrays begins in a vector of them all, one behind the other.

    Parameters
    ----------
    arrays : mapping of str to ndarray

    Returns
    -------
    starts : dict of str to int

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.parameters import starts_of
    >>> starts_of({"weight": np.zeros((2, 3)), "bias": np.zeros(2)})
    {'weight': 0, 'bias': 6}
    """
    ends = accumulate((array.size for array in arrays.values()), initial=0)
    return dict(zip(arrays, ends, strict=False))  # the last end is no start


def dense_shapes(name: str, n_inputs: int, n_outputs: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes that `Parameters` wants for a `Dense` of this name.

    Parameters
    ----------
    name : str
    n_inputs, n_outputs : int

    Returns
    -------
    shapes : dict of str to tuple of int

    Examples
    --------
    >>> from numbarnn.parameters import dense_shapes
    >>> dense_shapes("head", 3, 2)
    {'head.weight': (2, 3), 'head.bias': (2,)}
    """
    return {f"{name}.weight": (n_outputs, n_inputs), f"{name}.bias": (n_outputs,)}


def dense_stack_shapes(name: str, n_inputs: int, sizes: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Return the shapes that `Parameters` wants for a `DenseStack` of this name.

    Parameters
    ----------
    name : str
    n_inputs : int
    sizes : sequence of int
        Units of each layer.

    Returns
    -------
    shapes : dict of str to tuple of int

    Examples
    --------
    >>> from numbarnn.parameters import dense_stack_shapes
    >>> list(dense_stack_shapes("head", 3, [4, 2]).values())
    [(4, 3), (4,), (2, 4), (2,)]
    """
    shapes = {}
    for k, (below, units) in enumerate(pairwise([n_inputs, *sizes])):
        shapes |= dense_shapes(f"{name}.{k}", below, units)
    return shapes
