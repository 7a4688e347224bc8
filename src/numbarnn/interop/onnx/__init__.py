"""ONNX in and out: `Backend` runs models of recurrent operators, `to_onnx` writes fitted estimators.

`Backend` needs the package ``onnx`` when it is imported, `to_onnx` when it is called:
``pip install "numbarnn[onnx]"``.

Examples
--------
>>> import numpy as np
>>> from onnx import helper
>>> from numbarnn.interop.onnx import Backend
>>> node = helper.make_node("RNN", ["X", "W", "R"], ["Y", "Y_h"], hidden_size=2)
>>> x, w, r = np.ones((5, 1, 3), "f"), np.ones((1, 2, 3), "f"), np.zeros((1, 2, 2), "f")  # X: step by step
>>> y, y_h = Backend.run_node(node, [x, w, r])
>>> y.shape, y_h.shape, bool(np.allclose(y_h, np.tanh(3)))
((5, 1, 1, 2), (1, 1, 2), True)
"""

from __future__ import annotations

from typing import Any

from numbarnn.interop.onnx.export import to_onnx

__all__ = ["Backend", "BackendRep", "to_onnx"]


def __getattr__(name: str) -> Any:
    """Import what derives from onnx's own classes when it is first asked for."""
    if name not in ("Backend", "BackendRep"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from numbarnn.interop.onnx import backend

    return getattr(backend, name)
