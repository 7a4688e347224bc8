"""Keras's recurrent layers: from arrays of weights or a ``.keras`` file, and back to arrays.

Of what a ``.keras`` file says about a layer,

* ``units``, ``use_bias``, ``reset_after`` and ``Bidirectional`` with every ``merge_mode`` are taken over
  (outputs of ``merge_mode=None`` stand side by side);
* so are the activations elu, hard_sigmoid, leaky_relu, linear, relu, sigmoid, softplus, softsign,
  sparse_sigmoid and tanh: layers with others than Keras's defaults become cells of
  `numbarnn.cells.general`, such as ``"lstm[sigmoid,relu,relu]"``, which may be slower;
* other activations and ``go_backwards=True`` are refused;
* ``return_sequences`` and ``return_state`` have no counterpart: `Recurrent.forward` returns every step and
  the final state, and what Keras returns without ``return_sequences`` is h of the final state. Of
  ``Bidirectional`` that has one for each direction, which are not merged: with ``merge_mode="sum"`` it is
  ``h[0] + h[1]``;
* masks are an argument of `Recurrent.forward`, and ``zero_output_for_mask=True`` is what it does: at steps
  that are left out outputs are 0, where Keras by default gives the output before it again (a warning tells
  of a layer with ``return_sequences`` behind Masking or Embedding). Final states are the same;
* ``dropout`` and ``recurrent_dropout``, which Keras applies to inputs and states, and in training alone, are
  left behind, as are initializers, regularizers, constraints, ``stateful``, ``unroll`` and dtype policies.

Keras's gates stand in the order i, f, c, o (LSTM; c is our g) and z, r, h (GRU; h is our n), its kernels are
the transposes of our weights, and its z keeps the old state as ours does.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from numbarnn.interop import keras_file
from numbarnn.interop.keras_file import StoredLayer, check_shapes, family_of
from numbarnn.recurrent import Recurrent

__all__ = ["from_keras", "read_keras", "to_keras_weights"]

# number of gates -> the cells that arrays may be of, Keras's default first
_CELLS = {1: ("rnn", "rnn_relu"), 3: ("gru", "gru_reset_before"), 4: ("lstm",)}
_SWAPPED = ("gru", "gru_reset_before")  # Keras has z before r


def from_keras(
    source: str | os.PathLike | Sequence[ArrayLike],
    layer: str | int | None = None,
    *,
    cell: str | None = None,
    **options: Any,
) -> Recurrent:
    """Make a `Recurrent` of one recurrent layer of Keras; the numbers that it gives are the layer's.

    Parameters
    ----------
    source : path or sequence of array-like
        A ``.keras`` file of a Sequential or Functional model; or arrays, as ``layer.get_weights()`` returns
        them, of a SimpleRNN, LSTM or GRU, or of Bidirectional around one.
    layer : str, int or None, default=None
        Which recurrent layer of a file: its name (``"inner/lstm"`` for one in a model in the model) or its
        number among them, from 0. None is the only one there is.
    cell : str or None, default=None
        For arrays: the cell. None is what their shapes tell, and Keras's default where they do not: ``"rnn"``
        rather than ``"rnn_relu"``, and for a GRU without bias ``"gru"`` rather than ``"gru_reset_before"``,
        which is ``reset_after=False``. One with other activations is told by its name, as
        ``"gru[hard_sigmoid,tanh]"``.
    **options
        Further arguments of `Recurrent`, such as ``dtype``, ``merge``, ``random_state``, ``n_jobs``.

    Returns
    -------
    Recurrent
        Of one layer; float64 where the weights are, otherwise float32 (for float16 and bfloat16 as well).

    Raises
    ------
    ValueError, TypeError
        If the file is damaged or no ``.keras`` file, or has no such layer; if arrays are not shaped as
        expected; if an option of the layer that changes its numbers is none that `Recurrent` has; if
        `options` has one that the weights tell.
    ImportError
        If h5py, which files need, is not installed.

    Notes
    -----
    Which options of a layer are taken over is listed in the documentation of this module.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.interop.keras import from_keras
    >>> kernel, recurrent_kernel, bias = np.ones((3, 16)), np.ones((4, 16)), np.zeros(16)
    >>> layer = from_keras([kernel, recurrent_kernel, bias], dtype="float32")
    >>> layer.cell.name, layer.input_size, layer.hidden_size
    ('lstm', 3, 4)
    """
    if isinstance(source, (str, os.PathLike)):
        if cell is not None:
            raise ValueError(f"cell was {cell!r}; expected None with a file, which tells it")
        layers, weights = keras_file.open_model(source)
        return _load(keras_file.find_layer(layers, layer), weights, options)
    if layer is not None:
        raise ValueError(f"layer was {layer!r}; expected None with arrays, which are of one layer")
    if not isinstance(source, Sequence):
        raise TypeError(f"source was a {type(source).__name__}; expected a path or a list of arrays")
    arrays = [np.asarray(array) for array in source]
    # NumPy has no bfloat16
    arrays = [array.astype(np.float32) if array.dtype.name == "bfloat16" else array for array in arrays]
    return _from_arrays(arrays, cell, options)


def read_keras(path: str | os.PathLike, **options: Any) -> dict[str, Recurrent]:
    """Make a `Recurrent` of each recurrent layer in a ``.keras`` file.

    Parameters
    ----------
    path : path
        A ``.keras`` file of a Sequential or Functional model.
    **options
        Further arguments of `Recurrent`, such as ``dtype`` or ``n_jobs``.

    Returns
    -------
    dict of str to Recurrent
        By the names of the layers, in the model's order. Whatever else the model has is left out.

    Raises
    ------
    ValueError, ImportError
        As for `from_keras`, about any of the layers.

    Examples
    --------
    >>> from numbarnn.interop.keras import read_keras
    >>> layers = read_keras("model.keras")  # doctest: +SKIP
    >>> hidden, _ = layers["lstm"].forward(x)  # doctest: +SKIP
    >>> output, _ = layers["lstm_1"].forward(hidden)  # doctest: +SKIP
    """
    layers, weights = keras_file.open_model(path)
    return {name: _load(layer, weights, options) for name, layer in layers.items()}


def to_keras_weights(recurrent: Recurrent, layer: int | None = None) -> list[NDArray]:
    """Return the arrays that ``set_weights`` of a recurrent Keras layer takes: the inverse of `from_keras`.

    Parameters
    ----------
    recurrent : Recurrent
        Of cell ``"rnn"``, ``"rnn_relu"``, ``"lstm"``, ``"gru"`` or ``"gru_reset_before"``, or of one that
        `from_keras` makes of other activations.
    layer : int or None, default=None
        Which of its layers, from 0: Keras has a layer object for each. None is the only one there is.

    Returns
    -------
    list of ndarray
        ``kernel`` (n_inputs, gates * hidden_size), ``recurrent_kernel`` (hidden_size, gates * hidden_size)
        and, if there is one, ``bias``: (2, gates * hidden_size) for ``"gru"``, otherwise
        (gates * hidden_size,), the sum of both of ours. The same again for a second direction.

    Raises
    ------
    ValueError, TypeError
        If it is no `Recurrent`, Keras has no such cell, no option ``residual``, ``zoneout`` or ``proj_size``
        that is in use, or there is no such layer.

    Examples
    --------
    >>> from numbarnn import Recurrent
    >>> from numbarnn.interop.keras import to_keras_weights
    >>> [array.shape for array in to_keras_weights(Recurrent("gru", 3, 4))]
    [(3, 12), (4, 12), (2, 12)]
    """
    if not isinstance(recurrent, Recurrent):
        raise TypeError(f"recurrent was a {type(recurrent).__name__}; expected a Recurrent")
    cell, n_layers = recurrent.cell.name, recurrent.num_layers
    _check_can_go(recurrent)
    if layer is None and n_layers == 1:
        layer = 0
    if isinstance(layer, bool) or not isinstance(layer, int | np.integer) or not 0 <= layer < n_layers:
        raise ValueError(f"layer was {layer!r}; expected a number from 0 to {n_layers - 1}")
    arrays, parameters = [], recurrent.parameters
    for suffix in (f"l{layer}", f"l{layer}_reverse")[: 1 + recurrent.bidirectional]:
        arrays += [parameters[f"{kind}_{suffix}"].T for kind in ("weight_ih", "weight_hh")]
        if recurrent.bias:
            both = np.stack([parameters[f"bias_ih_{suffix}"], parameters[f"bias_hh_{suffix}"]])
            arrays.append(both if family_of(cell) == "gru" else both.sum(axis=0))
    return [_exchange_gates(array, cell) for array in arrays]


def _check_can_go(recurrent: Recurrent) -> None:
    """Refuse a cell and options that Keras does not have."""
    cell, ours = recurrent.cell.name, keras_file.ACTIVATIONS.values()
    families = [name for names in _CELLS.values() for name in names]
    named = {keras_file.name_cell(*each) for each in product(families, ours, ours)}
    if cell not in families and cell not in named:
        raise ValueError(
            f"cell was {cell!r}; expected one that Keras has: {', '.join(families)}, or one of these with "
            "activations as from_keras names them"
        )
    for name in ("residual", "zoneout", "proj_size"):
        value = getattr(recurrent, name)
        if np.any(value):
            raise ValueError(f"{name} was {value!r}; expected none: layers of Keras lack this option")


# ------------------------------------------------------------------ arrays


def _from_arrays(arrays: list[NDArray], cell: str | None, options: dict[str, Any]) -> Recurrent:
    if len(arrays) not in (2, 3, 4, 6):
        raise ValueError(
            f"source was {len(arrays)} arrays; expected a kernel, a recurrent kernel and perhaps a bias, "
            "or twice these for a Bidirectional layer"
        )
    recurrent_kernel, bias = arrays[1], len(arrays) % 3 == 0
    if recurrent_kernel.ndim != 2 or 0 in recurrent_kernel.shape:
        shape = recurrent_kernel.shape
        raise ValueError(f"source[1] had shape {shape}; expected (hidden_size, gates * hidden_size)")
    hidden_size, columns = recurrent_kernel.shape
    cells = _CELLS.get(columns // hidden_size, ())
    if bias and len(cells) > 1 and "gru" in cells:
        cells = cells[:1] if arrays[2].ndim == 2 else cells[1:]
    if not cells or columns % hidden_size:
        raise ValueError(
            f"source[1] had shape {recurrent_kernel.shape}; expected 1, 3 or 4 times as many columns as rows"
        )
    if cell is not None and family_of(cell) not in cells:
        raise ValueError(f"cell was {cell!r}; expected {' or '.join(cells)}, of which the arrays are")
    cell = cell or cells[0]
    names = [f"source[{k}]" for k in range(len(arrays))]
    check_shapes(names, arrays, cell, hidden_size, bias)
    return _build(arrays, cell, bias, options)


def _load(layer: StoredLayer, weights: bytes, options: dict[str, Any]) -> Recurrent:
    """Make the layer that a file describes; what is to be refused is so before its arrays are read."""
    cell, units, bias, merge = keras_file.describe(layer)
    if keras_file.repeats_masked(layer):
        warnings.warn(
            f'layer "{layer.name}" stands behind "{layer.masking}" with zero_output_for_mask=False: at '
            "masked steps Keras gives the output before it again, and forward(x, mask=...) gives 0",
            UserWarning,
            stacklevel=3,
        )
    if merge not in (None, "concat"):
        options = {"merge": merge, **options}
    return _build(keras_file.read_arrays(layer, weights, cell, units, bias), cell, bias, options)


def _build(arrays: list[NDArray], cell: str, bias: bool, options: dict[str, Any]) -> Recurrent:
    """Make a layer of checked arrays of one direction or of two."""
    for name in ("cell", "input_size", "hidden_size", "num_layers", "bias", "bidirectional"):
        if name in options:
            raise TypeError(f"{name} was {options[name]!r}; expected none: the weights tell it")
    double = any(array.dtype == np.float64 for array in arrays)
    each = 2 + bias
    found = {"bias": bias, "bidirectional": len(arrays) > each, "dtype": "float64" if double else "float32"}
    layer = Recurrent(cell, arrays[0].shape[0], arrays[1].shape[0], **(found | options))
    arrays = [_exchange_gates(array, cell) for array in arrays]
    parameters = {}
    for k, suffix in enumerate(("l0", "l0_reverse")[: len(arrays) // each]):
        kernel, recurrent_kernel, *biases = arrays[k * each : (k + 1) * each]
        parameters |= {f"weight_ih_{suffix}": kernel.T, f"weight_hh_{suffix}": recurrent_kernel.T}
        for array in biases:
            bias_ih, bias_hh = array if family_of(cell) == "gru" else (array, np.zeros_like(array))
            parameters |= {f"bias_ih_{suffix}": bias_ih, f"bias_hh_{suffix}": bias_hh}
    layer.load_parameters(parameters)
    return layer


def _exchange_gates(array: NDArray, cell: str) -> NDArray:
    """Copy an array whose last axis is gates from Keras's order into ours or back, which is the same."""
    if family_of(cell) not in _SWAPPED:
        return array.copy()
    first, second, third = np.split(array, 3, axis=-1)
    return np.concatenate([second, first, third], axis=-1)
