"""The parts of an ONNX graph, as they are written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


class Graph:
    """Nodes, constants, inputs and outputs, as they are written.

    Parameters
    ----------
    lengths : bool
        Whether there is an input of that name.
    """

    def __init__(self, lengths: bool) -> None:
        self.lengths = "lengths" if lengths else ""
        self.nodes: list = []
        self.constants: list = []
        self.inputs: list = []
        self.outputs: list = []

    def input(self, shape: Sequence[int | str]) -> str:
        """Declare X, and the lengths if there are any."""
        self.inputs.append(helper.make_tensor_value_info("X", TensorProto.FLOAT, shape))
        if self.lengths:
            info = helper.make_tensor_value_info(self.lengths, TensorProto.INT32, ["n_samples"])
            self.inputs.append(info)
        return "X"

    def output(self, name: str, dtype: Any, shape: Sequence[int | str]) -> None:
        """Declare an output."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def constant(self, value: Any, name: str | None = None) -> str:
        """Add an array, and return its name."""
        name = name or f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(
        self, op_type: str, *inputs: str | NDArray, out: str | Sequence[str] = "", **attributes: Any
    ) -> str:
        """Add a node and return the name of its first output; arrays among its inputs become constants."""
        name = f"{op_type}_{len(self.nodes)}"
        outputs = [out or name] if isinstance(out, str) else list(out)
        inputs = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        self.nodes.append(helper.make_node(op_type, inputs, outputs, name=name, **attributes))
        return outputs[0]
