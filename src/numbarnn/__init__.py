"""Recurrent neural networks (RNN, LSTM, GRU) for the CPU, compiled by Numba.

The public names below are imported on first use, so that ``import numbarnn`` loads neither Numba nor
scikit-learn.

Examples
--------
>>> import numbarnn
>>> "RNNRegressor" in dir(numbarnn)
True
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import cells, datasets
    from .cells import check_cell, register_cell
    from .estimators import RNNClassifier, RNNRegressor
    from .forecasting import RNNForecaster
    from .interop.onnx import to_onnx
    from .recurrent import Recurrent
    from .serialization import load, save

__version__ = "0.1.0"

__all__ = [
    "RNNClassifier",
    "RNNForecaster",
    "RNNRegressor",
    "Recurrent",
    "cells",
    "check_cell",
    "datasets",
    "load",
    "register_cell",
    "save",
    "to_onnx",
]

_HOME = {
    "RNNClassifier": "estimators",
    "RNNForecaster": "forecasting",
    "RNNRegressor": "estimators",
    "Recurrent": "recurrent",
    "check_cell": "cells",
    "load": "serialization",
    "register_cell": "cells",
    "save": "serialization",
    "to_onnx": "interop.onnx",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _HOME:
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    else:
        value = import_module(f".{name}", __name__)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, also those that are not imported yet."""
    return sorted({*globals(), *__all__})
