"""PyTorch's recurrent layers, modules or state dicts, and the options and parameters in them.

PyTorch's names, shapes and gate order are ours, so that no number is moved: what is done here is to find the
layer among other entries, and its options in the shapes. PyTorch is never imported: a tensor is asked for its
array by methods of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

# torch.nn.RNNBase.mode -> cell
MODES = {"RNN_TANH": "rnn", "RNN_RELU": "rnn_relu", "LSTM": "lstm", "GRU": "gru"}
# number of gates -> the cells that the weights may be of, the likeliest first
CELLS_OF_GATES = {1: ("rnn", "rnn_relu"), 3: ("gru",), 4: ("lstm",)}
_ENTRY = re.compile(r"((?:.*\.)?)((?:weight|bias)_(?:ih|hh|hr)_l\d+(?:_reverse)?)", re.DOTALL)
# what weight_norm and other parametrizations store in place of a weight
_COMPUTED = re.compile(r"parametrizations\.|(weight|bias)_\w+_l\d+(_reverse)?_[gv]$")


def torch_names(num_layers: int, bias: bool, bidirectional: bool, proj_size: int = 0) -> list[str]:
    """Return the names of the parameters of a ``torch.nn`` recurrent layer, in its order."""
    kinds = ["weight_ih", "weight_hh", *["bias_ih", "bias_hh"] * bias, *["weight_hr"] * (proj_size > 0)]
    suffixes = ("", "_reverse")[: 1 + bidirectional]
    return [f"{kind}_l{k}{suffix}" for k in range(num_layers) for suffix in suffixes for kind in kinds]


def read_torch(
    source: Any, cell: str | None = None, prefix: str | None = None
) -> tuple[dict[str, Any], dict[str, NDArray]]:
    """Find out the options and parameters of a recurrent layer of PyTorch.

    Parameters
    ----------
    source : torch.nn.RNN, torch.nn.LSTM, torch.nn.GRU or mapping of str to tensor or array-like
        A module or a state dict.
    cell : str or None, default=None
        The cell; None is what the source tells.
    prefix : str or None, default=None
        What the names of a state dict begin with; None if there is but one such beginning.

    Returns
    -------
    options : dict
        Arguments of `numbarnn.Recurrent`. A state dict does not tell ``dropout``.
    parameters : dict of str to ndarray
        By the names of `torch_names`.

    Raises
    ------
    ValueError, TypeError
        If the source is none of these, ambiguous or incomplete, or `cell` is not the one of the weights.

    Examples
    --------
    >>> import numpy as np
    >>> from numbarnn.torch_weights import read_torch
    >>> weights = {"gru.weight_ih_l0": np.zeros((12, 3)), "gru.weight_hh_l0": np.zeros((12, 4))}
    >>> options, parameters = read_torch(weights)
    >>> options["cell"], options["input_size"], options["hidden_size"], options["bias"]
    ('gru', 3, 4, False)
    """
    if isinstance(source, Mapping):
        parameters = {name: _as_array(value) for name, value in _entries(source, prefix).items()}
        for name in ("weight_ih_l0", "weight_hh_l0"):
            if name not in parameters:
                raise ValueError(
                    f"source had no {name}; expected all weights of a recurrent layer{_hint(source)}"
                )
        cells, options = _options_of_shapes(parameters)
    elif getattr(source, "mode", None) in MODES:
        if prefix is not None:
            raise ValueError(f"prefix was {prefix!r}; expected None where source is a module")
        cells, options = (MODES[source.mode],), _options_of_module(source)
        names = _names_of(options)
        if lacking := next((name for name in names if not hasattr(source, name)), None):
            kind = f"{type(source).__module__}.{type(source).__name__}"
            raise TypeError(
                f"source was a {kind} without {lacking}; expected a torch.nn.RNN, LSTM or GRU: of quantised "
                "ones the module from which they were made"
            )
        parameters = {name: _as_array(getattr(source, name)) for name in names}
    else:
        raise TypeError(
            f"source was a {type(source).__name__}; expected a torch.nn.RNN, LSTM or GRU, or a state dict "
            "(of a larger model: pass the recurrent layer in it, or model.state_dict())"
        )
    if cell is not None and cell not in cells:
        raise ValueError(f"cell was {cell!r}; expected {' or '.join(cells)}, of which the weights are")
    double = any(array.dtype == np.float64 for array in parameters.values())
    options |= {"cell": cell or cells[0], "dtype": "float64" if double else "float32"}
    return options, parameters


def check_torch_options(layer: Any) -> None:
    """Raise ValueError for a `numbarnn.Recurrent` whose cell or options PyTorch does not have."""
    name = layer.cell.name
    if name not in MODES.values():
        raise ValueError(f"cell was {name!r}; expected one that PyTorch has: {', '.join(MODES.values())}")
    if layer.bidirectional and layer.merge != "concat":
        raise ValueError(f"merge was {layer.merge!r}; expected 'concat', as PyTorch merges directions")
    for option in ("residual", "zoneout"):
        value = getattr(layer, option)
        if np.any(value):
            raise ValueError(f"{option} was {value!r}; expected none: layers of PyTorch lack this option")


def _names_of(options: dict[str, Any]) -> list[str]:
    return torch_names(
        options["num_layers"], options["bias"], options["bidirectional"], options.get("proj_size", 0)
    )


def _as_array(value: Any) -> NDArray:
    """Return the array of a tensor or array-like; NumPy has no bfloat16, and we no float16."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() and value.element_size() < 4 else value).numpy()
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.name in ("bfloat16", "float16") else array


