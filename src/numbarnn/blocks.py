"""What networks are put together from, besides `Recurrent`: dense layers, dropout, embeddings.

A block works on views of the network's `numbarnn.parameters.Parameters`, and keeps what its `backward` needs
of the last ``forward(training=True)``. Products are those of `numbarnn.kernels.dense`, in which a row has the
same bits whatever rows there are beside it and however many threads there are.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from numbarnn.checks import probability
from numbarnn.kernels.between import mask_elements
from numbarnn.kernels.dense import Products
from numbarnn.parameters import Parameters
from numbarnn.recurrent import State

__all__ = ["Dense", "DenseStack", "Dropout", "Embedding", "as_state", "reach", "states_of", "valid_steps"]


class Dense:
    """A dense layer, x W' + b, with a rectifier behind it if wanted.

    Parameters
    ----------
    parameters : Parameters
        It has ``{name}.weight`` (n_outputs, n_inputs) and ``{name}.bias`` (n_outputs,).
    name : str
    n_jobs : int or None, default=None
        Number of threads.
    relu : bool, default=False
        Whether negative outputs are set to zero.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.blocks import Dense
    >>> from numbarnn.parameters import Parameters, dense_shapes
    >>> parameters = Parameters(dense_shapes("head", 3, 2), "float64")
    >>> parameters.values[:] = 1
    >>> Dense(parameters, "head").forward(np.ones((1, 3)))
    array([[4., 4.]])
    """

    def __init__(
        self, parameters: Parameters, name: str, n_jobs: int | None = None, relu: bool = False
    ) -> None:
        self._weight, self._dweight = parameters[f"{name}.weight"]
        self._bias, self._dbias = parameters[f"{name}.bias"]
        self.name, self.n_jobs, self.relu = name, n_jobs, relu
        self._products = Products(self._weight.dtype, most=12)
        self._tape: tuple | None = None

    def forward(self, x: NDArray, training: bool = False) -> NDArray:
        """Apply the layer.

        Parameters
        ----------
        x : ndarray of shape (n, n_inputs)
            In the parameters' dtype.
        training : bool, default=False
            Keep what `backward` needs.

        Returns
        -------
        y : ndarray of shape (n, n_outputs)

        Raises
        ------
        ValueError
            If `x` has another number of columns.
        """
        if x.ndim != 2 or x.shape[1] != self._weight.shape[1]:
            expected = f"(n, {self._weight.shape[1]})"
            raise ValueError(f'x of the layer "{self.name}" had shape {x.shape}; expected {expected}')
        y = self._products(x, self._weight.T, self.n_jobs, bias=self._bias, relu=self.relu)
        self._tape = (x, y if self.relu else None) if training else None
        return y

    def backward(self, dy: NDArray, input_gradient: bool = True) -> NDArray | None:
        """Fill the gradients of weight and bias, once for each ``forward(training=True)``.

        Parameters
        ----------
        dy : ndarray of shape (n, n_outputs)
        input_gradient : bool, default=True

        Returns
        -------
        dx : ndarray of shape (n, n_inputs) or None

        Raises
        ------
        RuntimeError
            If there was no ``forward(training=True)`` before it.
        """
        if self._tape is None:
            raise RuntimeError("backward was called without forward(training=True) before it")
        (x, y), self._tape = self._tape, None
        if y is not None:
            dy = dy * (y > 0)
        # the product keeps a copy of its right factor: the narrower one
        if x.shape[1] < dy.shape[1]:
            self._dweight[...] = self._product(dy.T, x, transposed=True)
        else:
            self._dweight[...] = self._product(x.T, dy, transposed=True).T
        np.sum(dy, axis=0, out=self._dbias)
        return self._product(dy, self._weight) if input_gradient else None

    def _product(self, a: NDArray, b: NDArray, transposed: bool = False) -> NDArray:
        return self._products(a, b, self.n_jobs, transposed)


class Dropout:
    """Set elements to zero at random in training, and scale up the others.

    Parameters
    ----------
    rate : float
        Probability that an element is set to zero, from 0 up to, not including, 1; taken to 16 bits.
    rng : numpy.random.Generator
    inplace : bool, default=False
        Whether `forward` and `backward` write into their C-contiguous argument.

    Raises
    ------
    ValueError, TypeError
        If `rate` is no such number.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.blocks import Dropout
    >>> y = Dropout(0.5, np.random.default_rng(0)).forward(np.ones(1000), training=True)
    >>> sorted({float(value) for value in y}), bool(400 < (y > 0).sum() < 600)
    ([0.0, 2.0], True)
    """

    def __init__(self, rate: float, rng: np.random.Generator, inplace: bool = False) -> None:
        self.rate, self.inplace, self._random = probability("dropout", rate), inplace, rng
        self._words: NDArray | None = None

    @property
    def _least(self) -> int:
        """Words below it set their element to zero."""
        return min(round(self.rate * 65536), 65535)

    @property
    def drops(self) -> bool:
        """Whether any element is set to zero in training: not at a rate that rounds to none in 16 bits."""
        return self._least > 0

    def forward(self, x: NDArray, training: bool = False) -> NDArray:
        """Apply a new mask in training; return `x` itself otherwise.

        Parameters
        ----------
        x : ndarray
        training : bool, default=False

        Returns
        -------
        y : ndarray of the shape of `x`
        """
        self._words = None
        if not (training and self.drops):
            return x
        self._words = self._draw(x.shape)
        return self._apply(x)

    def draw(self, shape: tuple[int, ...], dtype: np.dtype) -> NDArray:
        """Draw a mask: zero, or what scales up.

        Parameters
        ----------
        shape : tuple of int
        dtype : numpy.dtype

        Returns
        -------
        mask : ndarray
        """
        return (self._draw(shape) >= self._least) * self._factors(dtype)[1]

    def backward(self, dy: NDArray) -> NDArray:
        """Return the gradient of the input of the last `forward`.

        Parameters
        ----------
        dy : ndarray

        Returns
        -------
        dx : ndarray of the shape of `dy`
        """
        return dy if self._words is None else self._apply(dy)

    def _draw(self, shape: tuple[int, ...]) -> NDArray:
        """Draw a word of 16 bits for each element, four at a time: the generator is what takes the time."""
        count = math.prod(shape)
        drawn = self._random.integers(2**64, size=-(-count // 4), dtype=np.uint64)
        return drawn.view(np.uint16)[:count].reshape(shape)

    def _factors(self, dtype: np.dtype) -> NDArray:
        """Return what an element is multiplied by that is dropped, and one that is not."""
        return np.array([0, 65536 / (65536 - self._least)], dtype)

    def _apply(self, x: NDArray) -> NDArray:
        """Multiply by the mask of `_words`."""
        x = np.ascontiguousarray(x)
        y = x if self.inplace else np.empty_like(x)
        mask_elements(self._words.ravel(), self._least, self._factors(x.dtype), x.ravel(), y.ravel())
        return y


class Embedding:
    """A vector for each number.

    Parameters
    ----------
    parameters : Parameters
        It has ``{name}`` (n_numbers, size).
    name : str

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.blocks import Embedding
    >>> from numbarnn.parameters import Parameters
    >>> parameters = Parameters({"series": (3, 2)}, "float64")
    >>> embedding = Embedding(parameters, "series")
    >>> embedding.forward(np.array([2, 0, 2]), training=True).shape
    (3, 2)
    >>> embedding.backward(np.ones((3, 2)))
    >>> parameters["series"][1].tolist()
    [[1.0, 1.0], [0.0, 0.0], [2.0, 2.0]]
    """

    def __init__(self, parameters: Parameters, name: str) -> None:
        self._table, self._gradient = parameters[name]
        self._indices: NDArray | None = None

    def forward(self, indices: NDArray, training: bool = False) -> NDArray:
        """Look up.

        Parameters
        ----------
        indices : ndarray of int of shape (n,)
        training : bool, default=False
            Keep what `backward` needs.

        Returns
        -------
        vectors : ndarray of shape (n, size)
        """
        self._indices = np.array(indices) if training else None
        return self._table[indices]

    def backward(self, dy: NDArray) -> None:
        """Fill the gradient of the table.

        Parameters
        ----------
        dy : ndarray of shape (n, size)

        Raises
        ------
        RuntimeError
            If there was no ``forward(training=True)`` before it.
        """
        if self._indices is None:
            raise RuntimeError("backward was called without forward(training=True) before it")
        indices, self._indices = self._indices, None
        order = np.argsort(indices, kind="stable")
        numbers = indices[order]
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        self._gradient.fill(0)
        self._gradient[numbers[starts]] = np.add.reduceat(dy[order], starts, axis=0)


class DenseStack:
    """Dense layers with rectifiers, each with dropout behind it.

    Parameters
    ----------
    parameters : Parameters
        It has ``{name}.0.weight``, ``{name}.0.bias``, ``{name}.1.weight``, ...
    name : str
    n_layers : int
        From 0, which changes nothing.
    dropout : float
    rng : numpy.random.Generator
        Dropout is drawn from it.
    n_jobs : int or None, default=None
        Number of threads.

    Attributes
    ----------
    layers : list of Dense
    dropouts : list of Dropout

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.blocks import DenseStack
    >>> from numbarnn.parameters import Parameters, dense_stack_shapes
    >>> parameters = Parameters(dense_stack_shapes("head", 3, [4, 2]), "float64")
    >>> stack = DenseStack(parameters, "head", 2, 0.0, np.random.default_rng(0))
    >>> stack.forward(np.ones((5, 3)), training=True).shape, stack.backward(np.ones((5, 2))).shape
    ((5, 2), (5, 3))
    """

    def __init__(
        self, parameters: Parameters, name: str, n_layers: int, dropout: float, rng: np.random.Generator,
        n_jobs: int | None = None,
    ) -> None:  # fmt: skip
        self.layers = [Dense(parameters, f"{name}.{k}", n_jobs, relu=True) for k in range(n_layers)]
        self.dropouts = [Dropout(dropout, rng) for _ in self.layers]

    def forward(self, x: NDArray, training: bool = False) -> NDArray:
        """Apply the layers.

        Parameters
        ----------
        x : ndarray of shape (n, n_inputs)
        training : bool, default=False
            Apply dropout, and keep what `backward` needs.

        Returns
        -------
        y : ndarray of shape (n, n_outputs)
        """
        for layer, dropout in zip(self.layers, self.dropouts, strict=True):
            x = dropout.forward(layer.forward(x, training), training)
        return x

    def backward(self, dy: NDArray, input_gradient: bool = True) -> NDArray | None:
        """Fill the gradients of all layers, once for each ``forward(training=True)``.

        Parameters
        ----------
        dy : ndarray of shape (n, n_outputs)
        input_gradient : bool, default=True

        Returns
        -------
        dx : ndarray of shape (n, n_inputs) or None
        """
        for k, (layer, dropout) in reversed([*enumerate(zip(self.layers, self.dropouts, strict=True))]):
            dy = layer.backward(dropout.backward(dy), input_gradient or k > 0)
        return dy


def states_of(state: State) -> tuple[NDArray, ...]:
    """Return the parts of a state, h first.

    Parameters
    ----------
    state : ndarray or tuple of ndarray

    Returns
    -------
    states : tuple of ndarray
    """
    return state if isinstance(state, tuple) else (state,)


def as_state(states: list[NDArray]) -> State:
    """Return parts as `Recurrent` takes and gives them, the inverse of `states_of`.

    Parameters
    ----------
    states : list of ndarray

    Returns
    -------
    state : ndarray or tuple of ndarray
    """
    return states[0] if len(states) == 1 else tuple(states)


def valid_steps(lengths: NDArray, n_timesteps: int) -> NDArray:
    """Return which steps are valid, in whichever of two ways it was said.

    Parameters
    ----------
    lengths : ndarray of int of shape (n_samples,), or of bool of shape (n_samples, n_timesteps)
        Number of valid steps of each sample, which come first; or True for the valid ones.
    n_timesteps : int

    Returns
    -------
    valid : ndarray of bool of shape (n_samples, n_timesteps)
    """
    return lengths if lengths.ndim == 2 else np.arange(n_timesteps) < lengths[:, np.newaxis]


def reach(lengths: NDArray) -> int:
    """Return how many steps there are up to the last that is valid in any sample.

    Parameters
    ----------
    lengths : ndarray
        See `valid_steps`.

    Returns
    -------
    n_timesteps : int
    """
    return int(lengths.max() if lengths.ndim == 1 else np.flatnonzero(lengths.any(axis=0))[-1] + 1)