def _options_of_module(module: Any) -> dict[str, Any]:
    names = ("input_size", "hidden_size", "num_layers", "bias", "bidirectional", "dropout")
    options = {name: getattr(module, name) for name in names}
    proj_size = getattr(module, "proj_size", 0)
    return options | ({"proj_size": proj_size} if proj_size else {})


def _entries(source: Mapping[str, Any], prefix: str | None) -> dict[str, Any]:
    """Return the entries of the one recurrent layer, their names without the prefix."""
    layers: dict[str, dict[str, Any]] = {}
    for key, value in source.items():
        match = _ENTRY.fullmatch(key) if isinstance(key, str) else None
        if match:
            layers.setdefault(match[1], {})[match[2]] = value
    if not layers:
        expected = f"the weights of a recurrent layer{_hint(source)}"
        raise ValueError(f'source had no entry named like "weight_ih_l0"; expected {expected}')
    prefixes = ", ".join(map(repr, layers))
    if prefix is None:
        if len(layers) > 1:
            raise ValueError(f"source had several recurrent layers; expected prefix to be one of {prefixes}")
        return next(iter(layers.values()))
    for given in (prefix, f"{prefix}."):
        if given in layers:
            return layers[given]
    raise ValueError(f"prefix was {prefix!r}; expected one of {prefixes}")


def _hint(source: Mapping[str, Any]) -> str:
    """Say what to pass in place of a state dict in which weights are stored otherwise."""
    for key, value in source.items():
        if isinstance(value, Mapping):
            return f": pass source[{key!r}], which may be a state dict"
        if "_all_weight_values" in str(key):
            return ": pass those of the module that was quantised"
        if _COMPUTED.search(str(key)):
            return f": pass the module, which computes them from {key!r} and others"
    return ""


def _options_of_shapes(parameters: dict[str, NDArray]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the cells that the weights may be of, and the other options, which the shapes tell."""
    for name, array in parameters.items():
        n_axes = 2 if name.startswith("weight") else 1
        if array.ndim != n_axes or 0 in array.shape:
            expected = f"{n_axes} axes, none of length 0"
            raise ValueError(f"{name} in source had shape {array.shape}; expected {expected}")
    numbers = {name.removesuffix("_reverse").rpartition("_l")[2] for name in parameters}
    rows, input_size = parameters["weight_ih_l0"].shape
    hidden_size = parameters.get("weight_hr_l0", parameters["weight_hh_l0"]).shape[1]
    cells = CELLS_OF_GATES.get(rows // hidden_size, ())
    if rows % hidden_size or not cells:
        raise ValueError(
            f"weight_ih_l0 in source had {rows} rows for {hidden_size} hidden units; "
            "expected 1, 3 or 4 times as many"
        )
    options = {
        "input_size": input_size,
        "hidden_size": hidden_size,
        "num_layers": len(numbers),
        "bias": any(name.startswith("bias") for name in parameters),
        "bidirectional": any(name.endswith("_reverse") for name in parameters),
    }
    if "weight_hr_l0" in parameters:
        options["proj_size"] = len(parameters["weight_hr_l0"])
    expected = set(_names_of(options))
    if expected != set(parameters):
        missing, unknown = sorted(expected - set(parameters)), sorted(set(parameters) - expected)
        raise ValueError(f"source had missing entries {missing} and unknown entries {unknown}")
    return cells, options
